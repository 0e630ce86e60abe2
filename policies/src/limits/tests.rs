use bytes::Bytes;
use forebay_proto::KeyRange;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::{Client, file, testing::start};

/// A policy with one rule for all, with these limits.
fn policy(rule: &str) -> Policy {
    let text = format!(
        "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  identity: [authUser]\n  flowRules:\n    - \
         {{name: all, matchingPrecedence: 1, mode: Enforce, match: {{}}, priorityLevel: catch-all, {rule}}}\n"
    );
    file::load(&text).unwrap_or_else(|problems| panic!("{rule}: {problems:?}")).policy
}

fn user(name: &str) -> Client {
    Client::default().with(&format!("user={name}")).expect("an attribute")
}

fn key(key: &str) -> [KeyRange; 1] {
    [KeyRange::Key(Bytes::copy_from_slice(key.as_bytes()))]
}

/// A front that charges requests of one byte of load unless said otherwise.
struct Front {
    policy: Policy,
    accounts: Accounts,
}

impl Front {
    fn new(rule: &str) -> Front {
        Front { policy: policy(rule), accounts: Accounts::new() }
    }

    fn ask(&mut self, now: Instant, request: &Request<'_>, load: u64, patience: Duration) -> Charge {
        let cost = Cost { objects: 1, load, units: 125, seats: 1 };
        let class = self.policy.classify(request, &cost);
        self.accounts.charge(now, &self.policy, &class, request, &cost, patience)
    }

    /// The wait before a get of a client passes, or what refuses it.
    fn get(&mut self, now: Instant, client: &str, patience: Duration) -> Result<Duration, Refusal> {
        let (client, keys) = (user(client), key("/a/b"));
        match self.ask(now, &Request { keys: &keys, ..Request::new(&client, Rpc::Range) }, 1, patience).verdict {
            Verdict::Pass(wait, receipt) => {
                self.accounts.settle(now, &self.policy, receipt, 1);
                Ok(wait)
            }
            Verdict::Refuse(refusal) => Err(refusal),
        }
    }
}

const PATIENT: Duration = Duration::from_secs(2);

/// A hundred connections of one client, and of many: neither helps against a rule of 200/s.
#[test]
fn a_rule_of_200_a_second_is_held_to_two_in_a_hundred() {
    for clients in [1, 50] {
        let mut random = StdRng::seed_from_u64(clients);
        let (begin, mut front) = (start(), Front::new("total: {requests: 200/s, burst: 1}, onLimit: Reject"));
        let mut passed = 0;
        for step in 0..60_000u64 {
            let now = begin + Duration::from_micros(step * 500);
            let client = format!("c{}", random.random_range(0..clients));
            passed += u64::from(front.get(now, &client, PATIENT).is_ok());
        }
        assert!((5_880..=6_120).contains(&passed), "{passed} in 30 s, {clients} clients");
    }
}

#[test]
fn who_may_wait_is_paced_and_who_would_wait_too_long_is_refused() {
    let (now, mut front) = (start(), Front::new("limits: {requests: 10/s, burst: 1}"));
    let waits: Vec<_> = (0..22).map(|_| front.get(now, "a", PATIENT).map_err(|refusal| refusal.limit)).collect();
    for (nth, wait) in waits[..21].iter().enumerate() {
        assert_eq!(*wait, Ok(Duration::from_millis(100 * nth as u64)));
    }
    assert_eq!(waits[21], Err(Limit::Requests));
    assert_eq!(front.get(now, "b", PATIENT), Ok(Duration::ZERO), "another flow");
    let refusal = front.get(now, "a", PATIENT).expect_err("refused");
    assert_eq!(refusal.retry_after, Some(Duration::from_millis(2_100)));
}

#[test]
fn load_is_settled_to_what_it_was() {
    let (now, mut front) =
        (start(), Front::new("limits: {load: 1MB/s, loadBurst: 1M}, onLimit: Reject".replace("MB", "M").as_str()));
    let (client, keys) = (user("a"), key("/a/b"));
    let request = Request { keys: &keys, ..Request::new(&client, Rpc::Range) };
    let Verdict::Pass(_, receipt) = front.ask(now, &request, 900_000, PATIENT).verdict else { panic!("refused") };
    assert!(matches!(front.ask(now, &request, 200_000, PATIENT).verdict, Verdict::Refuse(_)));
    front.accounts.settle(now, &front.policy, receipt, 100_000);
    let Verdict::Pass(_, receipt) = front.ask(now, &request, 200_000, PATIENT).verdict else { panic!("refused") };
    front.accounts.settle(now, &front.policy, receipt, u64::MAX);
    let class = front.policy.classify(&request, &Cost::default());
    assert_eq!(front.accounts.left(now, &front.policy, class.rule, class.flow), (None, Some(-1_000_000)));
}

#[test]
fn what_is_held_is_held_until_it_is_settled() {
    let (now, mut front) = (start(), Front::new("limits: {concurrency: 2, watches: 1, streams: 1}"));
    let (client, keys) = (user("a"), key("/a/b"));
    let get = Request { keys: &keys, ..Request::new(&client, Rpc::Range) };
    let watch = Request { keys: &keys, ..Request::new(&client, Rpc::Watch) };
    let stream = Request::new(&client, Rpc::Watch);
    let mut pass = |request: &Request<'_>| match front.ask(now, request, 1, PATIENT).verdict {
        Verdict::Pass(_, receipt) => Ok(receipt),
        Verdict::Refuse(refusal) => Err(refusal.limit),
    };
    let held = [pass(&get), pass(&get), pass(&watch), pass(&stream)];
    assert_eq!(pass(&get).map(drop), Err(Limit::Concurrency));
    assert_eq!(pass(&watch).map(drop), Err(Limit::Watches));
    assert_eq!(pass(&stream).map(drop), Err(Limit::Streams));
    for receipt in held {
        front.accounts.settle(now, &front.policy, receipt.expect("passed"), 1);
    }
    assert!(matches!(front.ask(now, &watch, 1, PATIENT).verdict, Verdict::Pass(..)));
}

#[test]
fn what_is_too_large_is_refused_for_good_and_lists_may_be_paged() {
    let limits = "limits: {requestBytes: 100, ops: 3, objects: 10}";
    let (now, client, keys) = (start(), user("a"), key("/a/b"));
    let list = Request { keys: &keys, ..Request::new(&client, Rpc::Range) };
    let cost = Cost { objects: 11, ..Cost::default() };
    for (rule, request, limit) in [
        (limits, Request { bytes: 101, ..list.clone() }, Some(Limit::RequestBytes)),
        (limits, Request { ops: 4, rpc: Rpc::Txn, ..list.clone() }, Some(Limit::Ops)),
        (limits, list.clone(), Some(Limit::Objects)),
        (&format!("{limits}, onLimit: Paginate"), list.clone(), None),
        (limits, Request { rpc: Rpc::Txn, ..list.clone() }, None),
    ] {
        let policy = policy(rule);
        let class = policy.classify(&request, &cost);
        let refused = match Accounts::new().charge(now, &policy, &class, &request, &cost, PATIENT).verdict {
            Verdict::Refuse(refusal) => Some((refusal.limit, refusal.retry_after)),
            Verdict::Pass(..) => None,
        };
        assert_eq!(refused, limit.map(|limit| (limit, None)), "{rule}");
    }
}

#[test]
fn a_refused_request_is_charged_nowhere() {
    let (now, mut front) =
        (start(), Front::new("limits: {requests: 10/s, burst: 5}, total: {requests: 10/s, burst: 1}, onLimit: Reject"));
    assert!(front.get(now, "a", PATIENT).is_ok());
    for _ in 0..100 {
        assert!(front.get(now, "b", PATIENT).is_err(), "the total is used up");
    }
    assert!(front.get(now + Duration::from_millis(100), "b", PATIENT).is_ok(), "b has lost nothing");
}

#[test]
fn a_rule_in_shadow_mode_says_what_it_would_do_and_does_nothing() {
    let (now, mut policy) = (start(), policy("limits: {requests: 1/s}, onLimit: Reject"));
    policy.rules.iter_mut().filter(|rule| rule.name == "all").for_each(|rule| rule.mode = crate::Mode::Shadow);
    let mut front = Front { policy, accounts: Accounts::new() };
    let client = user("a");
    let request = Request::new(&client, Rpc::Range);
    let shadows: Vec<bool> = (0..3)
        .map(|_| {
            let charge = front.ask(now, &request, 1, PATIENT);
            assert!(matches!(charge.verdict, Verdict::Pass(Duration::ZERO, _)));
            charge.shadow.is_some()
        })
        .collect();
    assert_eq!(shadows, [false, true, true]);
}

#[test]
fn a_policy_that_is_loaded_anew_forgets_no_debt_and_no_watch() {
    let (now, mut front) = (start(), Front::new("limits: {requests: 1/m, watches: 1}, onLimit: Reject"));
    let (client, keys) = (user("a"), key("/a/b"));
    let watch = Request { keys: &keys, ..Request::new(&client, Rpc::Watch) };
    let Verdict::Pass(_, receipt) = front.ask(now, &watch, 1, PATIENT).verdict else { panic!("refused") };
    front.policy = policy("limits: {requests: 2/m, watches: 1}, onLimit: Reject");
    assert!(front.get(now, "a", PATIENT).is_err());
    let later = now + Duration::from_secs(60);
    assert!(matches!(front.ask(later, &watch, 1, PATIENT).verdict, Verdict::Refuse(_)), "the watch is still open");
    front.accounts.settle(later, &front.policy, receipt, 1);
    assert!(matches!(front.ask(later, &watch, 1, PATIENT).verdict, Verdict::Pass(..)));
}

#[test]
fn made_up_names_share_an_account_when_there_are_too_many() {
    let (now, mut front) = (start(), Front::new("limits: {requests: 1/h}, onLimit: Reject"));
    let mut passed = 0;
    for name in 0..FLOWS_MAX + 1_000 {
        passed += usize::from(front.get(now, &format!("n{name}"), PATIENT).is_ok());
    }
    assert!(passed <= FLOWS_MAX + 1, "{passed}");
    assert!(front.accounts.accounts.len() <= FLOWS_MAX + 1);
    let later = now + Duration::from_secs(3_600);
    assert!(front.get(later, "n0", PATIENT).is_ok());
    for name in 0..FLOWS_MAX + 2_000 {
        let _ = front.get(later, &format!("m{}", name % 3_000), PATIENT);
    }
    assert!(front.accounts.accounts.len() < 10_000, "who is idle makes room: {}", front.accounts.accounts.len());
}

#[test]
fn a_rule_of_the_cluster_is_held_to_this_gateways_share() {
    let text = "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  flowRules:\n    \
                - {name: r, matchingPrecedence: 1, mode: Enforce, match: {}, priorityLevel: catch-all, scope: Cluster, \
                onLimit: Reject, limits: {requests: 100/s, burst: 100}}\n";
    let policy = crate::file::load(text).expect("a policy").policy;
    let (now, mut accounts) = (start(), Accounts::new());
    let rule = policy.rules.iter().find(|rule| rule.name == "r").expect("it is there");
    accounts.set_share(rule, Share(250_000));
    let client = crate::Client::default();
    let mut passes = |now| {
        let request = Request::new(&client, Rpc::Put);
        let cost = Cost::predict(&request, None);
        let class = policy.classify(&request, &cost);
        let charge = accounts.charge(now, &policy, &class, &request, &cost, Duration::ZERO);
        matches!(charge.verdict, Verdict::Pass(..))
    };
    assert_eq!((0..100).filter(|_| passes(now)).count(), 25, "a quarter of the burst");
    let second: usize = (1..=1_000).filter(|milli| passes(now + Duration::from_millis(*milli))).count();
    assert_eq!(second, 25, "and of the rate");
    assert_eq!(accounts.take_asked().into_values().collect::<Vec<_>>(), [1_100], "refused or not");
}
