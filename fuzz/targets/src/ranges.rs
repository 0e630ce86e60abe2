//! What a pair of key and range end means.

use bytes::Bytes;
use forebay_proto::KeyRange;

use crate::input::Input;

/// Ranges hold the keys that etcd's rules say, and overlap if they share one. The input is two pairs in chunks.
pub fn key_ranges(data: &[u8]) {
    let mut input = Input::new(data);
    let [key, end, other_key, other_end] = [(); 4].map(|()| Bytes::copy_from_slice(input.chunk()));
    let (range, other) = (KeyRange::new(key.clone(), end.clone()), KeyRange::new(other_key.clone(), other_end.clone()));
    // Every key at which membership may change, and its neighbours above.
    let behind = |key: &Bytes| [&key[..], b"\0"].concat();
    let keys: Vec<Vec<u8>> =
        [&key, &end, &other_key, &other_end].into_iter().flat_map(|key| [key.to_vec(), behind(key)]).collect();
    for (range, key, end) in [(&range, &key, &end), (&other, &other_key, &other_end)] {
        assert_eq!(range.start(), key);
        for candidate in &keys {
            assert_eq!(range.contains(candidate), is_named(candidate, key, end), "{range:?} {candidate:?}");
            if range.is_past(candidate) {
                let above = keys.iter().filter(|above| *above >= candidate);
                assert!(!above.into_iter().any(|above| range.contains(above)), "{range:?} {candidate:?}");
            }
            if range.contains(candidate) {
                assert!(range.start() <= &candidate[..] && !range.is_past(candidate), "{range:?} {candidate:?}");
            }
        }
        // Whatever keys a range has, its start is the first.
        assert_eq!(range.is_empty(), !range.contains(key));
    }
    // The later of both starts belongs to both ranges if any key does.
    let shared = keys.iter().any(|key| range.contains(key) && other.contains(key));
    assert_eq!(range.overlaps(&other), shared, "{range:?} {other:?}");
    assert_eq!(other.overlaps(&range), shared, "{range:?} {other:?}");
}

/// etcd's rules, in the order in which its documentation gives them.
fn is_named(candidate: &[u8], key: &[u8], end: &[u8]) -> bool {
    if end.is_empty() {
        return candidate == key;
    }
    if end == b"\0" {
        return candidate >= key;
    }
    key <= candidate && candidate < end
}
