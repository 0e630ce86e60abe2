//! A vector with stable small handles: what is removed leaves a hole that the next insert fills.

use std::ops::{Index, IndexMut};

/// Handles are `u32`, half a pointer: a hub keeps several of them per watcher.
pub(super) struct Slab<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { entries: Vec::new(), free: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// The handle that the next insert will give.
    pub(super) fn vacant(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.entries.len() as u32)
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(handle) = self.free.pop() {
            self.entries[handle as usize] = Some(value);
            return handle;
        }
        if self.entries.is_empty() {
            // Most streams hold one watcher; a vector's first growth would make room for four.
            self.entries.reserve_exact(1);
        }
        let handle = u32::try_from(self.entries.len()).expect("a slab holds fewer than 2^32 entries");
        self.entries.push(Some(value));
        handle
    }

    pub(super) fn remove(&mut self, handle: u32) -> T {
        let value = self.entries[handle as usize].take().expect("a slab handle is removed once");
        self.free.push(handle);
        value
    }

    pub(super) fn get_mut(&mut self, handle: u32) -> Option<&mut T> {
        self.entries.get_mut(handle as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.entries).filter_map(|(handle, entry)| Some((handle, entry.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(&mut self.entries).filter_map(|(handle, entry)| Some((handle, entry.as_mut()?)))
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, handle: u32) -> &T {
        self.entries[handle as usize].as_ref().expect("a slab handle in use names an entry")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, handle: u32) -> &mut T {
        self.entries[handle as usize].as_mut().expect("a slab handle in use names an entry")
    }
}
