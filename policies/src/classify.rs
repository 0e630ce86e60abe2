//! Identity, method and keys of a request decide its rule, and the rule its level and its flow.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::{
    Client, Distinguisher, LevelId, Match, Mode, Namespace, Policy, Request, Rule, RuleId, cost::Cost, prefix,
};

/// What a policy makes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The rule that acts.
    pub rule: RuleId,
    /// Its level.
    pub level: LevelId,
    /// Which of the rule's flows this is.
    pub flow: u64,
    /// The rule in Shadow mode that would act instead if it were enforced, and its flow.
    pub shadow: Option<(RuleId, u64)>,
}

impl Policy {
    /// The first rule that matches. A rule in Shadow mode has no effect: the search goes on behind it.
    pub fn classify(&self, request: &Request<'_>, predicted: &Cost) -> Class {
        let mut shadow = None;
        for (at, rule) in self.rules.iter().enumerate() {
            if !rule.matches.holds(request, predicted) {
                continue;
            }
            let flow = self.flow(rule, request);
            match rule.mode {
                Mode::Enforce => return Class { rule: RuleId(at), level: rule.level, flow, shadow },
                Mode::Shadow => shadow = shadow.or(Some((RuleId(at), flow))),
            }
        }
        unreachable!("invariant: the last rule matches every request")
    }

    /// The part of the key space a client is confined to, if it is.
    pub fn namespace(&self, client: &Client) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.subjects.iter().any(|subject| subject.matches(client)))
    }

    fn flow(&self, rule: &Rule, request: &Request<'_>) -> u64 {
        let mut hasher = DefaultHasher::new();
        // The seed first: without it, nobody knows the state in which the rest is hashed.
        self.seed.hash(&mut hasher);
        rule.key.hash(&mut hasher);
        for distinguisher in &rule.distinguish {
            match *distinguisher {
                Distinguisher::Client => request.client.name(&self.identity).hash(&mut hasher),
                Distinguisher::Prefix(depth) => prefix::folder(request.key(), depth).hash(&mut hasher),
                Distinguisher::Rpc => request.rpc.hash(&mut hasher),
            }
        }
        hasher.finish()
    }
}

impl Match {
    /// Whether a rule with this match is about the request.
    pub fn holds(&self, request: &Request<'_>, predicted: &Cost) -> bool {
        self.unmet(request, predicted).is_none()
    }

    /// The first condition that does not hold, by its key in the policy file.
    pub fn unmet(&self, request: &Request<'_>, predicted: &Cost) -> Option<&'static str> {
        let under = |prefixes: &[String], test: fn(&[u8], &forebay_proto::KeyRange) -> bool, keys| {
            prefixes.iter().any(|prefix| test(prefix.as_bytes(), keys))
        };
        if !self.rpcs.is_empty() && !self.rpcs.contains(&request.rpc) {
            return Some("rpcs");
        }
        if !self.subjects.is_empty() && !self.subjects.iter().any(|subject| subject.matches(request.client)) {
            return Some("subjects");
        }
        if !self.keys.is_empty()
            && (request.keys.is_empty() || !request.keys.iter().all(|keys| under(&self.keys, prefix::holds, keys)))
        {
            return Some("keys");
        }
        if !self.touching.is_empty() && !request.keys.iter().any(|keys| under(&self.touching, prefix::touches, keys)) {
            return Some("touching");
        }
        if self.min_objects.is_some_and(|least| predicted.objects < least.0) {
            return Some("minObjects");
        }
        if self.min_bytes.is_some_and(|least| predicted.load < least.0) {
            return Some("minBytes");
        }
        None
    }
}
