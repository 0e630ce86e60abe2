//! Frames of HTTP/2 that cost us and mean nothing.
//!
//! Pings, settings, window updates, resets and empty data are each answered or worked off by the library, as fast as
//! they come. An honest client sends them along with what it gets from us; one that floods sends nothing else. So
//! their bytes fill a bucket that empties with time and with what we send, and a connection whose bucket runs over is
//! ended.

use tokio::time::Instant;

/// What a connection may owe: some twenty thousand frames at once.
const BUCKET: u64 = 256 << 10;
/// What it is forgiven each second: a few hundred frames.
const FORGIVEN_PER_SECOND: u64 = 4 << 10;
/// Bytes of ours that make up for one byte of these. An answer to a ping is as long as the ping, so it must be more
/// than one.
const SENT_PER_BYTE: u64 = 2;

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Follows the frames that a client sends, without keeping them.
#[derive(Debug)]
pub(super) struct FrameMeter {
    header: [u8; HEADER],
    header_len: usize,
    /// Bytes of the present frame that are still to come.
    remaining: usize,
    owed: u64,
    forgiven_at: Instant,
}

impl FrameMeter {
    pub(super) fn new(now: Instant) -> FrameMeter {
        FrameMeter { header: [0; HEADER], header_len: 0, remaining: 0, owed: 0, forgiven_at: now }
    }

    /// Takes note of what came in; false once it is a flood.
    pub(super) fn received(&mut self, mut bytes: &[u8], now: Instant) -> bool {
        while !bytes.is_empty() {
            let skipped = self.remaining.min(bytes.len());
            self.remaining -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER - self.header_len).min(bytes.len());
            self.header[self.header_len..][..taken].copy_from_slice(&bytes[..taken]);
            self.header_len += taken;
            bytes = &bytes[taken..];
            if self.header_len == HEADER {
                self.frame();
            }
        }
        if self.owed > BUCKET {
            let forgiven =
                now.saturating_duration_since(self.forgiven_at).as_millis() * u128::from(FORGIVEN_PER_SECOND);
            self.owed = self.owed.saturating_sub(u64::try_from(forgiven / 1000).unwrap_or(u64::MAX));
            self.forgiven_at = now;
        }
        self.owed <= BUCKET
    }

    /// Takes note of what went out.
    pub(super) fn sent(&mut self, len: usize) {
        self.owed = self.owed.saturating_sub(len as u64 / SENT_PER_BYTE);
    }

    fn frame(&mut self) {
        let [a, b, c, kind, ..] = self.header;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        self.header_len = 0;
        self.remaining = len;
        let says_something = kind == HEADERS || (kind == DATA && len > 0);
        if !says_something {
            self.owed += (HEADER + len) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(len).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + len, 7);
        frame
    }

    /// How many such frames are taken at once.
    fn taken(kind: u8, len: usize, sent_each: usize) -> usize {
        let now = Instant::now();
        let mut meter = FrameMeter::new(now);
        (0..100_000)
            .take_while(|_| {
                let goes_on = meter.received(&frame(kind, len), now);
                meter.sent(sent_each);
                goes_on
            })
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_say_nothing_have_a_bound_and_others_have_none() {
        for (kind, len) in [(DATA, 0), (2, 5), (3, 4), (4, 0), (6, 8), (8, 4), (9, 100), (77, 0)] {
            let taken = taken(kind, len, 0);
            assert!((2_000..30_000).contains(&taken), "{taken} of kind {kind}");
        }
        assert!(taken(6, 8, HEADER + 8) < 40_000, "an answered ping is still a ping");
        assert_eq!(taken(HEADERS, 50, 0), 100_000);
        assert_eq!(taken(DATA, 50, 0), 100_000);
        assert_eq!(taken(8, 4, 100), 100_000, "window updates for what we send");
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_every_second_is_borne_for_ever() {
        let start = Instant::now();
        let mut meter = FrameMeter::new(start);
        for second in 0..1_000_000 {
            assert!(meter.received(&frame(6, 8), start + Duration::from_secs(second)), "after {second} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_told_apart_however_they_are_cut() {
        let now = Instant::now();
        let bytes: Vec<u8> = [frame(DATA, 40), frame(6, 8), frame(HEADERS, 3), frame(4, 0)].concat();
        for size in 1..bytes.len() {
            let mut meter = FrameMeter::new(now);
            for piece in bytes.chunks(size) {
                assert!(meter.received(piece, now));
            }
            assert_eq!(meter.owed, 17 + 9, "pieces of {size}");
        }
    }
}
