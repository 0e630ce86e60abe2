//! Which keys a mirror has.

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_proto::KeyRange;

/// Sorted, disjoint ranges of keys, as few as there can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Invariant: none is empty, and between two there are keys that belong to neither.
    spans: Box<[Span]>,
}

/// `start <= key < end`; without an end every key from the start on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

impl Ranges {
    /// The keys of all these ranges, which may overlap.
    ///
    /// ```
    /// use forebay_keyspace::mirror::Ranges;
    /// use forebay_proto::KeyRange;
    /// let range = |start: &'static str, end: &'static str| KeyRange::new(start.into(), end.into());
    /// let ranges = Ranges::new([range("c", "e"), range("a", "b"), range("b", "c")]);
    /// assert!(ranges.covers(&range("a", "e")), "what is adjacent is joined");
    /// assert!(!ranges.covers(&range("a", "\0")));
    /// ```
    pub fn new(ranges: impl IntoIterator<Item = KeyRange>) -> Ranges {
        let mut spans: Vec<Span> = ranges.into_iter().filter_map(Span::of).collect();
        spans.sort_unstable_by(|a, b| a.start.cmp(&b.start));
        let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match joined.last_mut() {
                Some(last) if last.reaches(&span.start) => last.end = later(last.end.take(), span.end),
                _ => joined.push(span),
            }
        }
        Ranges { spans: joined.into() }
    }

    /// Every key.
    pub fn all() -> Ranges {
        Ranges::new([KeyRange::all()])
    }

    /// Whether every key there can be belongs to them.
    pub fn is_all(&self) -> bool {
        self.covers(&KeyRange::all())
    }

    /// Whether a key belongs to them.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.before(key).is_some_and(|span| span.end.as_ref().is_none_or(|end| key < &end[..]))
    }

    /// Whether every key of a range belongs to them, those included that do not exist. An empty range is covered by any.
    pub fn covers(&self, range: &KeyRange) -> bool {
        let Some(asked) = Span::of(range.clone()) else { return true };
        self.before(&asked.start).is_some_and(|span| match (&span.end, &asked.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(asked)) => asked <= end,
        })
    }

    /// Each of them as a request names it, ascending.
    pub fn iter(&self) -> impl Iterator<Item = KeyRange> {
        self.spans.iter().map(|Span { start, end }| match end {
            None => KeyRange::From(start.clone()),
            Some(end) => KeyRange::Range(start.clone(), end.clone()),
        })
    }

    /// The last span that begins at or before the key.
    fn before(&self, key: &[u8]) -> Option<&Span> {
        let behind = self.spans.partition_point(|span| span.start[..] <= *key);
        self.spans.get(behind.checked_sub(1)?)
    }
}

impl Span {
    /// The span of a range, unless no key can belong to that. There is no empty key: a range from there begins at the
    /// first key there can be.
    fn of(range: KeyRange) -> Option<Span> {
        let first = |start: Bytes| if start.is_empty() { Bytes::from_static(b"\0") } else { start };
        let (start, end) = match range {
            KeyRange::Key(key) => {
                let mut end = BytesMut::with_capacity(key.len() + 1);
                end.put_slice(&key);
                end.put_u8(0);
                (key, Some(end.freeze()))
            }
            KeyRange::Range(start, end) => (first(start), Some(end)),
            KeyRange::From(start) => (first(start), None),
        };
        let is_empty = end.as_ref().is_some_and(|end| start >= *end);
        (!is_empty).then_some(Span { start, end })
    }

    /// Whether no key lies between this span and one that begins there.
    fn reaches(&self, start: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| start <= &end[..])
    }
}

fn later(a: Option<Bytes>, b: Option<Bytes>) -> Option<Bytes> {
    Some(a?.max(b?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, b'a', b'b']), 1..3).prop_map(Bytes::from)
    }

    fn range() -> impl Strategy<Value = KeyRange> {
        let start = prop_oneof![Just(Bytes::new()), key()];
        prop_oneof![
            key().prop_map(KeyRange::Key),
            start.clone().prop_map(KeyRange::From),
            (start, key()).prop_map(|(start, end)| KeyRange::Range(start, end)),
        ]
    }

    /// Every key of up to four bytes over the letters of the tests, and one beyond.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = vec![vec![]];
        for len in 0..4 {
            let longest: Vec<_> = keys.iter().filter(|key| key.len() == len).cloned().collect();
            keys.extend(longest.iter().flat_map(|key| [0, b'a', b'b', b'c'].map(|byte| [&key[..], &[byte]].concat())));
        }
        keys.split_off(1)
    }

    proptest! {
        #[test]
        fn a_range_is_covered_if_each_of_its_keys_belongs(of in prop::collection::vec(range(), 0..5), asked in range()) {
            let ranges = Ranges::new(of.clone());
            for key in keys() {
                prop_assert_eq!(ranges.contains(&key), of.iter().any(|range| range.contains(&key)));
            }
            let each = keys().iter().filter(|key| asked.contains(key)).all(|key| ranges.contains(key));
            prop_assert_eq!(ranges.covers(&asked), each);
            prop_assert_eq!(Ranges::new(ranges.iter()), ranges);
        }
    }

    #[test]
    fn all_is_all_however_it_is_said() {
        for whole in [KeyRange::all(), KeyRange::From(Bytes::from_static(b"\0"))] {
            let ranges = Ranges::new([whole]);
            assert!(ranges.is_all() && ranges == Ranges::all());
        }
        assert!(!Ranges::new([KeyRange::From(Bytes::from_static(b"\0\0"))]).is_all());
        assert!(!Ranges::new([]).contains(b"a"));
    }
}
