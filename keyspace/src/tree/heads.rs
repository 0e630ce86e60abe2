//! Searching a node's keys without following a pointer for each comparison.
//!
//! The keys of one node share a prefix, often a long one (`/registry/pods/default/`), so a node keeps that prefix once
//! and of every key the eight bytes after it, as one number. Almost always those decide; only keys whose eight bytes
//! are equal are compared in full, and the one found is on its way to be read anyway.

use smallvec::SmallVec;

use super::NODE_LEN;

/// Prefixes up to this length need no allocation.
const PREFIX_INLINE: usize = 40;

/// The heads of a node's keys, which lie elsewhere in the same order.
#[derive(Clone, Debug, Default)]
pub(super) struct Heads {
    /// Invariant: every key begins with it.
    prefix: SmallVec<[u8; PREFIX_INLINE]>,
    /// Of each key the eight bytes after the prefix, big-endian, filled up with zeros.
    /// Invariant: ascending, as the keys are.
    heads: SmallVec<[u64; NODE_LEN]>,
}

impl Heads {
    /// The heads of ascending keys.
    pub(super) fn of<'k>(keys: impl DoubleEndedIterator<Item = &'k [u8]> + Clone) -> Heads {
        let mut ends = keys.clone();
        let first = ends.next().unwrap_or_default();
        let last = ends.next_back().unwrap_or(first);
        // Ascending keys between two that share a prefix share it too.
        let prefix = &first[..shared_len(first, last)];
        Heads { prefix: prefix.into(), heads: keys.map(|key| head(&key[prefix.len()..])).collect() }
    }

    /// Where `key` is, or where it belongs. `full` gives the key at an index.
    pub(super) fn search<'k>(&self, key: &[u8], full: impl Fn(usize) -> &'k [u8]) -> Result<usize, usize> {
        let shared = shared_len(key, &self.prefix);
        if shared < self.prefix.len() {
            let is_below = key.get(shared).is_none_or(|byte| *byte < self.prefix[shared]);
            return Err(if is_below { 0 } else { self.heads.len() });
        }
        let tail = &key[shared..];
        let sought = head(tail);
        let mut low = self.heads.partition_point(|head| *head < sought);
        if self.heads.get(low).is_none_or(|head| *head != sought) {
            return Err(low);
        }
        let mut high = low + self.heads[low..].partition_point(|head| *head == sought);
        while low < high {
            let middle = low.midpoint(high);
            match full(middle)[shared..].cmp(tail) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Adds the head of a key if it has the prefix; else the heads must be made anew.
    #[must_use]
    pub(super) fn insert(&mut self, index: usize, key: &[u8]) -> bool {
        let fits = !self.heads.is_empty() && key.starts_with(&self.prefix);
        if fits {
            self.heads.insert(index, head(&key[self.prefix.len()..]));
        }
        fits
    }

    pub(super) fn remove(&mut self, index: usize) {
        self.heads.remove(index);
    }
}

fn head(tail: &[u8]) -> u64 {
    match tail.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..tail.len()].copy_from_slice(tail);
            u64::from_be_bytes(bytes)
        }
    }
}

/// How many bytes both begin with.
fn shared_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn a_search_answers_as_a_plain_one_does() {
        let mut random = StdRng::seed_from_u64(1);
        for round in 0..500 {
            let stem: Vec<u8> = vec![b'/'; random.random_range(0..60)];
            let mut random_key = || {
                let mut key = stem[..random.random_range(stem.len() / 2..=stem.len())].to_vec();
                key.extend((0..random.random_range(0..12)).map(|_| random.random_range(0..2u8)));
                key
            };
            let mut keys: Vec<_> = (0..40).map(|_| random_key()).collect();
            keys.sort();
            keys.dedup();
            let (mut heads, mut held) = (Heads::of([].into_iter()), Vec::<Vec<u8>>::new());
            let probes: Vec<_> = (0..40).map(|_| random_key()).chain(keys.clone()).collect();
            for key in keys {
                let index = held.binary_search(&key).unwrap_err();
                held.insert(index, key);
                if !heads.insert(index, &held[index]) {
                    heads = Heads::of(held.iter().map(Vec::as_slice));
                }
                for probe in &probes {
                    assert_eq!(
                        heads.search(probe, |i| &held[i]),
                        held.binary_search(probe),
                        "round {round}, {probe:?} in {held:?}"
                    );
                }
            }
            assert_eq!(heads.heads.len(), held.len());
        }
    }
}
