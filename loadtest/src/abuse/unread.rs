//! Calls by hand whose answers nobody reads.

use tokio::io::AsyncWriteExt as _;

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, call, frame, preface};
use crate::client::{Stream, Target};

/// A window of one byte for each stream: enough for a server to begin with an answer.
const A_BYTE: [u8; 6] = [0, 4, 0, 0, 0, 1];

/// Makes a call so often on a connection, leaving a window of a byte for each answer and one without end for the
/// connection. Nothing is read of it. With `ends`, the request ends behind its message.
pub async fn unread(target: &Target, calls: u32, path: &str, message: &[u8], ends: bool) -> anyhow::Result<Stream> {
    let mut stream = target.dial_ready().await?;
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len())?.to_be_bytes());
    framed.extend(message);
    let begin = [
        preface(),
        frame(SETTINGS, 0, 0, &A_BYTE),
        frame(WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes()),
    ];
    let end = if ends { END_STREAM } else { 0 };
    let calls = (0..calls).flat_map(|n| {
        let stream = 2 * n + 1;
        [frame(HEADERS, END_HEADERS, stream, &call(path)), frame(DATA, end, stream, &framed)]
    });
    let all: Vec<u8> = begin.into_iter().chain(calls).flatten().collect();
    stream.write_all(&all).await?;
    stream.flush().await?;
    Ok(stream)
}
