//! How many watches hear of a write: each of them makes it dearer.
//!
//! A watch counts in the folder that holds all of its keys, so that what is written is looked up by the folders of its
//! key and not among all ranges. One that watches a part of a folder counts for the whole of it: too many are assumed,
//! and never too few.

use std::collections::HashMap;

use forebay_proto::KeyRange;

use crate::prefix;

/// The open watches, by what they are about.
#[derive(Debug, Default)]
pub struct Watched {
    folders: HashMap<Vec<u8>, u32>,
    keys: HashMap<Vec<u8>, u32>,
}

impl Watched {
    /// A watch was opened.
    pub fn open(&mut self, range: &KeyRange) {
        let (places, place) = self.place(range);
        *places.entry(place.to_vec()).or_default() += 1;
    }

    /// A watch that was opened has ended.
    pub fn close(&mut self, range: &KeyRange) {
        let (places, place) = self.place(range);
        let open = places.get_mut(place).expect("invariant: only what was opened is closed");
        *open -= 1;
        if *open == 0 {
            places.remove(place);
        }
    }

    /// How many hear of a write to these keys.
    pub fn hear<'k>(&self, keys: impl Iterator<Item = &'k KeyRange>) -> u32 {
        if self.folders.is_empty() && self.keys.is_empty() {
            return 0;
        }
        keys.map(|range| self.hear_of(range)).fold(0, u32::saturating_add)
    }

    fn hear_of(&self, range: &KeyRange) -> u32 {
        let key = range.start();
        let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at + 1);
        let around = std::iter::once(0).chain(slashes).filter_map(|end| self.folders.get(&key[..end]));
        let own = self.keys.get(key).filter(|_| matches!(range, KeyRange::Key(_)));
        around.chain(own).copied().fold(0, u32::saturating_add)
    }

    fn place<'r>(&mut self, range: &'r KeyRange) -> (&mut HashMap<Vec<u8>, u32>, &'r [u8]) {
        match range {
            KeyRange::Key(key) => (&mut self.keys, key),
            KeyRange::Range(start, end) => {
                let shared = match prefix::of_range(range) {
                    Some(prefix) => prefix,
                    None => &start[..start.iter().zip(end).take_while(|(a, b)| a == b).count()],
                };
                (&mut self.folders, prefix::folder(shared, u8::MAX))
            }
            KeyRange::From(_) => (&mut self.folders, &[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key(key: &'static str) -> KeyRange {
        KeyRange::Key(Bytes::from_static(key.as_bytes()))
    }

    #[test]
    fn a_write_is_heard_by_whoever_watches_its_key_or_a_folder_around_it() {
        let mut watched = Watched::default();
        let ranges = [
            prefix::range(b"/registry/pods/"),
            prefix::range(b"/registry/pods/default/"),
            prefix::range(b"/registry/jobs/"),
            key("/registry/pods/default/web"),
            KeyRange::From(Bytes::new()),
            KeyRange::Range(Bytes::from_static(b"/registry/pods/default/a"), Bytes::from_static(b"/registry/pods/x")),
        ];
        ranges.iter().for_each(|range| watched.open(range));
        assert_eq!(watched.hear([key("/registry/pods/default/web")].iter()), 5);
        assert_eq!(watched.hear([key("/registry/pods/default/db")].iter()), 4);
        assert_eq!(watched.hear([key("/registry/jobs/one"), key("/registry/nodes/n")].iter()), 3, "each for itself");
        ranges.iter().for_each(|range| watched.close(range));
        assert_eq!(watched.hear([key("/registry/pods/default/web")].iter()), 0);
        assert!(watched.folders.is_empty() && watched.keys.is_empty());
    }

    #[test]
    fn a_part_of_a_folder_counts_for_all_of_it() {
        let mut watched = Watched::default();
        watched.open(&prefix::range(b"/registry/pods/default/web-"));
        assert_eq!(watched.hear([key("/registry/pods/default/db")].iter()), 1);
        assert_eq!(watched.hear([key("/registry/pods/other/db")].iter()), 0);
    }
}
