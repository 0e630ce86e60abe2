//! Which keys a request names.

use bytes::Bytes;

/// The keys of a `key` and `range_end` pair, decoded once.
///
/// Authorisation, evaluation and watches all work on this type, so that they cannot disagree about
/// what a pair means (etcd's GHSA-xg4h-6gfc-h4m8 came from deciding it twice).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyRange {
    /// One key.
    Key(Bytes),
    /// Every key `>= .0` and `< .1`; empty when the end is not above the start.
    Range(Bytes, Bytes),
    /// Every key `>= .0`.
    From(Bytes),
}

impl KeyRange {
    /// Decodes a pair by etcd's rules: no end means one key, an end of one zero byte means no end.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use forebay_proto::KeyRange;
    /// let from = KeyRange::new(Bytes::from_static(b"a"), Bytes::from_static(b"\0"));
    /// assert!(from.contains(b"zzz") && !from.contains(b"A"));
    /// ```
    pub fn new(key: Bytes, range_end: Bytes) -> KeyRange {
        match &range_end[..] {
            [] => KeyRange::Key(key),
            [0] => KeyRange::From(key),
            _ => KeyRange::Range(key, range_end),
        }
    }

    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange::From(Bytes::new())
    }

    /// The lowest key that can belong to the range.
    pub fn start(&self) -> &[u8] {
        match self {
            KeyRange::Key(key) | KeyRange::Range(key, _) | KeyRange::From(key) => key,
        }
    }

    /// Whether the range holds this key.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Key(own) => own == key,
            KeyRange::Range(start, end) => &start[..] <= key && key < &end[..],
            KeyRange::From(start) => &start[..] <= key,
        }
    }

    /// Whether `key` lies behind every key of the range. Together with [`KeyRange::start`] this
    /// bounds a scan: begin at the start, stop at the first key that is past the end.
    pub fn is_past(&self, key: &[u8]) -> bool {
        match self {
            KeyRange::Key(own) => key > &own[..],
            KeyRange::Range(_, end) => key >= &end[..],
            KeyRange::From(_) => false,
        }
    }

    /// Whether no key can belong to the range.
    pub fn is_empty(&self) -> bool {
        matches!(self, KeyRange::Range(start, end) if start >= end)
    }

    /// Whether some key belongs to both ranges.
    pub fn overlaps(&self, other: &KeyRange) -> bool {
        let begins_before_end = |a: &KeyRange, b: &KeyRange| !b.is_past(a.start());
        !self.is_empty() && !other.is_empty() && begins_before_end(self, other) && begins_before_end(other, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::new(Bytes::from_static(key), Bytes::from_static(end))
    }

    #[test]
    fn an_end_of_one_zero_byte_is_no_end() {
        assert_eq!(pair(b"a", b"\0"), KeyRange::From(Bytes::from_static(b"a")));
        assert_eq!(pair(b"a", b"\0\0"), KeyRange::Range(Bytes::from_static(b"a"), Bytes::from_static(b"\0\0")));
    }

    #[test]
    fn a_range_holds_its_start_and_not_its_end() {
        let range = pair(b"b", b"d");
        let held: Vec<bool> = [b"a", b"b", b"c", b"d"].iter().map(|key| range.contains(*key)).collect();
        assert_eq!(held, [false, true, true, false]);
        assert!(range.is_past(b"d") && !range.is_past(b"c"));
        assert!(pair(b"d", b"b").is_empty() && pair(b"d", b"d").is_empty());
    }

    #[test]
    fn overlap_is_symmetric_and_agrees_with_membership() {
        let ranges = [pair(b"b", b""), pair(b"a", b"c"), pair(b"c", b"\0"), pair(b"c", b"d"), pair(b"d", b"b")];
        let keys: [&[u8]; 9] = [b"", b"a", b"a\0", b"b", b"b\0", b"c", b"c\0", b"d", b"e"];
        for a in &ranges {
            for b in &ranges {
                let shared = keys.iter().any(|key| a.contains(key) && b.contains(key));
                assert_eq!(a.overlaps(b), shared, "{a:?} {b:?}");
                assert_eq!(a.overlaps(b), b.overlaps(a));
            }
        }
    }
}
