//! Frames of HTTP/2 that cost us and mean nothing.
//!
//! Pings, settings, window updates, resets and empty data are each answered or worked off by the library, as fast as
//! they come. An honest client sends them along with what it gets from us; one that floods sends nothing else. So
//! their bytes fill a bucket that empties with time and with what we send, and a connection whose bucket runs over is
//! ended. So does every stream that is refused because too many are open: a client is told how many there may be.
//!
//! Beside that, grpc-go's rule for clients that ping to see whether we are there: whoever does so too often three times
//! without getting anything in between is told, and ended. Other than there, it does not matter whether a call is open.

use std::time::Duration;

use tokio::time::Instant;

/// What a connection may owe: some twenty thousand frames at once.
const BUCKET: u64 = 256 << 10;
/// What it is forgiven each second: a few hundred frames.
const FORGIVEN_PER_SECOND: u64 = 4 << 10;
/// Bytes of ours that make up for one byte of these. An answer to a ping is as long as the ping, so it must be more
/// than one.
const SENT_PER_BYTE: u64 = 2;

/// What a refused stream counts as: a thousand at once are borne, of a client that has not heard yet how many there may
/// be.
const REFUSED: u64 = 256;

/// Pings that come too early and are borne, until something is sent.
const STRIKES: u8 = 2;

const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const ACK: u8 = 1;
/// The bytes of a reason.
const REASON: usize = 4;
/// Why a stream is reset that there is no room for.
const REFUSED_STREAM: [u8; REASON] = [0, 0, 0, 7];

/// What ends a connection that pings too often: GOAWAY, to try again more calmly.
pub(super) const TOO_MANY_PINGS: &[u8] = b"\0\0\x16\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\x0btoo_many_pings";

/// Tells frames apart in a stream of bytes, without keeping them.
#[derive(Debug, Default)]
struct Walker {
    /// The present frame's header, and if it is a reset its reason.
    head: [u8; HEADER + REASON],
    head_len: usize,
    /// Bytes of the present frame that are still to come.
    remaining: usize,
}

/// What is seen of a frame.
struct Seen {
    kind: u8,
    flags: u8,
    len: usize,
    /// Resets a stream that there is no room for.
    refuses: bool,
}

impl Walker {
    /// Calls `frame` with each frame whose head ends here.
    fn walk(&mut self, mut bytes: &[u8], mut frame: impl FnMut(Seen)) {
        while !bytes.is_empty() {
            let skipped = self.remaining.min(bytes.len());
            self.remaining -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.head_wanted() - self.head_len).min(bytes.len());
            self.head[self.head_len..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_len += taken;
            bytes = &bytes[taken..];
            if self.head_len == self.head_wanted() {
                let (reason, kind, flags, len) =
                    (&self.head[HEADER..self.head_len], self.head[3], self.head[4], self.len());
                self.remaining = len - reason.len();
                let refuses = *reason == REFUSED_STREAM;
                self.head_len = 0;
                frame(Seen { kind, flags, len, refuses });
            }
        }
    }

    /// How long the head is, as far as it is known.
    fn head_wanted(&self) -> usize {
        let is_reset = self.head_len >= HEADER && self.head[3] == RST_STREAM && self.len() == REASON;
        if is_reset { HEADER + REASON } else { HEADER }
    }

    /// The length that the header states.
    fn len(&self) -> usize {
        u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize
    }

    fn is_between_frames(&self) -> bool {
        self.head_len == 0 && self.remaining == 0
    }
}

/// Follows the frames of a connection.
#[derive(Debug)]
pub(super) struct FrameMeter {
    incoming: Walker,
    outgoing: Walker,
    owed: u64,
    forgiven_at: Instant,
    pings: Pings,
}

#[derive(Debug)]
struct Pings {
    /// The least time from one to the next.
    apart: Duration,
    last: Option<Instant>,
    strikes: u8,
}

impl Pings {
    fn came(&mut self, now: Instant) {
        let is_early = self.last.is_some_and(|last| now < last + self.apart);
        self.strikes = self.strikes.saturating_add(u8::from(is_early));
        self.last = Some(now);
    }
}

impl FrameMeter {
    /// Of a connection on which pings are to be so far `apart`.
    pub(super) fn new(now: Instant, apart: Duration) -> FrameMeter {
        let pings = Pings { apart, last: None, strikes: 0 };
        FrameMeter { incoming: Walker::default(), outgoing: Walker::default(), owed: 0, forgiven_at: now, pings }
    }

    /// Takes note of what came in; false once it is a flood.
    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) -> bool {
        let FrameMeter { incoming, owed, pings, .. } = self;
        incoming.walk(bytes, |Seen { kind, flags, len, .. }| {
            let says_something = kind == HEADERS || (kind == DATA && len > 0);
            if !says_something {
                *owed += (HEADER + len) as u64;
            }
            if kind == PING && flags & ACK == 0 {
                pings.came(now);
            }
        });
        if self.owed > BUCKET {
            let forgiven =
                now.saturating_duration_since(self.forgiven_at).as_millis() * u128::from(FORGIVEN_PER_SECOND);
            self.owed = self.owed.saturating_sub(u64::try_from(forgiven / 1000).unwrap_or(u64::MAX));
            self.forgiven_at = now;
        }
        self.owed <= BUCKET
    }

    /// Whether the client pings too often.
    pub(super) fn pings_too_often(&self) -> bool {
        self.pings.strikes > STRIKES
    }

    /// Takes note of what went out.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let FrameMeter { outgoing, owed, pings, .. } = self;
        *owed = owed.saturating_sub(bytes.len() as u64 / SENT_PER_BYTE);
        outgoing.walk(bytes, |Seen { kind, refuses, .. }| {
            if matches!(kind, HEADERS | DATA) {
                pings.strikes = 0;
            }
            *owed += if refuses { REFUSED } else { 0 };
        });
    }

    /// Whether a frame of ours may be put here.
    pub(super) fn is_between_frames(&self) -> bool {
        self.outgoing.is_between_frames()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_TOO_OFTEN: Duration = Duration::ZERO;

    fn frame(kind: u8, len: usize) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(len).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + len, 7);
        frame
    }

    /// How many such frames are taken at once.
    fn taken(kind: u8, len: usize, sent_each: usize) -> usize {
        let now = Instant::now();
        let mut meter = FrameMeter::new(now, NEVER_TOO_OFTEN);
        (0..100_000)
            .take_while(|_| {
                let goes_on = meter.received(&frame(kind, len), now);
                meter.sent(&vec![0; sent_each]);
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
    async fn streams_that_are_refused_have_a_bound_and_those_that_end_otherwise_have_none() {
        let now = Instant::now();
        let reset = |reason: u8| [&[0, 0, 4, RST_STREAM, 0, 0, 0, 0, 1], &[0, 0, 0, reason][..]].concat();
        for (reason, most) in [(7, 1_100), (0, 100_000), (8, 100_000)] {
            for size in [1, 10, 13] {
                let mut meter = FrameMeter::new(now, NEVER_TOO_OFTEN);
                let taken = (0..100_000).take_while(|_| {
                    reset(reason).chunks(size).for_each(|piece| meter.sent(piece));
                    meter.received(&frame(HEADERS, 50), now)
                });
                let taken = taken.count();
                assert!(taken <= most && taken > most * 9 / 10, "{taken} with reason {reason}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_every_second_is_borne_for_ever() {
        let start = Instant::now();
        let mut meter = FrameMeter::new(start, Duration::from_secs(1));
        for second in 0..1_000_000 {
            assert!(meter.received(&frame(6, 8), start + Duration::from_secs(second)), "after {second} s");
        }
        assert!(!meter.pings_too_often());
    }

    #[tokio::test(start_paused = true)]
    async fn pings_that_come_too_early_are_borne_twice_and_forgotten_with_an_answer() {
        let start = Instant::now();
        let mut meter = FrameMeter::new(start, Duration::from_secs(5));
        let mut ping = |second: u64, flags: u8, answer: Option<u8>| {
            let mut ping = frame(PING, 8);
            ping[4] = flags;
            meter.received(&ping, start + Duration::from_secs(second));
            answer.into_iter().for_each(|kind| meter.sent(&frame(kind, 20)));
            meter.pings_too_often()
        };
        // The first, two that are early, and one that is not.
        assert!(!ping(0, 0, None) && !ping(4, 0, None) && !ping(8, 0, None) && !ping(13, 0, None));
        // Answers to our own pings are none; and what we answer to theirs says nothing.
        assert!(!ping(14, ACK, None) && !ping(14, ACK, None) && !ping(14, ACK, Some(PING)));
        assert!(ping(15, 0, None));
        assert!(!ping(16, ACK, Some(HEADERS)));
        assert!(!ping(17, 0, None) && !ping(18, 0, Some(DATA)));
        assert!(!ping(19, 0, None) && !ping(20, 0, None) && ping(21, 0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_are_told_apart_however_they_are_cut() {
        let now = Instant::now();
        let bytes: Vec<u8> = [frame(DATA, 40), frame(6, 8), frame(HEADERS, 3), frame(4, 0), frame(3, 4)].concat();
        for size in 1..bytes.len() {
            let mut meter = FrameMeter::new(now, NEVER_TOO_OFTEN);
            for piece in bytes.chunks(size) {
                assert!(meter.received(piece, now));
            }
            assert_eq!(meter.owed, 17 + 9 + 13, "pieces of {size}");
            bytes.chunks(size).for_each(|piece| meter.sent(piece));
            assert!(meter.is_between_frames());
        }
    }
}
