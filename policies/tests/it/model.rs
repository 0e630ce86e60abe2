//! Clients, the decisions of this crate, and an upstream, in one discrete-event simulation.
//!
//! The upstream bears so many seats of work at once. Beyond that all requests take longer, and it wastes a part of its
//! strength on having too many: without admission, load beyond its capacity makes it serve less.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_policies::{
    Accounts, Client, Cost, Enqueued, Entry, Expected, Policy, Receipt, Request, Rpc, Scheduler, Ticket, Verdict,
    Woken,
    adaptive::{AdaptiveLimit, Gradient, Outcome},
};
use forebay_proto::KeyRange;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// What a client does, again and again, whether it is answered or not.
#[derive(Clone)]
pub struct Load {
    pub client: Client,
    pub rpc: Rpc,
    pub keys: Vec<KeyRange>,
    /// Objects and their size, as admission expects them and as they are.
    pub expected: Expected,
    /// The time it takes an idle upstream.
    pub service: Duration,
    /// Requests a second, at random times, between these two moments.
    pub rate: f64,
    pub from: Duration,
    pub to: Duration,
}

/// What became of one load's requests.
#[derive(Clone, Debug, Default)]
pub struct Result {
    pub sent: u64,
    /// Arrival and latency of every request that was answered.
    pub answered: Vec<(Duration, Duration)>,
    pub refused: u64,
}

impl Result {
    /// The latency that a share of those who arrived in a span did not exceed.
    pub fn latency(&self, share: f64, from: Duration, to: Duration) -> Duration {
        let inside = self.answered.iter().filter(|(at, _)| (from..to).contains(at));
        let mut latencies: Vec<Duration> = inside.map(|(_, latency)| *latency).collect();
        latencies.sort_unstable();
        latencies[((latencies.len() - 1) as f64 * share) as usize]
    }

    /// Answers a second to those who arrived in a span.
    pub fn goodput(&self, from: Duration, to: Duration) -> f64 {
        let inside = self.answered.iter().filter(|(at, _)| (from..to).contains(at)).count();
        inside as f64 / (to - from).as_secs_f64()
    }
}

/// The seats of work the upstream bears at once.
pub const CAPACITY: f64 = 20.0;

enum Event {
    Arrive(usize),
    /// A paced request may go on.
    Paced(Pending),
    Answer(Ticket),
    Poll,
}

struct Pending {
    load: usize,
    arrived: Instant,
    receipt: Receipt,
    level: forebay_policies::LevelId,
    flow: u64,
    cost: Cost,
}

struct Model<'p> {
    policy: &'p Policy,
    loads: &'p [Load],
    begin: Instant,
    now: Instant,
    random: StdRng,
    events: BinaryHeap<Reverse<(Instant, u64)>>,
    next: u64,
    what: HashMap<u64, Event>,
    accounts: Accounts,
    scheduler: Scheduler,
    limit: AdaptiveLimit,
    pending: HashMap<Ticket, Pending>,
    /// When each forwarded request was forwarded, and its seats.
    forwarded: HashMap<Ticket, Instant>,
    seats: u32,
    results: Vec<Result>,
}

/// Runs the loads against a policy. The same seed gives the same run.
pub fn run(policy: &Policy, loads: &[Load], seed: u64) -> Vec<Result> {
    #[expect(clippy::disallowed_methods, reason = "a simulation has to begin somewhere")]
    let begin = Instant::now();
    let gradient = Gradient { initial: 20, min: 10, max: 200, ..Gradient::default() };
    let limit = AdaptiveLimit::new(gradient);
    let mut model = Model {
        policy,
        loads,
        begin,
        now: begin,
        random: StdRng::seed_from_u64(seed),
        events: BinaryHeap::new(),
        next: 0,
        what: HashMap::new(),
        accounts: Accounts::new(),
        scheduler: Scheduler::new(&policy.levels, limit.limit()),
        limit,
        pending: HashMap::new(),
        forwarded: HashMap::new(),
        seats: 0,
        results: vec![Result::default(); loads.len()],
    };
    for (load, spec) in loads.iter().enumerate() {
        let first = begin + spec.from + model.pause(load);
        model.at(first, Event::Arrive(load));
    }
    while let Some(Reverse((now, id))) = model.events.pop() {
        model.now = now;
        match model.what.remove(&id).expect("every event is known") {
            Event::Arrive(load) => model.arrive(load),
            Event::Paced(pending) => model.enqueue(pending),
            Event::Answer(ticket) => model.answer(ticket),
            Event::Poll => {}
        }
        model.poll();
    }
    model.results
}

impl Model<'_> {
    fn at(&mut self, when: Instant, event: Event) {
        let id = self.next;
        self.next += 1;
        self.events.push(Reverse((when, id)));
        self.what.insert(id, event);
    }

    fn pause(&mut self, load: usize) -> Duration {
        let uniform: f64 = self.random.random_range(f64::EPSILON..1.0);
        Duration::from_secs_f64(-uniform.ln() / self.loads[load].rate)
    }

    fn arrive(&mut self, load: usize) {
        let spec = &self.loads[load];
        let next = self.now + self.pause(load);
        if next < self.begin + spec.to {
            self.at(next, Event::Arrive(load));
        }
        self.results[load].sent += 1;
        let request = Request { keys: &spec.keys, bytes: 200, ..Request::new(&spec.client, spec.rpc) };
        let cost = Cost::predict(&request, Some(spec.expected));
        let class = self.policy.classify(&request, &cost);
        let patience = self.policy.level(class.level).max_wait;
        match self.accounts.charge(self.now, self.policy, &class, &request, &cost, patience).verdict {
            Verdict::Refuse(_) => self.results[load].refused += 1,
            Verdict::Pass(wait, receipt) => {
                let pending = Pending { load, arrived: self.now, receipt, level: class.level, flow: class.flow, cost };
                if wait.is_zero() {
                    self.enqueue(pending);
                } else {
                    self.at(self.now + wait, Event::Paced(pending));
                }
            }
        }
    }

    fn enqueue(&mut self, pending: Pending) {
        let patience = self.policy.level(pending.level).max_wait;
        let entry = Entry { level: pending.level, flow: pending.flow, seats: pending.cost.seats, patience };
        match self.scheduler.enqueue(self.now, entry) {
            Enqueued::Admitted(ticket) => {
                self.pending.insert(ticket, pending);
                self.forward(ticket);
            }
            Enqueued::Queued(ticket) => drop(self.pending.insert(ticket, pending)),
            Enqueued::Rejected(_) => self.refuse(pending),
        }
    }

    fn refuse(&mut self, pending: Pending) {
        self.results[pending.load].refused += 1;
        self.accounts.settle(self.now, self.policy, pending.receipt, 0);
    }

    fn forward(&mut self, ticket: Ticket) {
        let pending = &self.pending[&ticket];
        let service = self.loads[pending.load].service;
        self.seats += pending.cost.seats;
        let crowding = (f64::from(self.seats) / CAPACITY).max(1.0);
        let waste = 1.0 + 0.02 * (crowding - 1.0);
        let jitter = self.random.random_range(0.8..1.2);
        self.forwarded.insert(ticket, self.now);
        self.at(self.now + service.mul_f64(crowding * waste * jitter), Event::Answer(ticket));
    }

    fn answer(&mut self, ticket: Ticket) {
        let pending = self.pending.remove(&ticket).expect("it was forwarded");
        let lasted = self.now - self.forwarded.remove(&ticket).expect("it was forwarded");
        self.seats -= pending.cost.seats;
        self.scheduler.finish(self.now, ticket);
        let in_flight = self.scheduler.seats().1 + pending.cost.seats;
        let changed = self.limit.record(self.now, lasted, pending.cost.units, in_flight, Outcome::Served);
        if let Some(limit) = changed {
            self.scheduler.set_limit(limit);
        }
        self.accounts.settle(self.now, self.policy, pending.receipt, pending.cost.load);
        self.results[pending.load].answered.push((pending.arrived - self.begin, self.now - pending.arrived));
    }

    fn poll(&mut self) {
        let mut woken = Vec::new();
        self.scheduler.poll(self.now, &mut woken);
        for woken in woken {
            match woken {
                Woken::Admitted(ticket) => self.forward(ticket),
                Woken::Rejected(ticket, _) => {
                    let pending = self.pending.remove(&ticket).expect("it waited");
                    self.refuse(pending);
                }
            }
        }
        if let Some(when) = self.scheduler.poll_at().filter(|_| self.forwarded.is_empty()) {
            self.at(when, Event::Poll);
        }
    }
}

/// Small gets of one client.
pub fn gets(name: &str, rate: f64, from: u64, to: u64) -> Load {
    Load {
        client: Client::default().with(&format!("user={name}")).expect("an attribute"),
        rpc: Rpc::Range,
        keys: vec![KeyRange::Key(Bytes::from(format!("/tenants/{name}/key")))],
        expected: Expected { objects: 1, object_bytes: 1_000 },
        service: Duration::from_millis(20),
        rate,
        from: Duration::from_secs(from),
        to: Duration::from_secs(to),
    }
}
