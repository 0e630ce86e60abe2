//! Prefixes of keys. Keys are bytes; what lies between slashes is a segment, as in `/registry/pods/default/web-0`.

use bytes::Bytes;
use forebay_proto::KeyRange;

/// The key up to and with its `depth`-th slash, or up to its last slash if it has fewer: where it would stand in a
/// tree of folders.
///
/// ```
/// use forebay_policies::prefix;
/// assert_eq!(prefix::folder(b"/registry/pods/default/web-0", 3), b"/registry/pods/");
/// assert_eq!(prefix::folder(b"/registry/nodes/n1", 4), b"/registry/nodes/");
/// assert_eq!(prefix::folder(b"plain", 1), b"");
/// ```
pub fn folder(key: &[u8], depth: u8) -> &[u8] {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let end = slashes.take(usize::from(depth)).last().map_or(0, |(at, _)| at + 1);
    &key[..end]
}

/// Whether every key of the range begins with the prefix.
pub fn holds(prefix: &[u8], range: &KeyRange) -> bool {
    match range {
        KeyRange::Key(key) => key.starts_with(prefix),
        KeyRange::Range(start, end) => {
            range.is_empty() || start.starts_with(prefix) && (prefix.is_empty() || is_at_most_end(prefix, end))
        }
        KeyRange::From(start) => {
            // Only 0xff bytes have no key behind all that begin with them.
            start.starts_with(prefix) && prefix.iter().all(|byte| *byte == u8::MAX)
        }
    }
}

/// Whether some key with the prefix may belong to the range.
pub fn touches(prefix: &[u8], range: &KeyRange) -> bool {
    let past_start = range.start().starts_with(prefix) || range.start() <= prefix;
    match range {
        KeyRange::Key(key) => key.starts_with(prefix),
        KeyRange::Range(_, end) => !range.is_empty() && past_start && &end[..] > prefix,
        KeyRange::From(_) => past_start,
    }
}

/// The prefix that a range is the keys of, if it is one's.
pub fn of_range(range: &KeyRange) -> Option<&[u8]> {
    match range {
        KeyRange::Key(_) => None,
        KeyRange::Range(start, end) => (end[..] == end_of(start)?[..]).then_some(start),
        KeyRange::From(start) => start.is_empty().then_some(start),
    }
}

/// Every key with the prefix.
pub fn range(prefix: &[u8]) -> KeyRange {
    match end_of(prefix) {
        Some(end) => KeyRange::Range(Bytes::copy_from_slice(prefix), end.into()),
        None => KeyRange::From(Bytes::copy_from_slice(prefix)),
    }
}

/// The part of a range that lies under a prefix.
pub fn within(prefix: &[u8], asked: &KeyRange) -> KeyRange {
    let own = range(prefix);
    let start = Bytes::copy_from_slice(asked.start().max(own.start()));
    let end = |range: &KeyRange| match range {
        KeyRange::Range(_, end) => Some(end.clone()),
        _ => None,
    };
    match (asked, end(asked), end(&own)) {
        (KeyRange::Key(key), ..) if key.starts_with(prefix) => asked.clone(),
        // No key lies below itself.
        (KeyRange::Key(key), ..) => KeyRange::Range(key.clone(), key.clone()),
        (_, Some(a), Some(b)) => KeyRange::Range(start, a.min(b)),
        (_, Some(end), None) | (_, None, Some(end)) => KeyRange::Range(start, end),
        (_, None, None) => KeyRange::From(start),
    }
}

/// The lowest key behind all that begin with the prefix; none if there is no such key.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Whether `end` is not behind the end of the prefix, without building that end.
fn is_at_most_end(prefix: &[u8], end: &[u8]) -> bool {
    let Some(last) = prefix.iter().rposition(|byte| *byte != u8::MAX) else { return true };
    let shared = end.iter().zip(&prefix[..=last]).take_while(|(a, b)| a == b).count();
    if shared == last && end.len() == last + 1 {
        return end[last] <= prefix[last] + 1;
    }
    end < prefix || shared == last + 1 || shared <= last && end.get(shared) < prefix.get(shared)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(prop::sample::select(vec![0u8, b'/', b'a', b'b', 254, 255]), 0..4).prop_map(Bytes::from)
    }

    proptest! {
        #[test]
        fn a_prefix_holds_and_touches_what_its_keys_say(prefix in bytes(), key in bytes(), end in bytes(), probe in bytes()) {
            let asked = KeyRange::new(key, end);
            let own = range(&prefix);
            prop_assert_eq!(own.contains(&probe), probe.starts_with(&prefix));
            if asked.contains(&probe) {
                prop_assert!(!holds(&prefix, &asked) || probe.starts_with(&prefix));
                prop_assert!(touches(&prefix, &asked) || !probe.starts_with(&prefix));
            }
            prop_assert_eq!(within(&prefix, &asked).contains(&probe), asked.contains(&probe) && probe.starts_with(&prefix));
            if touches(&prefix, &asked) {
                prop_assert!(own.overlaps(&asked));
            }
            if holds(&prefix, &asked) && !asked.is_empty() {
                prop_assert!(touches(&prefix, &asked));
            }
            let built = match (own, &asked) {
                (_, KeyRange::Key(_)) => true,
                (KeyRange::From(start), KeyRange::From(other)) => *other >= start,
                (KeyRange::From(start), KeyRange::Range(other, _)) => *other >= start,
                (KeyRange::Range(_, last), KeyRange::Range(_, other)) => *other <= last,
                (_, KeyRange::From(_)) => false,
                (KeyRange::Key(_), _) => unreachable!("a prefix is no key"),
            };
            let inside = asked.start().starts_with(&prefix) && built;
            prop_assert_eq!(holds(&prefix, &asked), inside || asked.is_empty());
        }

        #[test]
        fn the_range_of_a_prefix_leads_back_to_it(prefix in bytes()) {
            let range = range(&prefix);
            prop_assert!(holds(&prefix, &range));
            if end_of(&prefix).is_some() || prefix.is_empty() {
                prop_assert_eq!(of_range(&range), Some(&prefix[..]));
            }
        }
    }
}
