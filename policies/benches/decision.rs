//! What a request's admission costs: `cargo bench -p forebay-policies --bench decision`.
//!
//! Everything that is decided about a request from its arrival to the end of its answer, one part after the other and
//! then all of it. Figures are CPU time of this one thread.

#![allow(clippy::print_stdout, reason = "a bench reports on its output")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_policies::{
    Accounts, Actual, Client, Cost, Enqueued, Entry, Policy, Request, Rpc, Scheduler, Sizes, Verdict,
    adaptive::{AdaptiveLimit, Gradient, Outcome},
    file,
    heavy::{Accounting, Sums},
    prefix,
};
use forebay_proto::KeyRange;
use rustix::time::{ClockId, clock_gettime};

const REQUESTS: u32 = 300_000;

/// The CPU time of `work` for each request, in nanoseconds.
fn cpu(what: &str, mut work: impl FnMut(u32)) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    (0..REQUESTS / 10).for_each(&mut work);
    let begin = now();
    (0..REQUESTS).for_each(&mut work);
    println!("{what:<44}{:>8.0} ns", (now() - begin) / f64::from(REQUESTS));
}

/// Twenty rules that do not match, and one that does and has every kind of limit.
fn policy() -> Policy {
    let mut text = String::from(
        "apiVersion: forebay.dev/v1alpha1\nkind: TrafficPolicy\nspec:\n  priorityLevels:\n    - {name: work, queues: 128}\n  flowRules:\n",
    );
    for rule in 0..20 {
        text += &format!(
            "    - {{name: r{rule}, matchingPrecedence: {}, mode: Enforce, priorityLevel: work, match: {{subjects: [\"CN=other-{rule}\"], keys: [/other/{rule}/]}}}}\n",
            rule + 1
        );
    }
    text += "    - name: all\n      matchingPrecedence: 900\n      mode: Enforce\n      match: {keys: [/registry/]}\n      \
             distinguishBy: [client, prefix/3]\n      priorityLevel: work\n      \
             limits: {requests: 1G/s, load: 1TiB/s, concurrency: 1000000}\n      total: {requests: 1G/s}\n";
    file::load(&text).unwrap_or_else(|problems| panic!("{problems:?}")).policy
}

fn main() {
    #[expect(clippy::disallowed_methods, reason = "a bench has to begin somewhere")]
    let begin = Instant::now();
    let policy = policy();
    let clients: Vec<Client> = (0..1_000)
        .map(|client| Client::default().with(&format!("CN=client-{client}")).expect("an attribute"))
        .collect();
    let keys: Vec<[KeyRange; 1]> =
        (0..1_000).map(|key| [KeyRange::Key(Bytes::from(format!("/registry/pods/ns-{key}/web")))]).collect();
    let request = |at: u32| {
        let at = at as usize;
        Request { keys: &keys[at * 7 % 1_000], bytes: 300, ..Request::new(&clients[at % 1_000], Rpc::Range) }
    };
    let at = |step: u32| begin + Duration::from_micros(10) * step;
    let actual = Actual { objects: 1, bytes: 1_200 };
    let mut sizes = Sizes::new(10_000);
    let mut accounts = Accounts::new();
    let mut scheduler = Scheduler::new(&policy.levels, 100);
    let mut limit = AdaptiveLimit::new(Gradient::default());
    let mut accounting = Accounting::new(1_000, 1);
    let mut woken = Vec::new();

    cpu("predict", |step| {
        let request = request(step);
        black_box(Cost::predict(&request, sizes.expected(&request)));
    });
    let cost = Cost::predict(&request(0), None);
    cpu("classify, 25 rules", |step| {
        black_box(policy.classify(&request(step), &cost));
    });
    cpu("charge and settle", |step| {
        let request = request(step);
        let class = policy.classify(&request, &cost);
        match accounts.charge(at(step), &policy, &class, &request, &cost, Duration::ZERO).verdict {
            Verdict::Pass(_, receipt) => accounts.settle(at(step), &policy, receipt, 1_200),
            Verdict::Refuse(refusal) => panic!("{refusal:?}"),
        }
    });
    cpu("find a seat and give it back", |step| {
        let class = policy.classify(&request(step), &cost);
        let entry = Entry { level: class.level, flow: class.flow, seats: 1, patience: Duration::from_secs(1) };
        if let Enqueued::Admitted(ticket) = scheduler.enqueue(at(step), entry) {
            scheduler.finish(at(step), ticket);
        }
        scheduler.poll(at(step), &mut woken);
    });
    cpu("wait behind a hundred others", {
        let mut busy = Scheduler::new(&policy.levels, 100);
        let class = policy.classify(&request(0), &cost);
        let mut running: std::collections::VecDeque<_> = std::collections::VecDeque::new();
        move |step| {
            let (now, flow) = (at(step), u64::from(step).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let entry = Entry { level: class.level, flow, seats: 1, patience: Duration::from_secs(1) };
            match busy.enqueue(now, entry) {
                Enqueued::Admitted(ticket) => running.push_back(ticket),
                Enqueued::Queued(_) => {}
                Enqueued::Rejected(reason) => panic!("{reason:?}"),
            }
            if step >= 200 {
                busy.finish(now, running.pop_front().expect("a hundred run"));
            }
            let mut woken = Vec::new();
            busy.poll(now, &mut woken);
            running.extend(woken.into_iter().filter_map(|woken| match woken {
                forebay_policies::Woken::Admitted(ticket) => Some(ticket),
                forebay_policies::Woken::Rejected(..) => None,
            }));
        }
    });
    cpu("account", |step| {
        let request = request(step);
        let did = Sums { requests: 1, objects: 1, bytes: 1_200, ..Sums::default() };
        let name = request.client.name(&policy.identity);
        accounting.record(name, prefix::folder(request.key(), 3), request.rpc, did, Some(Duration::from_millis(1)));
    });
    // Time has to begin anew with them.
    let (mut accounts, mut scheduler) = (Accounts::new(), Scheduler::new(&policy.levels, 100));
    cpu("all of it", |step| {
        let (now, request) = (at(step), request(step));
        let cost = Cost::predict(&request, sizes.expected(&request));
        let class = policy.classify(&request, &cost);
        let charge = accounts.charge(now, &policy, &class, &request, &cost, Duration::ZERO);
        let Verdict::Pass(_, receipt) = charge.verdict else { panic!("refused") };
        let entry = Entry { level: class.level, flow: class.flow, seats: cost.seats, patience: Duration::from_secs(1) };
        let Enqueued::Admitted(ticket) = scheduler.enqueue(now, entry) else { panic!("not admitted") };
        let settled = Cost::settle(&request, actual);
        scheduler.finish(now, ticket);
        scheduler.poll(now, &mut woken);
        if let Some(changed) = limit.record(now, Duration::from_millis(1), settled.units, 50, Outcome::Served) {
            scheduler.set_limit(changed);
        }
        accounts.settle(now, &policy, receipt, settled.load);
        sizes.learn(&request, actual, Some(1));
        let did = Sums { requests: 1, objects: 1, bytes: settled.load, ..Sums::default() };
        let name = request.client.name(&policy.identity);
        accounting.record(name, prefix::folder(request.key(), 3), request.rpc, did, Some(Duration::from_millis(1)));
    });
}
