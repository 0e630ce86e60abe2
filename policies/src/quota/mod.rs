//! Quotas: how much may lie under a prefix.
//!
//! Only growth is refused. [`Writes`] says what a request would write, and a [`Ledger`] knows what each budget holds
//! and what is on its way into it, and decides.
//!
//! | While a budget is full | |
//! |---|---|
//! | deletes, lease revokes | pass |
//! | a put of a new key | refused |
//! | an update that makes its object smaller | passes |
//! | one of the same size | passes, but for `uncompactedBytes`, which every revision adds to |
//! | one that makes it larger | refused if bytes are what the budget lacks |
//! | a txn that puts and deletes | passes if it deletes as much as it adds |

mod ledger;
mod writes;

use std::{fmt, ops::ControlFlow};

use forebay_proto::KeyRange;

use crate::{Quota, prefix};
pub use ledger::{Ledger, Usage, Verdict};
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

/// The objects that exist, as whoever decides knows them.
pub trait Objects {
    /// The bytes of an object, key and value; none if the key does not exist.
    fn object(&self, key: &[u8]) -> Option<u64>;

    /// Shows the objects in a range with their bytes, in order, until `visit` breaks. A view that does not know shows
    /// none.
    fn each(&self, range: &KeyRange, visit: &mut dyn FnMut(&[u8], u64) -> ControlFlow<()>);
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
