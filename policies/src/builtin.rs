//! What every policy has, whatever its file says.
//!
//! The first rules of a policy are ours. They let the operator in past every limit, and keep the methods that etcd's
//! clients live by out of all queues; no file can change that, so no file can lock its author out. The last rule takes
//! what no other matches.

use crate::{
    Distinguisher, Limits, Match, Mode, OnLimit, Policy, Rpc, Rule, Scope, Subject, file,
    policy::{Level, LevelId, OURS},
    units::{Quantity, Rate},
};

/// The policy without a file.
const TEXT: &str = include_str!("builtin.yaml");

/// The level of requests that neither wait nor count.
pub const EXEMPT: &str = "exempt";
/// The level of requests that no rule matches.
pub const CATCH_ALL: &str = "catch-all";
/// The rule of the operator's requests.
pub const ADMIN_RULE: &str = "forebay-admin";

/// Who is the operator unless the file says otherwise.
pub(crate) fn admins() -> Vec<Subject> {
    ["CN=root", "user=root", "listener=admin"]
        .map(|subject| subject.parse().expect("invariant: our own subjects can be read"))
        .to_vec()
}

impl Policy {
    /// The policy that holds when no file is given.
    pub fn builtin() -> Policy {
        match file::load(TEXT) {
            Ok(loaded) => loaded.policy,
            Err(problems) => unreachable!("invariant: the built-in policy is valid: {problems:?}"),
        }
    }

    /// The text of [`Policy::builtin`], to begin an own file with.
    pub fn builtin_text() -> &'static str {
        TEXT
    }
}

/// The rules before those of the file.
pub(crate) fn first_rules(admin: Vec<Subject>, exempt: LevelId) -> Vec<Rule> {
    let per_client =
        |requests, burst| Limits { requests: Some(requests), burst: Some(Quantity(burst)), ..Limits::default() };
    let rpcs = |rpcs: &[Rpc]| Match { rpcs: rpcs.to_vec(), ..Match::default() };
    let reserved: Vec<Rpc> = Rpc::ALL.iter().copied().filter(|rpc| rpc.is_reserved()).collect();
    vec![
        ours("admin", Match { subjects: admin, ..Match::default() }, exempt, Limits::default()),
        // Checking a password is slow on purpose, so guessing them would be an attack on the processor.
        ours("authenticate", rpcs(&[Rpc::Authenticate]), exempt, per_client(Rate::per_second(20), 100)),
        // Who waits for a lock, or leads, does so with a key under his lease; if it comes late, he is deposed.
        ours(
            "elections",
            Match { elections: true, ..Match::default() },
            exempt,
            per_client(Rate::per_second(1_000), 2_000),
        ),
        // Each of these reads or writes the whole database.
        ours(
            "maintenance",
            rpcs(&[Rpc::Snapshot, Rpc::Defragment]),
            exempt,
            Limits { concurrency: Some(4), ..per_client(Rate::per_second(1), 10) },
        ),
        // Loose: hundreds of times what the busiest client of a large cluster needs.
        ours("reserved", rpcs(&reserved), exempt, per_client(Rate::per_second(10_000), 20_000)),
    ]
}

/// The rule behind those of the file.
pub(crate) fn last_rule(level: LevelId) -> Rule {
    ours("catch-all", Match::default(), level, Limits::default())
}

fn ours(name: &str, matches: Match, level: LevelId, limits: Limits) -> Rule {
    let name = format!("{OURS}{name}");
    Rule {
        key: Rule::key_of(&name),
        name,
        precedence: 0,
        mode: Mode::Enforce,
        matches,
        distinguish: vec![Distinguisher::Client],
        level,
        limits,
        total: Limits::default(),
        on_limit: OnLimit::Reject,
        scope: Scope::Gateway,
    }
}

/// A level for names that the file may leave out.
pub(crate) fn level(name: &str) -> Level {
    let spec = file::LevelSpec { exempt: name == EXEMPT, ..file::LevelSpec::named(name) };
    Level { shares: 5, ..spec.resolve() }
}
