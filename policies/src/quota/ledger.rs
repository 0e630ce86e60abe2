//! What every budget holds.

use std::collections::BTreeMap;

use super::{BudgetId, Growth};
use crate::Quota;

/// What a budget holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub objects: u64,
    /// Keys and values of the newest revisions.
    pub bytes: u64,
    /// Keys and values of all revisions that are kept.
    pub uncompacted_bytes: u64,
}

/// The usage of all budgets, kept up to date with every change. After a restart it is built again from what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    budgets: BTreeMap<BudgetId, Usage>,
    /// What is on its way: admitted, and not known to be written or not.
    reserved: BTreeMap<BudgetId, Growth>,
}

impl Ledger {
    /// Every budget is empty.
    pub fn new() -> Ledger {
        Ledger::default()
    }

    /// A key was written. `before` is the size of the object it replaced, key and value.
    pub fn put(&mut self, quotas: &[Quota], key: &[u8], before: Option<u64>, size: u64) {
        self.change(quotas, key, |usage| {
            usage.objects += u64::from(before.is_none());
            usage.bytes = (usage.bytes + size).saturating_sub(before.unwrap_or(0));
            usage.uncompacted_bytes += size;
        });
    }

    /// A key was deleted. `before` is the size of its object. The deletion is a revision too, of the key alone.
    pub fn delete(&mut self, quotas: &[Quota], key: &[u8], before: u64) {
        self.change(quotas, key, |usage| {
            usage.objects = usage.objects.saturating_sub(1);
            usage.bytes = usage.bytes.saturating_sub(before);
            usage.uncompacted_bytes += key.len() as u64;
        });
    }

    /// A revision of a key is kept no longer. `size` is that of its object, or of its key if it was a deletion.
    pub fn compact(&mut self, quotas: &[Quota], key: &[u8], size: u64) {
        self.change(quotas, key, |usage| usage.uncompacted_bytes = usage.uncompacted_bytes.saturating_sub(size));
    }

    /// Counts what an admitted request would add as used, until its outcome is known.
    pub fn reserve(&mut self, growth: &BTreeMap<BudgetId, Growth>) {
        for (id, growth) in growth {
            let reserved = self.reserved.entry(id.clone()).or_default();
            // What would take away has not yet.
            reserved.objects += growth.objects.max(0);
            reserved.bytes += growth.bytes.max(0);
            reserved.uncompacted_bytes += growth.uncompacted_bytes.max(0);
        }
    }

    /// The outcome is known: what was written has been told by [`Ledger::put`], what was not never will be.
    pub fn release(&mut self, growth: &BTreeMap<BudgetId, Growth>) {
        for (id, growth) in growth {
            let Some(reserved) = self.reserved.get_mut(id) else { continue };
            reserved.objects -= growth.objects.max(0);
            reserved.bytes -= growth.bytes.max(0);
            reserved.uncompacted_bytes -= growth.uncompacted_bytes.max(0);
            if *reserved == Growth::default() {
                self.reserved.remove(id);
            }
        }
    }

    /// What a budget holds, with what is on its way.
    pub fn used(&self, id: &BudgetId) -> Usage {
        let used = self.budgets.get(id).copied().unwrap_or_default();
        let reserved = self.reserved.get(id).copied().unwrap_or_default();
        Usage {
            objects: used.objects.saturating_add_signed(reserved.objects),
            bytes: used.bytes.saturating_add_signed(reserved.bytes),
            uncompacted_bytes: used.uncompacted_bytes.saturating_add_signed(reserved.uncompacted_bytes),
        }
    }

    /// Every budget that holds something, in order.
    pub fn budgets(&self) -> impl Iterator<Item = (&BudgetId, &Usage)> {
        self.budgets.iter()
    }

    fn change(&mut self, quotas: &[Quota], key: &[u8], change: impl Fn(&mut Usage)) {
        for (quota, spec) in quotas.iter().enumerate() {
            let Some(budget) = spec.budget(key) else { continue };
            let id = BudgetId { quota, prefix: budget.to_vec() };
            let usage = self.budgets.entry(id.clone()).or_default();
            change(usage);
            if *usage == Usage::default() {
                self.budgets.remove(&id);
            }
        }
    }
}
