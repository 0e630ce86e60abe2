//! Frames of HTTP/2, written by hand.

use tokio::io::{AsyncRead, AsyncReadExt as _};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// What a client says first.
pub fn preface() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat()
}

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The header block of a call to this path.
pub fn call(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST and http, from the static table
    for (name, value) in [(&[0x04][..], path), (&[0x01], "etcd"), (&[0x0f, 0x10], "application/grpc")] {
        // Of the static table only the name, without Huffman codes, kept in no table.
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend(value.as_bytes());
    }
    block
}

/// A frame that was read.
pub struct Read {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The next frame, until the connection ends.
pub async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Option<Read> {
    let mut header = [0; 9];
    reader.read_exact(&mut header).await.ok()?;
    let [a, b, c, kind, flags, stream @ ..] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    reader.read_exact(&mut payload).await.ok()?;
    Some(Read { kind, flags, stream: u32::from_be_bytes(stream), payload })
}
