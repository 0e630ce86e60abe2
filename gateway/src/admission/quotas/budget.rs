//! One budget: a prefix and how many objects may lie under it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_policies::prefix;
use forebay_proto::KeyRange;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Where the guards stand. A client with a token needs the right to write them.
const GUARDS: &[u8] = b"forebay/quota/";

/// A budget.
pub(super) struct Budget {
    prefix: Bytes,
    /// The key that guards it.
    pub(super) guard: Bytes,
    pub(super) limit: u64,
    count: Mutex<Option<(u64, Instant)>>,
    /// What was sent up without a guard and is not answered.
    flying: AtomicU64,
    /// Held by the write whose turn it is, near the limit.
    pub(super) line: tokio::sync::Mutex<Line>,
}

/// What is known near the limit; nothing at first.
#[derive(Debug, Default)]
pub(super) struct Line(pub(super) Option<Turn>);

/// The state of a budget at one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// When the guard was written last; 0 for never.
    pub(super) mod_revision: i64,
    /// How many objects there are at most, as long as the guard stands.
    pub(super) objects: u64,
}

impl Line {
    /// Whether so many more surely fit.
    pub(super) fn has_room(&self, keys: usize, limit: u64) -> bool {
        self.0.is_some_and(|turn| turn.objects + keys as u64 <= limit)
    }

    /// A guarded write of so many keys was carried out; how many there are at most.
    pub(super) fn written(&mut self, revision: i64, keys: usize) -> u64 {
        let objects = self.0.map_or(0, |turn| turn.objects) + keys as u64;
        self.0 = Some(Turn { mod_revision: revision, objects });
        objects
    }
}

/// Objects on their way; forgotten when it is dropped.
pub(super) struct Flying {
    budget: Arc<Budget>,
    keys: u64,
}

impl Drop for Flying {
    fn drop(&mut self) {
        self.budget.flying.fetch_sub(self.keys, Ordering::Relaxed);
    }
}

impl Budget {
    pub(super) fn new(quota: &str, prefix: &[u8], limit: u64) -> Budget {
        let mut guard = BytesMut::new();
        for part in [GUARDS, quota.as_bytes(), b":", prefix] {
            guard.put_slice(part);
        }
        Budget {
            prefix: Bytes::copy_from_slice(prefix),
            guard: guard.freeze(),
            limit,
            count: Mutex::default(),
            flying: AtomicU64::new(0),
            line: tokio::sync::Mutex::default(),
        }
    }

    /// The keys that count.
    pub(super) fn range(&self) -> KeyRange {
        prefix::range(&self.prefix)
    }

    /// What was counted last.
    pub(super) fn known(&self) -> Option<u64> {
        self.count.lock().map(|(objects, _)| objects)
    }

    /// What was counted lately, and what has been sent up since.
    pub(super) fn counted(&self, fresh: Duration) -> Option<u64> {
        let (objects, at) = (*self.count.lock())?;
        (at.elapsed() < fresh).then(|| objects + self.flying.load(Ordering::Relaxed))
    }

    /// So many were counted just now.
    pub(super) fn count(&self, objects: u64) -> u64 {
        *self.count.lock() = Some((objects, Instant::now()));
        objects + self.flying.load(Ordering::Relaxed)
    }

    /// So many are on their way. Until the next count they are taken for created.
    pub(super) fn fly(self: &Arc<Budget>, keys: usize) -> Flying {
        let keys = keys as u64;
        self.flying.fetch_add(keys, Ordering::Relaxed);
        if let Some((objects, _)) = &mut *self.count.lock() {
            *objects += keys;
        }
        Flying { budget: Arc::clone(self), keys }
    }
}
