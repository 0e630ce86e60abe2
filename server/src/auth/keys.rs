//! Which keys a permission covers.

use std::sync::Arc;

use bytes::Bytes;
use forebay_proto::{KeyRange, authpb::Permission, authpb::permission::Type};

/// Keys: ranges that neither overlap nor touch, ascending.
///
/// Whether a range lies within is found by one binary search, however many permissions it was made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<Span>);

/// Every key `>= start` and, if there is an end, `< end`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

impl Keys {
    /// Whether every key of the range belongs to these. An empty range asks for its first key alone.
    pub fn cover(&self, range: &KeyRange) -> bool {
        let start = range.start();
        let behind = self.0.partition_point(|span| &span.start[..] <= start);
        let Some(span) = behind.checked_sub(1).map(|at| &self.0[at]) else { return false };
        let reaches = |to: &[u8]| span.end.as_ref().is_none_or(|end| to <= &end[..]);
        let holds_start = span.end.as_ref().is_none_or(|end| start < &end[..]);
        holds_start
            && match range {
                KeyRange::Key(_) => true,
                KeyRange::Range(_, end) => reaches(end),
                KeyRange::From(_) => span.end.is_none(),
            }
    }

    /// Adds the keys of a range; of an empty one its first key alone. They are copied: what a range was read from is
    /// not kept.
    pub fn add(&mut self, range: &KeyRange) {
        let Span { mut start, mut end } = Span::copied(range);
        let from = self.0.partition_point(|span| span.end.as_ref().is_some_and(|end| *end < start));
        let to = self.0.partition_point(|span| end.as_ref().is_none_or(|end| span.start <= *end));
        for span in self.0.drain(from..to) {
            start = start.min(span.start);
            end = end.zip(span.end).map(|(a, b)| a.max(b));
        }
        self.0.insert(from, Span { start, end });
    }

    /// The ranges that these keys come to.
    pub fn ranges(&self) -> impl Iterator<Item = KeyRange> {
        self.0.iter().cloned().map(|Span { start, end }| match end {
            Some(end) => KeyRange::Range(start, end),
            None => KeyRange::From(start),
        })
    }

    /// The memory that they take.
    pub fn memory(&self) -> usize {
        let bounds = |span: &Span| span.start.len() + span.end.as_ref().map_or(0, Bytes::len);
        self.0.iter().map(|span| size_of::<Span>() + bounds(span)).sum()
    }

    fn merged(mut spans: Vec<Span>) -> Keys {
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut keys: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match keys.last_mut() {
                Some(last) if last.end.as_ref().is_none_or(|end| span.start <= *end) => {
                    // No end is behind every end.
                    last.end = last.end.take().zip(span.end).map(|(a, b)| a.max(b));
                }
                _ => keys.push(span),
            }
        }
        Keys(keys)
    }
}

impl Span {
    fn copied(range: &KeyRange) -> Span {
        let start = Bytes::copy_from_slice(range.start());
        let end = match range {
            KeyRange::Range(from, to) if from < to => Some(Bytes::copy_from_slice(to)),
            KeyRange::From(_) => None,
            KeyRange::Key(_) | KeyRange::Range(..) => Some(next(&start)),
        };
        Span { start, end }
    }

    /// What a permission names. None of those that etcd would not grant today, and that cover nothing there either.
    fn of(permission: &Permission) -> Option<Span> {
        if permission.key.is_empty() {
            return None;
        }
        let start = permission.key.clone();
        let end = match &permission.range_end[..] {
            [] => Some(next(&start)),
            [0] => None,
            _ => Some(permission.range_end.clone()),
        };
        end.as_ref().is_none_or(|end| start < *end).then_some(Span { start, end })
    }
}

/// The next key there can be.
fn next(key: &[u8]) -> Bytes {
    [key, b"\0"].concat().into()
}

/// What somebody may do with keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Those that may be read.
    pub read: Keys,
    /// Those that may be written.
    pub write: Keys,
}

impl Granted {
    /// What a role's permissions come to.
    pub fn by(permissions: &[Permission]) -> Granted {
        let of = |kind: Type| {
            let counts = |permission: &&Permission| {
                let own = Type::try_from(permission.perm_type);
                own == Ok(kind) || own == Ok(Type::Readwrite)
            };
            Keys::merged(permissions.iter().filter(counts).filter_map(Span::of).collect())
        };
        Granted { read: of(Type::Read), write: of(Type::Write) }
    }

    /// What several roles come to together.
    pub fn union<'a>(roles: impl Iterator<Item = &'a Arc<Granted>>) -> Arc<Granted> {
        let roles: Vec<&Arc<Granted>> = roles.collect();
        if let [only] = roles[..] {
            return Arc::clone(only);
        }
        let all = |of: fn(&Granted) -> &Keys| Keys::merged(roles.iter().flat_map(|role| of(role).0.clone()).collect());
        Arc::new(Granted { read: all(|granted| &granted.read), write: all(|granted| &granted.write) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    fn permission(perm_type: Type, key: &[u8], end: &[u8]) -> Permission {
        Permission {
            perm_type: perm_type as i32,
            key: Bytes::copy_from_slice(key),
            range_end: Bytes::copy_from_slice(end),
        }
    }

    fn reads(permissions: &[(&[u8], &[u8])]) -> Keys {
        let permissions: Vec<_> = permissions.iter().map(|(key, end)| permission(Type::Read, key, end)).collect();
        Granted::by(&permissions).read
    }

    fn range(key: &[u8], end: &[u8]) -> KeyRange {
        KeyRange::new(Bytes::copy_from_slice(key), Bytes::copy_from_slice(end))
    }

    #[test]
    fn keys_that_are_added_one_by_one_are_those_that_are_merged_at_once() {
        let mut random = StdRng::seed_from_u64(4);
        for round in 0..500 {
            let (mut added, mut spans) = (Keys::default(), Vec::new());
            for _ in 0..random.random_range(1..12) {
                let mut key = || [random.random_range(b'a'..=b'z')];
                let (start, end) = (key(), key());
                let range = match random.random_range(0..8) {
                    0 => range(&start, b"\0"),
                    1 | 2 => range(&start, b""),
                    _ => range(&start, &end),
                };
                added.add(&range);
                assert!(added.cover(&range), "round {round}: {range:?}");
                spans.push(Span::copied(&range));
            }
            assert_eq!(added, Keys::merged(spans), "round {round}");
        }
    }

    #[test]
    fn ranges_that_touch_cover_what_spans_them() {
        let keys = reads(&[(b"c", b"e"), (b"a", b"c"), (b"e", b""), (b"x", b"\0")]);
        for (key, end, covered) in [
            ("a", "e", true),
            ("a", "e\0", true),
            ("a", "f", false),
            ("e", "", true),
            ("e\0", "", false),
            ("x", "\0", true),
            ("y", "zz", true),
            ("w", "\0", false),
            ("\0", "\0", false),
        ] {
            assert_eq!(keys.cover(&range(key.as_bytes(), end.as_bytes())), covered, "{key:?} {end:?}");
        }
    }

    #[test]
    fn a_range_that_ends_before_it_begins_asks_for_its_first_key() {
        let keys = reads(&[(b"b", b"d")]);
        assert!(keys.cover(&range(b"c", b"a")) && keys.cover(&range(b"b", b"b")));
        assert!(!keys.cover(&range(b"d", b"a")) && !keys.cover(&range(b"a", b"a")));
    }

    #[test]
    fn a_permission_that_names_nothing_grants_nothing() {
        assert_eq!(reads(&[(b"", b"\0"), (b"", b""), (b"c", b"a"), (b"c", b"c")]), Keys::default());
        assert_eq!(Granted::by(&[Permission { perm_type: 9, key: "k".into(), ..Default::default() }]).read.0.len(), 0);
    }

    #[test]
    fn what_is_covered_is_what_a_list_of_permissions_covers_key_by_key() {
        let seed: u64 = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        // Every key of up to two of these letters, so that neighbours differ by a zero byte too.
        let letters = [0, b'a', b'b', b'c'];
        let mut keys: Vec<Vec<u8>> = letters.iter().map(|letter| vec![*letter]).collect();
        keys.extend(letters.iter().flat_map(|a| letters.iter().map(|b| vec![*a, *b])));
        keys.sort();
        for _ in 0..500 {
            let mut range_from = |key: &[u8]| {
                let above: Vec<&Vec<u8>> = keys.iter().filter(|other| &other[..] > key).collect();
                match random.random_range(0..4) {
                    0 => range(key, b""),
                    1 => range(key, b"\0"),
                    _ if above.is_empty() => range(key, b"\xff"),
                    _ => range(key, above[random.random_range(0..above.len())]),
                }
            };
            let list: Vec<KeyRange> = keys.iter().step_by(7).map(|key| range_from(key)).collect();
            let permissions: Vec<Permission> = list
                .iter()
                .map(|range| match range {
                    KeyRange::Key(key) => permission(Type::Read, key, b""),
                    KeyRange::Range(key, end) => permission(Type::Read, key, end),
                    KeyRange::From(key) => permission(Type::Readwrite, key, b"\0"),
                })
                .collect();
            let granted = Granted::by(&permissions);
            for key in &keys {
                let asked = range_from(key);
                let mut each = keys.iter().filter(|key| asked.contains(key));
                let by_key = each.all(|key| list.iter().any(|range| range.contains(key)));
                let covered = granted.read.cover(&asked);
                // Between two of these keys lie others, which only a range covers.
                assert!(by_key || !covered, "seed {seed}: {list:?} do not cover {asked:?}");
                if let KeyRange::Key(_) = asked {
                    assert_eq!(covered, by_key, "seed {seed}: {list:?} {asked:?}");
                }
            }
        }
    }
}
