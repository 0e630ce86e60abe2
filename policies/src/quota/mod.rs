//! Quotas: how much may lie under a prefix.
//!
//! Only growth is refused. [`Writes`] says what a request would write, [`Ledger`] what each budget holds, and
//! [`decide`] compares. Everything is integers and ordered maps, so that members of a cluster that decide the same
//! entry of the log decide it alike.
//!
//! | While a budget is full | |
//! |---|---|
//! | deletes, lease revokes | pass |
//! | a put of a new key | refused |
//! | an update that makes its object smaller | passes |
//! | one of the same size | passes, but for `uncompactedBytes`, which every revision adds to |
//! | one that makes it larger | refused if bytes are what the budget lacks |

mod ledger;
mod writes;

use std::{collections::BTreeMap, fmt};

use forebay_proto::KeyRange;

use crate::{Mode, Quota, prefix};
pub use ledger::{Ledger, Usage};
pub use writes::{Branch, Writes};

/// What a quota bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    Objects,
    Bytes,
    ObjectBytes,
    UncompactedBytes,
}

/// Which budget: the index of its quota, and the prefix it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetId {
    pub quota: usize,
    pub prefix: Vec<u8>,
}

/// What a request would add to a budget. Negative when it takes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    pub objects: i64,
    pub bytes: i64,
    /// What revisions it adds that may be refused.
    pub uncompacted_bytes: i64,
}

/// The objects that exist, as whoever decides knows them.
pub trait Objects {
    /// The bytes of an object, key and value; none if the key does not exist.
    fn object(&self, key: &[u8]) -> Option<u64>;

    /// How many objects are in a range, and their bytes. A view that does not know says none.
    fn live(&self, range: &KeyRange) -> (u64, u64);
}

/// A budget that would hold more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub quota: String,
    pub resource: Resource,
    pub prefix: Vec<u8>,
    pub used: u64,
    pub hard: u64,
    /// What the request would add; the size of the object for [`Resource::ObjectBytes`].
    pub asked: u64,
}

/// What quotas say to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Why it is refused, if it is.
    pub refused: Option<Exceeded>,
    /// What quotas in Shadow mode would have refused.
    pub shadow: Vec<Exceeded>,
    /// What it adds where. To be [reserved](Ledger::reserve) by whoever learns of the outcome later.
    pub growth: BTreeMap<BudgetId, Growth>,
}

/// Decides whether a request's writes keep to the quotas.
pub fn decide(quotas: &[Quota], ledger: &Ledger, objects: &impl Objects, writes: &Writes<'_>) -> Decision {
    let mut decision = Decision::default();
    let mut refuse = |quota: &Quota, exceeded: Exceeded| match quota.mode {
        Mode::Enforce => decision.refused = decision.refused.take().or(Some(exceeded)),
        Mode::Shadow => decision.shadow.push(exceeded),
    };
    let mut growth: BTreeMap<BudgetId, Growth> = BTreeMap::new();
    for put in writes.puts() {
        let existing = objects.object(put.key);
        let size = put.size.or(existing).unwrap_or(put.key.len() as u64);
        for (index, quota) in quotas.iter().enumerate() {
            let Some(budget) = quota.budget(put.key) else { continue };
            let grown = existing.is_none_or(|existing| size > existing);
            if let Some(hard) = quota.hard.object_bytes.filter(|hard| size > *hard)
                && (grown || !quota.allow_updates)
            {
                let used = existing.unwrap_or(0);
                refuse(quota, quota.exceeded(Resource::ObjectBytes, budget, used, hard, size));
            }
            let id = BudgetId { quota: index, prefix: budget.to_vec() };
            let used = ledger.used(&id);
            if !quota.allow_updates
                && !grown
                && let Some((resource, used, hard)) = quota.first_exceeded(&used)
            {
                refuse(quota, quota.exceeded(resource, budget, used, hard, 0));
            }
            let entry = growth.entry(id).or_default();
            entry.objects += i64::from(existing.is_none());
            entry.bytes += signed(size) - signed(existing.unwrap_or(0));
            if existing.is_none_or(|existing| size >= existing) {
                entry.uncompacted_bytes += signed(size);
            }
        }
    }
    for (id, entry) in &mut growth {
        for range in writes.deletes() {
            let (freed, bytes) = objects.live(&prefix::within(&id.prefix, range));
            entry.objects -= signed(freed);
            entry.bytes -= signed(bytes);
        }
        let quota = &quotas[id.quota];
        let used = ledger.used(id);
        for (resource, used, hard, asked) in [
            (Resource::Objects, used.objects, quota.hard.objects, entry.objects),
            (Resource::Bytes, used.bytes, quota.hard.bytes, entry.bytes),
            (Resource::UncompactedBytes, used.uncompacted_bytes, quota.hard.uncompacted_bytes, entry.uncompacted_bytes),
        ] {
            let (Some(hard), Ok(asked)) = (hard, u64::try_from(asked)) else { continue };
            if asked > 0 && used.saturating_add(asked) > hard {
                refuse(quota, quota.exceeded(resource, &id.prefix, used, hard, asked));
            }
        }
    }
    decision.growth = growth;
    decision
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX / 4)
}

impl Quota {
    /// The prefix of the budget that a key belongs to, if the quota is about the key.
    pub fn budget<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        if !key.starts_with(&self.prefix) {
            return None;
        }
        let own = &key[..self.prefix.len()];
        // A key that is less deep than the budgets belongs to the folder it lies in, or to the prefix itself.
        Some(self.per.map_or(own, |depth| prefix::folder(key, depth)).max(own))
    }

    fn exceeded(&self, resource: Resource, budget: &[u8], used: u64, hard: u64, asked: u64) -> Exceeded {
        Exceeded { quota: self.name.clone(), resource, prefix: budget.to_vec(), used, hard, asked }
    }

    fn first_exceeded(&self, used: &Usage) -> Option<(Resource, u64, u64)> {
        let bounds = [
            (Resource::Objects, used.objects, self.hard.objects),
            (Resource::Bytes, used.bytes, self.hard.bytes),
            (Resource::UncompactedBytes, used.uncompacted_bytes, self.hard.uncompacted_bytes),
        ];
        bounds
            .into_iter()
            .find_map(|(resource, used, hard)| hard.filter(|hard| used > *hard).map(|hard| (resource, used, hard)))
    }
}

impl Resource {
    /// The key in the policy file.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Objects => "objects",
            Resource::Bytes => "bytes",
            Resource::ObjectBytes => "objectBytes",
            Resource::UncompactedBytes => "uncompactedBytes",
        }
    }
}

/// The text that clients are told. It is not etcd's text for a full database, on which clients and operators act
/// differently.
impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exceeded { quota, resource, prefix, used, hard, asked } = self;
        let prefix = prefix.escape_ascii();
        match resource {
            Resource::ObjectBytes => {
                write!(
                    f,
                    "forebay: quota {quota} exceeded: an object of {asked} bytes under {prefix}, limited to {hard}"
                )
            }
            _ => {
                let resource = resource.name();
                write!(
                    f,
                    "forebay: quota {quota} exceeded: {used} of {hard} {resource} under {prefix} used, {asked} more asked"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
