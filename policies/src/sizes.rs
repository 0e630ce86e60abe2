//! What is known of the objects under a prefix, learned from the answers that passed.
//!
//! A gateway without a mirror of a range predicts the next list of it from the last. What was never listed, and what
//! was forgotten, is unknown, and [`Cost::predict`](crate::Cost::predict) takes the worst for it.

use std::collections::HashMap;

use forebay_proto::KeyRange;

use crate::{Actual, Answer, Expected, Request, prefix};

/// Counts and mean sizes of the prefixes that were read lately.
#[derive(Debug)]
pub struct Sizes {
    prefixes: HashMap<Vec<u8>, Known>,
    capacity: usize,
    /// Counts what was learned, to forget what was not used for the longest.
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// None while only single objects were seen.
    objects: Option<u64>,
    object_bytes: u64,
    used: u64,
}

impl Sizes {
    /// Nothing is known; of at most `capacity` prefixes something will be.
    pub fn new(capacity: usize) -> Sizes {
        Sizes { prefixes: HashMap::new(), capacity: capacity.max(1), clock: 0 }
    }

    /// What the ranges of a request hold, if it is known of all of them.
    pub fn expected(&self, request: &Request<'_>) -> Option<Expected> {
        let (mut objects, mut bytes) = (0u64, 0u64);
        for keys in request.keys {
            let known = self.prefixes.get(place(keys)?);
            let count = match keys {
                KeyRange::Key(_) => 1,
                _ => known?.objects?,
            };
            objects = objects.saturating_add(count);
            bytes = bytes.saturating_add(count.saturating_mul(known?.object_bytes));
        }
        (objects > 0).then(|| Expected { objects, object_bytes: bytes / objects })
    }

    /// Learns from the answer to a read of one range. `count` is the count it named, which a limit does not cut.
    pub fn learn(&mut self, request: &Request<'_>, actual: Actual, count: Option<u64>) {
        let [keys] = request.keys else { return };
        let Some(place) = place(keys) else { return };
        self.clock += 1;
        let mean = actual.bytes.checked_div(actual.objects).filter(|_| request.answer == Answer::Objects);
        let complete = (request.limit == 0 && request.answer != Answer::Count).then_some(actual.objects);
        let objects = if matches!(keys, KeyRange::Key(_)) { None } else { count.or(complete) };
        if mean.is_none() && objects.is_none() {
            return;
        }
        if !self.prefixes.contains_key(place) {
            self.make_room();
            self.prefixes.insert(place.to_vec(), Known { objects: None, object_bytes: mean.unwrap_or(0), used: 0 });
        }
        let known = self.prefixes.get_mut(place).expect("invariant: it was inserted");
        known.used = self.clock;
        known.objects = objects.or(known.objects);
        if let Some(mean) = mean {
            // A list says what is so; a single object is one of many.
            let single = matches!(keys, KeyRange::Key(_)) && known.object_bytes > 0;
            known.object_bytes = if single { (known.object_bytes * 15 + mean) / 16 } else { mean };
        }
    }

    /// Forgets the half that was not learned of for the longest. Rare, so that learning is cheap.
    fn make_room(&mut self) {
        if self.prefixes.len() < self.capacity {
            return;
        }
        let mut used: Vec<u64> = self.prefixes.values().map(|known| known.used).collect();
        let middle = used.len() / 2;
        let (_, median, _) = used.select_nth_unstable(middle);
        let median = *median;
        self.prefixes.retain(|_, known| known.used > median);
    }
}

/// The prefix under which a range is known: its own, or the folder of a single key. A range that is no prefix's, such as
/// the rest of a list after its first page, is known by its folder too, which holds at least as much.
fn place(keys: &KeyRange) -> Option<&[u8]> {
    match keys {
        KeyRange::Key(key) => Some(prefix::folder(key, u8::MAX)),
        KeyRange::Range(start, _) => match prefix::of_range(keys) {
            Some(prefix) => Some(prefix),
            None => {
                let folder = prefix::folder(start, u8::MAX);
                (!folder.is_empty() && prefix::holds(folder, keys)).then_some(folder)
            }
        },
        KeyRange::From(_) => prefix::of_range(keys),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Client, Rpc};

    fn read<'a>(client: &'a Client, keys: &'a [KeyRange]) -> Request<'a> {
        Request { keys, ..Request::new(client, Rpc::Range) }
    }

    fn key(key: &str) -> [KeyRange; 1] {
        [KeyRange::Key(Bytes::copy_from_slice(key.as_bytes()))]
    }

    #[test]
    fn a_list_teaches_what_the_next_will_cost() {
        let (client, mut sizes) = (Client::default(), Sizes::new(10));
        let pods = [prefix::range(b"/r/pods/")];
        assert_eq!(sizes.expected(&read(&client, &pods)), None);
        sizes.learn(&read(&client, &pods), Actual { objects: 100, bytes: 50_000 }, None);
        assert_eq!(sizes.expected(&read(&client, &pods)), Some(Expected { objects: 100, object_bytes: 500 }));
        assert_eq!(sizes.expected(&read(&client, &key("/r/pods/a"))), Some(Expected { objects: 1, object_bytes: 500 }));
        assert_eq!(sizes.expected(&read(&client, &[prefix::range(b"/r/")])), None);
    }

    #[test]
    fn a_page_teaches_by_the_count_it_names() {
        let (client, mut sizes) = (Client::default(), Sizes::new(10));
        let pods = [prefix::range(b"/r/pods/")];
        let page = Request { limit: 10, ..read(&client, &pods) };
        sizes.learn(&page, Actual { objects: 10, bytes: 1_000 }, Some(5_000));
        assert_eq!(sizes.expected(&read(&client, &pods)), Some(Expected { objects: 5_000, object_bytes: 100 }));
        let rest = [KeyRange::Range(Bytes::from_static(b"/r/pods/m\0"), Bytes::from_static(b"/r/pods0"))];
        assert_eq!(sizes.expected(&read(&client, &rest)), Some(Expected { objects: 5_000, object_bytes: 100 }));
        let count = Request { answer: Answer::Count, ..read(&client, &pods) };
        sizes.learn(&count, Actual::default(), Some(6_000));
        assert_eq!(sizes.expected(&read(&client, &pods)), Some(Expected { objects: 6_000, object_bytes: 100 }));
    }

    #[test]
    fn single_objects_teach_sizes_and_no_counts() {
        let (client, mut sizes) = (Client::default(), Sizes::new(10));
        sizes.learn(&read(&client, &key("/r/pods/a")), Actual { objects: 1, bytes: 1_600 }, Some(1));
        assert_eq!(sizes.expected(&read(&client, &[prefix::range(b"/r/pods/")])), None);
        sizes.learn(&read(&client, &key("/r/pods/b")), Actual { objects: 1, bytes: 3_200 }, Some(1));
        let expected = sizes.expected(&read(&client, &key("/r/pods/c"))).expect("known");
        assert_eq!(expected.object_bytes, 1_700);
    }

    #[test]
    fn what_is_not_used_is_forgotten_and_memory_is_bounded() {
        let (client, mut sizes) = (Client::default(), Sizes::new(100));
        for folder in 0..10_000 {
            sizes.learn(&read(&client, &key("/hot/a")), Actual { objects: 1, bytes: 10 }, None);
            sizes.learn(&read(&client, &key(&format!("/{folder}/a"))), Actual { objects: 1, bytes: 10 }, None);
        }
        assert!(sizes.prefixes.len() <= 100);
        assert!(sizes.expected(&read(&client, &key("/hot/b"))).is_some());
    }
}
