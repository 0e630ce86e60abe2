//! What every budget holds, and what is on its way into it.
//!
//! Whoever decides about a write decides before it is carried out, and others may be carried out in between, in any
//! order or not at all. So a budget is charged with the most that it could come to: with every object that is stored,
//! and every object that a request on its way may make. A key that is both counts once. That never exceeds what the
//! quota allows, whatever becomes of the requests; and once they are all done, it is what is stored.
//!
//! | A key | is charged with |
//! |---|---|
//! | that is stored | its object |
//! | that requests on their way put | the largest of its object and theirs |
//! | that is stored, and that a request on its way deletes or shrinks to make room | its object without that room |
//!
//! Such room is used by nobody but the request that makes it: for others it comes free when it has come true.

use std::{collections::BTreeMap, ops::ControlFlow};

use super::{BudgetId, Exceeded, Objects, Resource, Writes};
use crate::{Quota, prefix};

/// What a budget holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub objects: u64,
    /// Keys and values of the newest revisions.
    pub bytes: u64,
    /// Keys and values of all revisions that are kept.
    pub uncompacted_bytes: u64,
}

/// Why a write is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits into what is stored, but not if all that is on its way comes true: ask again when something was done.
    Wait,
    /// It does not fit.
    Refused(Exceeded),
    /// A request with its id is on its way.
    Repeated,
}

/// The usage of all budgets of some quotas, kept up to date with every change and every request on its way.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    quotas: Vec<Quota>,
    budgets: BTreeMap<BudgetId, Budget>,
    /// The keys that requests on their way are about.
    keys: BTreeMap<Vec<u8>, Key>,
    requests: BTreeMap<u64, Request>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Budget {
    stored: Usage,
    /// What is on its way adds at most.
    coming: Amount,
}

/// A difference of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Amount {
    objects: i64,
    bytes: i64,
    uncompacted_bytes: i64,
}

/// A key that requests on their way are about.
#[derive(Clone, Debug, Default)]
struct Key {
    /// The size of its object, if it is stored.
    stored: Option<u64>,
    /// The sizes of the objects that requests put there.
    puts: Vec<u64>,
    /// The room that one request makes by deleting or shrinking it.
    room: Room,
    /// It has its place by room that its request makes elsewhere. Nobody else may have that place: it is there only if
    /// that request comes true.
    owned: bool,
}

/// Objects and bytes of a key that a request gives up, and uses for what else it puts, by quota.
type Room = BTreeMap<usize, (i64, i64)>;

#[derive(Clone, Debug, Default)]
struct Request {
    puts: Vec<(Vec<u8>, u64)>,
    /// Keys that it deletes or shrinks to make room.
    rooms: Vec<Vec<u8>>,
}

impl Key {
    /// What the key adds to what is stored in its budget of a quota, at most.
    fn coming(&self, quota: usize) -> Amount {
        let stored = self.stored.map_or(0, signed);
        let (objects, bytes) = self.room.get(&quota).copied().unwrap_or_default();
        let (objects, bytes) = match &self.puts[..] {
            [] => (-objects.min(i64::from(self.stored.is_some())), -bytes.min(stored)),
            [put] => {
                let grown = signed(*put) - stored;
                (i64::from(self.stored.is_none()), grown.max(-bytes))
            }
            puts => {
                let largest = puts.iter().copied().map(signed).max().unwrap_or(0);
                (i64::from(self.stored.is_none()), (largest - stored).max(0))
            }
        };
        Amount { objects, bytes, uncompacted_bytes: 0 }
    }
}

impl Ledger {
    /// Every budget is empty.
    pub fn new(quotas: Vec<Quota>) -> Ledger {
        Ledger { quotas, ..Ledger::default() }
    }

    /// What it keeps.
    pub fn quotas(&self) -> &[Quota] {
        &self.quotas
    }

    /// A key was written. `before` is the size of the object that it replaced, key and value.
    pub fn put(&mut self, key: &[u8], before: Option<u64>, size: u64) {
        self.change(key, Some(size), |stored| {
            stored.objects += u64::from(before.is_none());
            stored.bytes = (stored.bytes + size).saturating_sub(before.unwrap_or(0));
            stored.uncompacted_bytes += size;
        });
    }

    /// A key was deleted. `before` is the size of its object. The deletion is a revision too, of the key alone.
    pub fn delete(&mut self, key: &[u8], before: u64) {
        self.change(key, None, |stored| {
            stored.objects = stored.objects.saturating_sub(1);
            stored.bytes = stored.bytes.saturating_sub(before);
            stored.uncompacted_bytes += key.len() as u64;
        });
    }

    /// A revision is there from before, and is not the newest of its key. `size` is that of its object, or of its key
    /// if it is a deletion.
    pub fn keep(&mut self, key: &[u8], size: u64) {
        self.each_budget(key, |budget| budget.stored.uncompacted_bytes += size);
    }

    /// A revision is kept no longer.
    pub fn compact(&mut self, key: &[u8], size: u64) {
        self.each_budget(key, |budget| {
            budget.stored.uncompacted_bytes = budget.stored.uncompacted_bytes.saturating_sub(size);
        });
    }

    /// Decides whether a request's writes keep to the quotas. If so, they count until [`Ledger::done`] is called with
    /// the same id.
    pub fn admit(&mut self, id: u64, writes: &Writes<'_>, objects: &impl Objects) -> Result<(), Verdict> {
        if self.requests.contains_key(&id) {
            return Err(Verdict::Repeated);
        }
        let puts: Vec<(&[u8], u64)> = writes.puts().filter(|(key, _)| self.is_about(key)).collect();
        let mut asked: BTreeMap<BudgetId, Amount> = BTreeMap::new();
        let mut least = asked.clone();
        for (key, size) in &puts {
            let stored = objects.object(key);
            self.check_object(key, *size, stored)?;
            let before = self.keys.get(*key).cloned().unwrap_or(Key { stored, ..Key::default() });
            if before.owned {
                return Err(Verdict::Wait);
            }
            let mut after = before.clone();
            after.puts.push(*size);
            // A revision that makes its object smaller is how a full budget is emptied.
            let revision = if stored.is_none_or(|stored| *size >= stored) { signed(*size) } else { 0 };
            for id in self.budgets_of(key) {
                let (before, after) = (before.coming(id.quota), after.coming(id.quota));
                let asked = asked.entry(id.clone()).or_default();
                asked.objects += after.objects - before.objects;
                asked.bytes += after.bytes - before.bytes;
                asked.uncompacted_bytes += revision;
                let least = least.entry(id).or_default();
                least.objects += i64::from(stored.is_none());
                least.bytes += (signed(*size) - stored.map_or(0, signed)).max(0);
                least.uncompacted_bytes += revision;
            }
        }
        let mut room: BTreeMap<Vec<u8>, Room> = BTreeMap::new();
        for (id, asked) in &asked {
            let budget = self.budgets.get(id).copied().unwrap_or_default();
            let mut lacks = Lack::of(&self.quotas[id.quota], budget.stored, budget.coming, *asked);
            if !lacks.is_none() && !lacks.uncompacted {
                self.make_room(id, writes, objects, &mut lacks, &mut room);
            }
            if lacks.is_none() {
                continue;
            }
            let quota = &self.quotas[id.quota];
            let alone = Lack::of(quota, budget.stored, Amount::default(), least[id]);
            let waiting = !self.requests.is_empty();
            // What it gives up itself may be counted on once nobody else writes the keys.
            let helps = alone.is_none() || writes.gives_up();
            let exceeded = |lacks: &Lack| lacks.exceeded(quota, id, budget.stored, *asked);
            return Err(match waiting && helps {
                true => Verdict::Wait,
                false => Verdict::Refused(exceeded(if waiting { &alone } else { &lacks })),
            });
        }
        self.begin(id, &puts, room, objects);
        Ok(())
    }

    /// A request that was admitted is over: it was carried out, and its changes were told, or it never will be.
    pub fn done(&mut self, id: u64) -> bool {
        let Some(request) = self.requests.remove(&id) else { return false };
        for (key, size) in request.puts {
            self.each_budget(&key, |budget| budget.coming.uncompacted_bytes -= signed(size));
            self.change_key(&key, |state| {
                let at =
                    state.puts.iter().position(|put| *put == size).expect("invariant: a put counts until it is done");
                state.puts.swap_remove(at);
                state.owned = false;
            });
        }
        for key in request.rooms {
            self.change_key(&key, |state| state.room.clear());
        }
        true
    }

    /// Forgets all that is on its way: somebody else decides from now on, or nothing of it can come any more.
    pub fn forget(&mut self) {
        self.requests.clear();
        self.keys.clear();
        self.budgets.retain(|_, budget| {
            budget.coming = Amount::default();
            *budget != Budget::default()
        });
    }

    /// Counts what is on its way by the ledger that this one replaces, as far as it is about the same keys.
    ///
    /// The room that such a request makes is not counted on: it comes free when it has come true.
    pub fn carry(&mut self, before: Ledger, objects: &impl Objects) {
        for (id, request) in before.requests {
            let puts = request.puts.iter().map(|(key, size)| (&key[..], *size));
            let puts: Vec<(&[u8], u64)> = puts.filter(|(key, _)| self.is_about(key)).collect();
            self.begin(id, &puts, BTreeMap::new(), objects);
        }
    }

    /// Whether a key belongs to a budget.
    pub fn is_about(&self, key: &[u8]) -> bool {
        self.quotas.iter().any(|quota| key.starts_with(&quota.prefix))
    }

    /// What a budget holds.
    pub fn used(&self, id: &BudgetId) -> Usage {
        self.budgets.get(id).map_or_else(Usage::default, |budget| budget.stored)
    }

    /// Every budget that holds something, in order.
    pub fn budgets(&self) -> impl Iterator<Item = (&BudgetId, &Usage)> {
        self.budgets.iter().map(|(id, budget)| (id, &budget.stored)).filter(|(_, stored)| **stored != Usage::default())
    }

    /// Refuses an object that is too large for any room, and what a quota forbids while it is exceeded.
    fn check_object(&self, key: &[u8], size: u64, stored: Option<u64>) -> Result<(), Verdict> {
        let grown = stored.is_none_or(|stored| size > stored);
        for (index, quota) in self.quotas.iter().enumerate() {
            let Some(prefix) = quota.budget(key) else { continue };
            if !grown && quota.allow_updates {
                continue;
            }
            if let Some(hard) = quota.hard.object_bytes.filter(|hard| size > *hard) {
                let used = stored.unwrap_or(0);
                return Err(Verdict::Refused(quota.exceeded(Resource::ObjectBytes, prefix, used, hard, size)));
            }
            let used = self.used(&BudgetId { quota: index, prefix: prefix.to_vec() });
            if let Some((resource, used, hard)) = quota.first_exceeded(&used).filter(|_| !grown) {
                return Err(Verdict::Refused(quota.exceeded(resource, prefix, used, hard, 0)));
            }
        }
        Ok(())
    }

    /// Finds objects that the request certainly shrinks or deletes itself, until what it lacks is there or there are no
    /// more.
    fn make_room(
        &self,
        id: &BudgetId,
        writes: &Writes<'_>,
        objects: &impl Objects,
        lacks: &mut Lack,
        room: &mut BTreeMap<Vec<u8>, Room>,
    ) {
        // What others put or delete too may be there again, or be gone, when this request's turn has come.
        let is_free = |key: &[u8]| !self.keys.contains_key(key);
        if !writes.puts().all(|(key, _)| is_free(key)) {
            return;
        }
        for (key, size) in writes.puts().filter(|_| writes.is_certain()) {
            let is_here = self.quotas[id.quota].budget(key) == Some(&id.prefix[..]);
            let shrunk = objects.object(key).map_or(0, |stored| signed(stored) - signed(size));
            if is_here && shrunk.min(lacks.bytes) > 0 {
                let made = shrunk.min(lacks.bytes);
                room.entry(key.to_vec()).or_default().insert(id.quota, (0, made));
                lacks.bytes -= made;
            }
        }
        for range in writes.deletes() {
            objects.each(&prefix::within(&id.prefix, range), &mut |key, size| {
                // What it puts itself stays.
                if is_free(key) && !writes.puts_key(key) {
                    let made = (lacks.objects.clamp(0, 1), lacks.bytes.clamp(0, signed(size)));
                    room.entry(key.to_vec()).or_default().insert(id.quota, made);
                    lacks.objects -= made.0;
                    lacks.bytes -= made.1;
                }
                if lacks.is_none() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
        }
    }

    fn begin(&mut self, id: u64, puts: &[(&[u8], u64)], room: BTreeMap<Vec<u8>, Room>, objects: &impl Objects) {
        // Without quotas there is nothing to count, and a ledger is not told what is done.
        if self.quotas.is_empty() {
            return;
        }
        let mut request = Request::default();
        for (key, size) in puts {
            self.track(key, objects);
            self.each_budget(key, |budget| budget.coming.uncompacted_bytes += signed(*size));
            self.change_key(key, |state| {
                state.puts.push(*size);
                state.owned = !room.is_empty();
            });
            request.puts.push((key.to_vec(), *size));
        }
        for (key, room) in room {
            self.track(&key, objects);
            self.change_key(&key, |state| state.room = room);
            request.rooms.push(key);
        }
        self.requests.insert(id, request);
    }

    fn track(&mut self, key: &[u8], objects: &impl Objects) {
        if !self.keys.contains_key(key) {
            self.keys.insert(key.to_vec(), Key { stored: objects.object(key), ..Key::default() });
        }
    }

    /// What is stored under a key has changed.
    fn change(&mut self, key: &[u8], now: Option<u64>, change: impl Fn(&mut Usage)) {
        if !self.is_about(key) {
            return;
        }
        self.each_budget(key, |budget| change(&mut budget.stored));
        if self.keys.contains_key(key) {
            self.change_key(key, |state| state.stored = now);
        }
    }

    /// Changes what is known of a key that requests are about, and what it adds to its budgets.
    fn change_key(&mut self, key: &[u8], change: impl FnOnce(&mut Key)) {
        let state = self.keys.get_mut(key).expect("invariant: the keys of requests on their way are known");
        let before = state.clone();
        change(state);
        let after = state.clone();
        if after.puts.is_empty() && after.room.is_empty() {
            self.keys.remove(key);
        }
        for id in self.budgets_of(key) {
            let (before, after) = (before.coming(id.quota), after.coming(id.quota));
            self.change_budget(id, |budget| {
                budget.coming.objects += after.objects - before.objects;
                budget.coming.bytes += after.bytes - before.bytes;
            });
        }
    }

    fn each_budget(&mut self, key: &[u8], change: impl Fn(&mut Budget)) {
        for id in self.budgets_of(key) {
            self.change_budget(id, &change);
        }
    }

    fn change_budget(&mut self, id: BudgetId, change: impl FnOnce(&mut Budget)) {
        let budget = self.budgets.entry(id.clone()).or_default();
        change(budget);
        if *budget == Budget::default() {
            self.budgets.remove(&id);
        }
    }

    fn budgets_of(&self, key: &[u8]) -> impl Iterator<Item = BudgetId> + use<> {
        let ids = self.quotas.iter().enumerate().filter_map(|(quota, spec)| {
            let prefix = spec.budget(key)?.to_vec();
            Some(BudgetId { quota, prefix })
        });
        ids.collect::<smallvec::SmallVec<[BudgetId; 2]>>().into_iter()
    }
}

/// What a budget lacks for a request; nothing where it is not positive.
struct Lack {
    objects: i64,
    bytes: i64,
    uncompacted: bool,
}

impl Lack {
    fn of(quota: &Quota, stored: Usage, coming: Amount, asked: Amount) -> Lack {
        let over = |hard: Option<u64>, used: u64, coming: i64, asked: i64| match hard {
            // Only growth is refused: what is too much already is not the request's doing.
            Some(hard) if asked > 0 => {
                (signed(used).saturating_add(coming).saturating_add(asked) - signed(hard)).min(asked)
            }
            _ => 0,
        };
        let uncompacted = over(
            quota.hard.uncompacted_bytes,
            stored.uncompacted_bytes,
            coming.uncompacted_bytes,
            asked.uncompacted_bytes,
        );
        Lack {
            objects: over(quota.hard.objects, stored.objects, coming.objects, asked.objects),
            bytes: over(quota.hard.bytes, stored.bytes, coming.bytes, asked.bytes),
            uncompacted: uncompacted > 0,
        }
    }

    fn is_none(&self) -> bool {
        self.objects <= 0 && self.bytes <= 0 && !self.uncompacted
    }

    fn exceeded(&self, quota: &Quota, id: &BudgetId, stored: Usage, asked: Amount) -> Exceeded {
        let (resource, used, hard, asked) = if self.objects > 0 {
            (Resource::Objects, stored.objects, quota.hard.objects, asked.objects)
        } else if self.bytes > 0 {
            (Resource::Bytes, stored.bytes, quota.hard.bytes, asked.bytes)
        } else {
            (
                Resource::UncompactedBytes,
                stored.uncompacted_bytes,
                quota.hard.uncompacted_bytes,
                asked.uncompacted_bytes,
            )
        };
        quota.exceeded(resource, &id.prefix, used, hard.unwrap_or(0), asked.cast_unsigned())
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
impl Ledger {
    pub(super) fn keys_on_their_way(&self) -> usize {
        let coming = self.budgets.values().filter(|budget| budget.coming != Amount::default()).count();
        self.keys.len() + self.requests.len() + coming
    }
}
