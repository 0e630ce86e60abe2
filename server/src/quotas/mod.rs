//! Quotas: how much may lie under a prefix, held exactly by the cluster's leader.
//!
//! The leader decides before it gives a write its place in the log, since it alone knows everything that comes before:
//! what is stored, and what is on its way. So the log holds nothing that was refused. An etcd that takes over the data
//! directory, or that is a member of the same cluster, carries out what every member carries out; were quotas decided
//! when an entry is applied, it would carry out what ours refuse, and hold something else.
//!
//! | A write comes to | |
//! |---|---|
//! | the leader | it decides, and waits where only what is on its way leaves no room ([`Ledger`]) |
//! | another member of ours | which asks the leader to decide and to propose it |
//! | a member that is an etcd | it is not held; see [`RECORDS`] |
//!
//! A leader that is new knows what is on its way once everything of the terms before is applied, and what it proposes is
//! bound to its term: nothing that it decided about comes into the log of another leader.
//!
//! Which quotas there are stands in keys, one for each policy that says so. They are replicated, compacted, backed up and
//! restored as every key is, and mean nothing to an etcd.

mod hold;
mod writes;

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub(crate) use hold::{Decided, HOLDS, PROPOSE, peer_status};

use forebay_keyspace::{Change, Keyspace, Snapshot, Version};
use forebay_policies::{
    Quota,
    file::{QUOTAS_MAX, quotas_from_json},
    prefix,
    quota::{BudgetId, Ledger, Objects, Usage, Verdict},
};
use forebay_proto::{KeyRange, etcdserverpb::InternalRaftRequest};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Where the quotas stand: a key for each policy, with its quotas in JSON.
///
/// They hold where the leader is ours. While an etcd leads a mixed cluster nobody holds them, and writes that come in
/// through a member that is an etcd pass by.
pub(crate) const RECORDS: &[u8] = b"forebay/quotas/";

/// What is decided about, and what is known for it.
#[derive(Debug)]
pub(crate) struct Quotas {
    keyspace: Arc<Mutex<Keyspace>>,
    /// Whether there are any quotas.
    any: AtomicBool,
    /// Whether a record was written since they were counted.
    outdated: AtomicBool,
    /// Locked after the keyspace.
    state: Mutex<State>,
    /// Something that was on its way is done.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    ledger: Ledger,
    /// The term in which this member has led long enough to know what is on its way.
    settled: u64,
    /// The term in which what is on its way by the ledger was admitted.
    term: u64,
}

impl Quotas {
    /// Those that the keyspace has.
    pub(crate) fn new(keyspace: Arc<Mutex<Keyspace>>) -> Quotas {
        let (any, outdated) = (AtomicBool::new(false), AtomicBool::new(false));
        let quotas = Quotas { keyspace, any, outdated, state: Mutex::default(), done: Notify::new() };
        quotas.reload(&quotas.keyspace.lock());
        quotas
    }

    /// Takes note of what a request of the log changed.
    pub(crate) fn observe(&self, changes: &[Change]) {
        if changes.iter().any(|change| change.version.key().starts_with(RECORDS)) {
            self.outdated.store(true, Ordering::Relaxed);
        }
        if !self.any() {
            return;
        }
        let mut state = self.state.lock();
        for Change { version, prev } in changes {
            let before = prev.as_ref().map(size);
            match version.is_tombstone() {
                true => state.ledger.delete(version.key(), before.unwrap_or(0)),
                false => state.ledger.put(version.key(), before, size(version)),
            }
        }
    }

    /// Takes note of a version that a compaction has removed.
    pub(crate) fn compacted(&self, version: &Version) {
        if self.any() {
            self.state.lock().ledger.compact(version.key(), size(version));
        }
    }

    /// Counts anew if the quotas are other ones now. To be called when a batch is applied.
    pub(crate) fn refresh(&self, keyspace: &Keyspace) {
        if !self.outdated.swap(false, Ordering::Relaxed) {
            return;
        }
        let quotas = recorded(&keyspace.snapshot());
        if quotas != self.state.lock().ledger.quotas() {
            self.count(keyspace, quotas);
        }
    }

    /// Reads the records of a keyspace, and counts what it holds.
    pub(crate) fn reload(&self, keyspace: &Keyspace) {
        self.count(keyspace, recorded(&keyspace.snapshot()));
    }

    fn count(&self, keyspace: &Keyspace, quotas: Vec<Quota>) {
        let mut ledger = Ledger::new(quotas);
        for range in disjoint(ledger.quotas()) {
            keyspace.for_each_version(&range, &mut |version, is_newest| match version.is_tombstone() || !is_newest {
                true => ledger.keep(version.key(), size(version)),
                false => ledger.put(version.key(), None, size(version)),
            });
        }
        self.any.store(!ledger.quotas().is_empty(), Ordering::Release);
        let mut state = self.state.lock();
        let before = std::mem::replace(&mut state.ledger, ledger);
        state.ledger.carry(before, &View(keyspace.snapshot()));
        // What no quota was about until now may be on its way unknown.
        state.settled = 0;
        drop(state);
        self.done.notify_waiters();
    }

    /// A request is applied, or never will be.
    pub(crate) fn done(&self, ids: impl Iterator<Item = u64>) {
        if !self.any() {
            return;
        }
        let mut state = self.state.lock();
        if ids.fold(false, |any, id| state.ledger.done(id) | any) {
            drop(state);
            self.done.notify_waiters();
        }
    }

    /// This member leads no more.
    pub(crate) fn step_down(&self) {
        let mut state = self.state.lock();
        state.ledger.forget();
        state.settled = 0;
        drop(state);
        self.done.notify_waiters();
    }

    /// Whether some quota has a say in a request. None has in a record: whoever set a quota for everything could never
    /// raise it again.
    pub(crate) fn concern(&self, request: &InternalRaftRequest) -> bool {
        self.any() && {
            let state = self.state.lock();
            writes::keys(request).any(|key| !key.starts_with(RECORDS) && state.ledger.is_about(key))
        }
    }

    fn is_settled(&self, term: u64) -> bool {
        self.state.lock().settled == term
    }

    /// Everything of the terms before is applied.
    fn settle(&self, term: u64) {
        let mut state = self.state.lock();
        if state.term != term {
            state.ledger.forget();
            state.term = term;
        }
        state.settled = term;
    }

    /// Decides about a request in a term; one that is admitted counts until [`Quotas::done`]. A term that is not settled
    /// has to wait.
    fn admit(&self, id: u64, term: u64, request: &InternalRaftRequest) -> Result<(), Verdict> {
        let keyspace = self.keyspace.lock();
        let view = View(keyspace.snapshot());
        let writes = writes::of(request, &view);
        let mut state = self.state.lock();
        if state.settled != term {
            return Err(Verdict::Wait);
        }
        state.ledger.admit(id, &writes, &view)
    }

    /// What every budget holds, for who asks, and at most so many of them.
    fn usage(&self, most: usize) -> Vec<(String, Vec<u8>, Usage)> {
        let state = self.state.lock();
        let name = |id: &BudgetId| state.ledger.quotas()[id.quota].name.clone();
        state.ledger.budgets().take(most).map(|(id, usage)| (name(id), id.prefix.clone(), *usage)).collect()
    }

    fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }
}

/// The quotas of all records, in the order of their keys, and no more than are kept.
fn recorded(snapshot: &Snapshot<'_>) -> Vec<Quota> {
    let mut quotas: Vec<Quota> = Vec::new();
    snapshot.scan(&prefix::range(RECORDS), snapshot.revision(), &mut |record| {
        let key = record.key().escape_ascii();
        let more = match quotas_from_json(record.value()) {
            Ok(more) => more,
            Err(error) => {
                tracing::error!(%key, error, "these quotas cannot be held");
                return ControlFlow::Continue(());
            }
        };
        let room = QUOTAS_MAX - quotas.len();
        if more.len() > room {
            let left_out: Vec<&str> = more[room..].iter().map(|quota| &quota.name[..]).collect();
            tracing::error!(%key, ?left_out, "more than {QUOTAS_MAX} quotas: these, and later records, are not held");
        }
        let is_all = more.len() <= room;
        quotas.extend(more.into_iter().take(room));
        if is_all { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    quotas
}

/// The keys that quotas are about, none twice.
fn disjoint(quotas: &[Quota]) -> Vec<KeyRange> {
    let mut prefixes: Vec<&[u8]> = quotas.iter().map(|quota| &quota.prefix[..]).collect();
    prefixes.sort_unstable();
    // Whatever begins with a prefix stands right behind it.
    prefixes.dedup_by(|prefix, kept| prefix.starts_with(kept));
    prefixes.into_iter().map(prefix::range).collect()
}

/// Key and value of a version.
fn size(version: &Version) -> u64 {
    (version.key().len() + version.value().len()) as u64
}

/// The objects that are stored.
struct View<'s>(Snapshot<'s>);

impl View<'_> {
    fn revision(&self) -> i64 {
        self.0.revision()
    }
}

impl Objects for View<'_> {
    fn object(&self, key: &[u8]) -> Option<u64> {
        self.0.get(key, self.0.revision()).as_ref().map(size)
    }

    fn each(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], u64) -> ControlFlow<()>) {
        self.0.scan(range, self.0.revision(), &mut |version| visit(version.key(), size(version)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_counted_twice() {
        let of = |prefix: &str| {
            let line = "{\"quotas\":[{\"name\":\"q\",\"prefix\":\"PREFIX\",\"hard\":{\"objects\":1}}]}";
            quotas_from_json(line.replace("PREFIX", prefix).as_bytes()).expect("a quota").remove(0)
        };
        let ranges = |prefixes: &[&str]| disjoint(&prefixes.iter().map(|prefix| of(prefix)).collect::<Vec<_>>());
        let expected = ["/a/", "/ab/", "/b/c/"].map(|prefix| prefix::range(prefix.as_bytes()));
        assert_eq!(ranges(&["/b/c/", "/a/b/", "/ab/", "/a/", "/b/c/d/", "/a/", "/a/b/c/"]), expected);
        assert_eq!(ranges(&["/a/", "", "/b/"]), [prefix::range(b"")]);
    }
}
