//! What a mirror is told.

use std::time::Duration;

use bytes::Bytes;
use forebay_proto::KeyRange;

pub use super::credentials::Credentials;

/// The configuration of a mirror.
#[derive(Clone, Debug)]
pub struct MirrorConfig {
    /// What is mirrored if all keys do not fit: those with one of these prefixes.
    pub prefixes: Vec<Bytes>,
    /// What the mirror may take in memory, its history included, nearly. Too little sends everything to the upstream.
    pub max_bytes: u64,
    /// The upstream's user that lists and watches; it needs to read what is mirrored. Without one there is no mirror
    /// while the upstream has auth enabled.
    pub user: Option<Credentials>,
    /// Whether the upstream may take calls without a token for a user's, because the gateway shows it a certificate with
    /// a common name. Then rights are asked for in the name of those who have no token too.
    pub has_common_name: bool,
    /// How many revisions of history are kept at most. More let clients resume, and read the past, without the upstream.
    pub window_revisions: u64,
    /// How many revisions of history the mirror begins with, where the upstream still has them. More let clients that
    /// come back after a restart of the gateway resume without the upstream, which has to tell all of them once.
    pub past_revisions: u64,
    /// The upstream's `--max-request-bytes`, above which responses to watchers are split if they ask for it.
    pub max_request_bytes: usize,
    /// The upstream's `--watch-progress-notify-interval`.
    pub progress_interval: Duration,
}

/// The default of [`MirrorConfig::max_bytes`].
pub const MAX_BYTES: u64 = 1 << 30;

impl Default for MirrorConfig {
    fn default() -> MirrorConfig {
        MirrorConfig {
            prefixes: Vec::new(),
            max_bytes: MAX_BYTES,
            user: None,
            has_common_name: false,
            window_revisions: 100_000,
            past_revisions: 5_000,
            max_request_bytes: 1536 << 10,
            progress_interval: Duration::from_secs(600),
        }
    }
}

impl MirrorConfig {
    /// The part of the memory that history may take.
    pub(super) fn window_bytes(&self) -> u64 {
        self.max_bytes / 4
    }
}

/// The keys with a prefix.
pub(super) fn with_prefix(prefix: &Bytes) -> KeyRange {
    let Some(last) = prefix.iter().rposition(|byte| *byte < 0xff) else { return KeyRange::From(prefix.clone()) };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    KeyRange::Range(prefix.clone(), end.into())
}

/// The pair of `key` and `range_end` that names a range in a request.
pub(super) fn pair(range: &KeyRange) -> (Bytes, Bytes) {
    match range.clone() {
        KeyRange::Key(key) => (key, Bytes::new()),
        KeyRange::Range(key, end) => (key, end),
        KeyRange::From(key) => (key, Bytes::from_static(b"\0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_range() {
        let range = |prefix: &'static [u8]| with_prefix(&Bytes::from_static(prefix));
        assert_eq!(range(b"a/"), KeyRange::Range(Bytes::from_static(b"a/"), Bytes::from_static(b"a0")));
        assert_eq!(range(b"a\xff"), KeyRange::Range(Bytes::from_static(b"a\xff"), Bytes::from_static(b"b")));
        assert_eq!(range(b"\xff\xff"), KeyRange::From(Bytes::from_static(b"\xff\xff")));
        assert_eq!(range(b""), KeyRange::all());
    }
}
