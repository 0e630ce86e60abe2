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
        if self.elections && !request.elects {
            return Some("elections");
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_proto::KeyRange;

    use super::*;
    use crate::{Rpc, builtin::ADMIN_RULE, file};

    const FILE: &str = "
apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
spec:
  flowRules:
    - {name: late, matchingPrecedence: 50, mode: Enforce, match: {rpcs: [Range]}, priorityLevel: catch-all}
    - {name: elections, matchingPrecedence: 10, mode: Enforce, match: {keys: [/leases/]}, priorityLevel: catch-all}
    - {name: tried, matchingPrecedence: 5, match: {touching: [/leases/, /jobs/]}, priorityLevel: catch-all}
    - {name: jobs, matchingPrecedence: 20, mode: Enforce, match: {touching: [/jobs/], minObjects: 10}, priorityLevel: catch-all}
    - name: greedy
      matchingPrecedence: 1
      mode: Enforce
      match: {}
      priorityLevel: catch-all
      distinguishBy: []
      limits: {requests: 1/h}
  namespaces:
    - {name: team, subjects: [user=a*], prefix: /teams/a/}
";

    fn policy(without: &str) -> Policy {
        let mut policy = file::load(FILE).unwrap_or_else(|problems| panic!("{problems:?}")).policy;
        policy.rules.retain(|rule| rule.name != without);
        policy
    }

    fn rule<'p>(
        policy: &'p Policy,
        client: &Client,
        rpc: Rpc,
        keys: &[KeyRange],
        objects: u64,
    ) -> (&'p str, Option<&'p str>) {
        let request = Request { keys, ..Request::new(client, rpc) };
        let class = policy.classify(&request, &Cost { objects, ..Cost::default() });
        (&policy.rule(class.rule).name, class.shadow.map(|(rule, _)| policy.rule(rule).name.as_str()))
    }

    #[test]
    fn the_first_rule_that_holds_acts_and_shadows_only_watch() {
        let (policy, client) = (policy("greedy"), Client::default());
        let key = |key: &'static str| KeyRange::Key(Bytes::from_static(key.as_bytes()));
        let all = KeyRange::all();
        for (rpc, keys, objects, wanted) in [
            (Rpc::Range, vec![key("/leases/a")], 1, ("elections", Some("tried"))),
            // A key among others buys no way in.
            (Rpc::Range, vec![key("/leases/a"), key("/b")], 1, ("late", Some("tried"))),
            (Rpc::Put, vec![key("/b")], 1, ("forebay-catch-all", None)),
            (Rpc::Range, vec![prefix::range(b"/jobs/")], 10, ("jobs", Some("tried"))),
            (Rpc::Range, vec![prefix::range(b"/jobs/")], 9, ("late", Some("tried"))),
            // A wider range does not evade what restricts.
            (Rpc::Range, vec![all], 10, ("jobs", Some("tried"))),
            (Rpc::LeaseGrant, vec![], 0, ("forebay-catch-all", None)),
        ] {
            assert_eq!(rule(&policy, &client, rpc, &keys, objects), wanted, "{rpc} {keys:?}");
        }
    }

    #[test]
    fn no_file_reaches_the_operator_or_what_keeps_the_cluster_alive() {
        let (policy, client) = (policy(""), Client::default());
        let root = Client { user: Some("root".into()), ..Client::default() };
        for &rpc in Rpc::ALL {
            assert_eq!(rule(&policy, &root, rpc, &[], 0).0, ADMIN_RULE, "{rpc}");
            let own = rule(&policy, &client, rpc, &[], 0).0.starts_with("forebay-");
            assert_eq!(own, rpc.is_reserved(), "{rpc}");
        }
    }

    #[test]
    fn flows_are_what_the_rule_tells_apart() {
        let policy = Policy { seed: 7, ..policy("greedy") };
        let flow = |policy: &Policy, user: &str, key: &str| {
            let client = Client { user: Some(user.into()), ..Client::default() };
            let keys = [KeyRange::Key(Bytes::copy_from_slice(key.as_bytes()))];
            policy.classify(&Request { keys: &keys, ..Request::new(&client, Rpc::Range) }, &Cost::default()).flow
        };
        assert_eq!(flow(&policy, "a", "/x"), flow(&policy, "a", "/y"));
        assert_ne!(flow(&policy, "a", "/x"), flow(&policy, "b", "/x"));
        let mut by_prefix = policy.clone();
        by_prefix.rules.iter_mut().for_each(|rule| rule.distinguish = vec![Distinguisher::Prefix(2)]);
        assert_eq!(flow(&by_prefix, "a", "/x/1"), flow(&by_prefix, "b", "/x/2"));
        assert_ne!(flow(&by_prefix, "a", "/x/1"), flow(&by_prefix, "a", "/y/1"));
        let other = Policy { seed: 8, ..policy.clone() };
        assert_ne!(flow(&policy, "a", "/x"), flow(&other, "a", "/x"));
    }

    #[test]
    fn a_client_is_confined_to_the_first_namespace_that_is_its() {
        let policy = policy("");
        let user = |user: &str| Client { user: Some(user.into()), ..Client::default() };
        assert_eq!(policy.namespace(&user("alice")).map(|namespace| &namespace.prefix[..]), Some(&b"/teams/a/"[..]));
        assert_eq!(policy.namespace(&user("bob")), None);
    }
}
