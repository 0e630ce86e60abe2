//! From a document that passed its checks to a policy: names become ids, what is left out becomes its default.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use super::{Allowed, Document, LevelSpec, NamespaceSpec, QuotaSpec, RuleSpec};
use crate::{
    Distinguisher, IdentitySource, Policy, Rule,
    builtin::{self, CATCH_ALL, EXEMPT},
    policy::{Codel, HardLimits, Level, LevelId, Namespace, Quota},
    units::{GoDuration, Percent},
};

pub(super) fn policy(document: &Document) -> Policy {
    let spec = &document.spec;
    let mut levels: Vec<Level> = spec.priority_levels.iter().map(LevelSpec::resolve).collect();
    for name in [EXEMPT, CATCH_ALL] {
        if levels.iter().all(|level| level.name != name) {
            levels.push(builtin::level(name));
        }
    }
    let level = |name: &str| {
        let found = levels.iter().position(|level| level.name == name);
        LevelId(found.expect("invariant: the check found every level that a rule names"))
    };
    let mut rules: Vec<Rule> = spec.flow_rules.iter().map(|rule| rule.resolve(level(&rule.priority_level))).collect();
    rules.sort_by_key(|rule| rule.precedence);
    let admin = spec.admin.clone().unwrap_or_else(builtin::admins);
    rules.splice(..0, builtin::first_rules(admin, level(EXEMPT)));
    rules.push(builtin::last_rule(level(CATCH_ALL)));
    Policy {
        name: document.metadata.as_ref().map_or_else(String::new, |metadata| metadata.name.clone()),
        identity: spec.identity.clone().unwrap_or_else(default_identity),
        trusted_peers: spec.trusted_peers.clone(),
        rules,
        levels,
        quotas: spec.quotas.iter().map(QuotaSpec::resolve).collect(),
        namespaces: spec.namespaces.iter().map(NamespaceSpec::resolve).collect(),
        seed: 0,
    }
}

fn default_identity() -> Vec<IdentitySource> {
    vec![IdentitySource::TlsCommonName, IdentitySource::AuthUser, IdentitySource::PeerIp]
}

/// The hand of a level that does not say: that of Kubernetes.
const HAND_SIZE: u32 = 6;

/// A wait that a thousand clients who each wait for their answer may cause each other is no overload yet.
const CODEL: Codel = Codel { target: Duration::from_millis(250), interval: Duration::from_millis(250) };

impl LevelSpec {
    /// A level that says nothing but its name.
    pub(crate) fn named(name: &str) -> LevelSpec {
        LevelSpec {
            name: name.to_owned(),
            exempt: false,
            shares: None,
            lendable: None,
            borrowing: None,
            queues: None,
            hand_size: None,
            queue_length: None,
            max_wait: None,
            codel: None,
        }
    }

    pub(crate) fn resolve(&self) -> Level {
        let queues = self.queues.unwrap_or(64);
        let codel = self.codel.map(|codel| Codel { target: codel.target.0, interval: codel.interval.0 });
        Level {
            name: self.name.clone(),
            exempt: self.exempt,
            shares: self.shares.unwrap_or(30),
            lendable: self.lendable.unwrap_or(Percent(100)),
            borrowing: self.borrowing,
            queues,
            hand_size: self.hand_size.unwrap_or(HAND_SIZE.min(queues)),
            queue_length: self.queue_length.unwrap_or(50),
            max_wait: self.max_wait.unwrap_or(GoDuration(Duration::from_secs(2))).0,
            codel: codel.unwrap_or(CODEL),
        }
    }
}

impl RuleSpec {
    fn resolve(&self, level: LevelId) -> Rule {
        Rule {
            name: self.name.clone(),
            key: Rule::key_of(&self.name),
            precedence: self.matching_precedence,
            mode: self.mode,
            matches: self.matches.clone(),
            distinguish: self.distinguish_by.clone().unwrap_or_else(|| vec![Distinguisher::Client]),
            level,
            limits: self.limits.clone().unwrap_or_default(),
            total: self.total.clone().unwrap_or_default(),
            on_limit: self.on_limit,
            scope: self.scope,
        }
    }
}

impl Rule {
    pub(crate) fn key_of(name: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        hasher.finish()
    }
}

impl QuotaSpec {
    pub(super) fn resolve(&self) -> Quota {
        Quota {
            name: self.name.clone(),
            mode: self.mode,
            prefix: self.prefix.clone().into_bytes(),
            per: self.per.map(|segment| segment.0),
            hard: HardLimits {
                objects: self.hard.objects.map(|objects| objects.0),
                bytes: self.hard.bytes.map(|bytes| bytes.0),
                object_bytes: self.hard.object_bytes.map(|bytes| bytes.0),
                uncompacted_bytes: self.hard.uncompacted_bytes.map(|bytes| bytes.0),
            },
            warn_at: self.warn_at.unwrap_or(Percent(80)),
            allow_updates: self
                .allow_when_exceeded
                .as_ref()
                .is_none_or(|allowed| allowed.contains(&Allowed::UpdateNotLarger)),
        }
    }
}

impl NamespaceSpec {
    fn resolve(&self) -> Namespace {
        Namespace { name: self.name.clone(), subjects: self.subjects.clone(), prefix: self.prefix.clone().into_bytes() }
    }
}
