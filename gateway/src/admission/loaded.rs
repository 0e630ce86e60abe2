//! A policy in force, with the seats that its levels share.

use std::sync::Arc;

use forebay_policies::{Policy, RuleId, adaptive::Gradient};
use prometheus::IntCounter;
use rand::Rng as _;

use super::{identity::Naming, metrics::Metrics, seats::Seats};

/// Seats to begin with, before anything was measured. Writes that come together are committed together,
/// so more of them cost the upstream little.
const READS: u32 = 200;
const WRITES: u32 = 500;

/// A policy and what goes with it. Requests that were let in under a policy end under it.
pub(crate) struct Loaded {
    pub(crate) policy: Policy,
    pub(super) naming: Naming,
    pub(super) reads: Arc<Seats>,
    pub(super) writes: Arc<Seats>,
    /// How many requests each rule has let in, in every policy that had a rule of the name.
    admitted: Vec<IntCounter>,
}

impl Loaded {
    pub(super) fn new(mut policy: Policy, metrics: &Metrics, previous: Option<&Loaded>) -> Loaded {
        policy.seed = rand::rng().random();
        let naming = Naming::new(&policy);
        let seats = |initial| Seats::new(&policy.levels, Gradient { initial, ..Gradient::default() });
        let admitted = policy.rules.iter().map(|rule| metrics.admitted.with_label_values(&[&rule.name])).collect();
        // What was found out of the upstream holds under every policy.
        let reads = seats(previous.map_or(READS, |previous| previous.reads.seats().0));
        let writes = seats(previous.map_or(WRITES, |previous| previous.writes.seats().0));
        Loaded { reads, writes, admitted, naming, policy }
    }

    /// A rule has let a request in.
    pub(super) fn admit(&self, rule: RuleId) {
        self.admitted[rule.0].inc();
    }

    /// How many it has let in.
    pub(super) fn admitted(&self, rule: RuleId) -> u64 {
        self.admitted[rule.0].get()
    }
}
