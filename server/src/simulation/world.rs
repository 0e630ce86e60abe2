//! Machines, the network between them, clients, and what goes wrong: one queue of things to come, in the order of their
//! time. Nothing happens between two of them, so idle time costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::{InternalRaftRequest, LeaseCheckpointRequest, LeaseRevokeRequest, RequestHeader},
    raftpb::{Message, MessageType},
};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    clients::Client,
    damage::Damages,
    failpoints::{Trap, unless_trapped},
    judge::Judge,
    member::{CLUSTER, Seat, record},
    plan::{Bug, Plan},
    watchers::Watcher,
};
use crate::raft::{Bootstrap, Proposal, Role};

/// Something that is to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// A member takes a turn, if this is still when its next one is due.
    Turn(u64),
    Deliver(Box<Message>),
    DeliverSnapshot {
        message: Box<Message>,
        content: Bytes,
    },
    /// The sender of a snapshot hears how it went.
    SnapshotSent {
        from: u64,
        to: u64,
        arrived: bool,
    },
    /// A member looks for leases that have run out. The number says in which of its lives.
    Upkeep(u64, u64),
    /// A member writes its db file.
    Commit(u64, u64),
    /// A member takes a step of a compaction.
    Compact(u64, u64),
    Restart(u64),
    /// A client acts; the number says on account of which of its requests.
    Client(usize, u64),
    Watcher(usize),
    Fault,
    /// A member hears that it is none any more.
    Removed(u64),
    /// The members are one network again.
    Rejoin,
    /// Messages are lost as rarely as before.
    Calm,
    /// The disk of a member changes what it holds.
    Damage(u64),
    /// Another member is to take the place of one that was refused.
    Replace(u64),
}

/// Connections that are cut, by sender and receiver.
#[derive(Debug, Default)]
pub(super) struct Cuts(BTreeSet<(u64, u64)>);

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) seed: u64,
    pub(super) rng: StdRng,
    pub(super) now: Duration,
    /// What is to happen, by its time, and in the order in which it was asked for.
    queue: BTreeMap<(Duration, u64), Event>,
    scheduled: u64,
    pub(super) seats: BTreeMap<u64, Seat>,
    pub(super) trap: Trap,
    pub(super) cuts: Cuts,
    pub(super) loss: f64,
    pub(super) clients: Vec<Client>,
    pub(super) watchers: Vec<Watcher>,
    pub(super) judge: Judge,
    pub(super) damages: Damages,
    pub(super) healed: bool,
    /// Whether clients begin anything new.
    pub(super) open: bool,
    pub(super) next_member: u64,
    trace: DefaultHasher,
    pub(super) epoch: Instant,
}

impl World {
    pub(super) fn new(seed: u64, plan: Plan) -> Self {
        let mut world = Self {
            rng: StdRng::seed_from_u64(seed),
            seed,
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            scheduled: 0,
            seats: BTreeMap::new(),
            trap: Trap::new(),
            cuts: Cuts::default(),
            loss: plan.loss,
            clients: Vec::new(),
            watchers: Vec::new(),
            judge: Judge::new(),
            damages: Damages::default(),
            healed: false,
            open: true,
            next_member: plan.members + 1,
            trace: DefaultHasher::new(),
            epoch: Instant::now(),
            plan,
        };
        let members: Vec<_> = (1..=world.plan.members).map(|id| record(id, false)).collect();
        for id in 1..=world.plan.members {
            world.place(id, Bootstrap { member_id: id, cluster_id: CLUSTER, members: members.clone() });
            world.start(id);
        }
        world.add_clients();
        let calm = world.around(world.plan.calm);
        world.after(calm, Event::Fault);
        world
    }

    /// Sets up a machine on which a member has never run.
    pub(super) fn place(&mut self, id: u64, bootstrap: Bootstrap) {
        let rate = self.rng.random_range(0.995..1.005);
        self.seats.insert(id, Seat::new(id, bootstrap, self.epoch, rate));
    }

    /// Runs until `until`.
    pub(super) fn run_to(&mut self, until: Duration) {
        while let Some(first) = self.queue.first_entry().filter(|entry| entry.key().0 <= until) {
            let ((at, _), event) = first.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
        }
        self.now = until;
    }

    /// A number that stands for everything that has happened.
    pub(super) fn trace(&self) -> u64 {
        self.trace.finish()
    }

    pub(super) fn note(&mut self, what: impl std::hash::Hash) {
        (self.now, what).hash(&mut self.trace);
    }

    pub(super) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.insert((at, self.scheduled), event);
    }

    /// A duration that is `mean` on average, and often far from it.
    pub(super) fn around(&mut self, mean: Duration) -> Duration {
        let uniform: f64 = self.rng.random_range(1e-4..1.0);
        mean.mul_f64(-uniform.ln())
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(id) => {
                if self.seats.get(&id).is_some_and(|seat| seat.turn_at == Some(self.now)) {
                    self.turn(id);
                }
            }
            Event::Deliver(message) => self.deliver(*message),
            Event::DeliverSnapshot { message, content } => self.deliver_snapshot(&message, &content),
            Event::SnapshotSent { from, to, arrived } => {
                if let Some(running) = self.seats.get(&from).and_then(|seat| seat.running.as_ref()) {
                    running.raft.snapshot_sent(to, arrived);
                    self.wake(from);
                }
            }
            Event::Upkeep(id, life) => self.upkeep(id, life),
            Event::Commit(id, life) => {
                let Some(seat) = self.living(id, life) else { return };
                let running = seat.running.as_mut().expect("it lives");
                running.commit_due = false;
                let backend = running.backend.clone();
                if !matches!(unless_trapped(|| backend.flush()), Some(Ok(()))) {
                    self.end(id);
                }
            }
            Event::Compact(id, life) => {
                let Some(seat) = self.living(id, life) else { return };
                let running = seat.running.as_mut().expect("it lives");
                let Some(goes_on) = unless_trapped(|| running.compaction.step()) else { return self.end(id) };
                running.compaction_due = goes_on;
                if goes_on {
                    self.after(Duration::from_millis(10), Event::Compact(id, life));
                }
            }
            Event::Restart(id) => self.start(id),
            Event::Client(client, serial) => self.client_acts(client, serial),
            Event::Watcher(watcher) => self.watcher_acts(watcher),
            Event::Fault => self.fault(),
            Event::Removed(id) => {
                if let Some(running) = self.seats[&id].running.as_ref() {
                    running.raft.removed();
                    self.wake(id);
                }
            }
            Event::Rejoin => self.cuts = Cuts::default(),
            Event::Calm => self.loss = self.plan.loss,
            Event::Damage(id) => self.damage(id),
            Event::Replace(id) => self.replace(id),
        }
    }

    fn living(&mut self, id: u64, life: u64) -> Option<&mut Seat> {
        self.seats.get_mut(&id).filter(|seat| seat.starts == life && seat.running.is_some())
    }

    pub(super) fn start(&mut self, id: u64) {
        let (plan, now, seed, others) = (self.plan.clone(), self.now, self.seed, self.others(id));
        let Some(seat) = self.seats.get_mut(&id) else { return };
        if seat.running.is_some() || seat.is_removed {
            return;
        }
        (seat.turn_at, seat.busy_until) = (None, now);
        let started = unless_trapped(|| seat.start(&plan, now, seed, &others));
        let started = started.unwrap_or_else(|| Err("injected fault".to_owned()));
        let (life, is_damaged) = (seat.starts, seat.is_damaged);
        self.note(("start", id, life));
        self.see(id);
        match started {
            Ok(()) => {
                self.seats.get_mut(&id).expect("it was started").is_damaged = false;
                self.after(Duration::from_millis(500), Event::Upkeep(id, life));
                self.wake(id);
            }
            // The disk was told to fail.
            Err(error) if error.contains("injected fault") => self.end(id),
            Err(error) if is_damaged => self.refuse(id, &error),
            Err(error) => panic!("member {id:x} does not start: {error}"),
        }
    }

    /// The process ends. Those who waited for it never hear of it.
    pub(super) fn crash(&mut self, id: u64) {
        self.note(("crash", id));
        let seat = self.seats.get_mut(&id).expect("a machine that is there crashes");
        let disk = seat.disk.killed();
        seat.disk = disk;
        // What a member does while it is taken apart happens to nobody.
        self.trap.suspended(|| seat.running = None);
        seat.turn_at = None;
        self.disconnect(id);
        self.missed(id);
        if !self.seats[&id].is_removed {
            let delay = if self.healed { Duration::from_secs(1) } else { self.around(Duration::from_secs(5)) };
            self.after(delay, Event::Restart(id));
        }
    }

    /// The others find nobody at home, unless they cannot get there.
    fn missed(&mut self, id: u64) {
        for other in self.running() {
            if !self.cuts.0.contains(&(other, id)) && !self.cuts.0.contains(&(id, other)) {
                self.seats[&other].running.as_ref().expect("it runs").raft.gone(id);
                self.wake(other);
            }
        }
    }

    /// Has a member take a turn as soon as it can.
    pub(super) fn wake(&mut self, id: u64) {
        self.wake_at(id, self.now);
    }

    fn wake_at(&mut self, id: u64, at: Duration) {
        let Some(seat) = self.seats.get_mut(&id).filter(|seat| seat.running.is_some()) else { return };
        let at = at.max(seat.busy_until).max(self.now);
        if seat.turn_at.is_none_or(|due| at < due) {
            seat.turn_at = Some(at);
            self.at(at, Event::Turn(id));
        }
    }

    fn turn(&mut self, id: u64) {
        let seat = self.seats.get_mut(&id).expect("checked by the caller");
        seat.turn_at = None;
        seat.look_at_clock(self.now);
        let before = seat.disk.mutations();
        let Some(running) = &mut seat.running else { return };
        let driver = &mut running.driver;
        let result = unless_trapped(|| driver.turn_now().and_then(|_| driver.rest()));
        let has_written = seat.disk.mutations() > before;
        self.see(id);
        let rests_until = match result {
            None => return self.end(id),
            Some(Ok(rests_until)) => rests_until,
            Some(Err(crate::raft::RaftError::Removed)) => {
                self.seats.get_mut(&id).expect("it took a turn").is_removed = true;
                return self.crash(id);
            }
            Some(Err(error)) => {
                let error = error.to_string();
                assert!(error.contains("injected fault"), "member {id:x} stopped: {error}");
                return self.end(id);
            }
        };
        let took = if has_written { self.sync_time(id) } else { Duration::from_micros(20) };
        let seat = self.seats.get_mut(&id).expect("it took a turn");
        seat.busy_until = self.now + took;
        let next = rests_until.map_or(seat.busy_until, |until| seat.when(until));
        self.send_all(id);
        self.poll_clients(id);
        self.poll_watchers(id);
        self.wake_at(id, next);
    }

    fn sync_time(&mut self, id: u64) -> Duration {
        let mean = if self.now < self.seats[&id].slow_until { 400_000 } else { 500 };
        self.around(Duration::from_micros(mean))
    }

    /// Shows the judge what a member did.
    fn see(&mut self, id: u64) {
        let seat = self.seats.get_mut(&id).expect("a machine does not go away");
        let (life, Some(running)) = (seat.starts, &mut seat.running) else { return };
        let seen = std::mem::take(&mut *running.seen.lock());
        let compacts = !running.compaction_due;
        let commits = !running.commit_due && !seen.applied.is_empty();
        if !seen.applied.is_empty() {
            (running.commit_due, running.compaction_due) = (true, true);
        }
        for entry in &seen.applied {
            self.judge.applied(id, entry, self.now);
            self.note((id, entry.index, entry.term));
        }
        for request in seen.dropped {
            self.judge.dropped(request);
        }
        if commits {
            self.after(self.plan.batch, Event::Commit(id, life));
            if compacts {
                self.after(Duration::from_millis(1), Event::Compact(id, life));
            }
        }
    }

    fn send_all(&mut self, id: u64) {
        let running = self.seats[&id].running.as_ref().expect("it took a turn");
        let sent = std::mem::take(&mut *running.sent.lock());
        for message in sent.messages {
            self.send(message);
        }
        for (message, content) in sent.snapshots {
            let (from, to) = (message.from(), message.to());
            if self.is_lost(from, to) {
                self.after(Duration::from_millis(50), Event::SnapshotSent { from, to, arrived: false });
            } else {
                let delay = self.transit(from) + Duration::from_nanos(10 * content.len() as u64);
                self.after(delay, Event::DeliverSnapshot { message: Box::new(message), content });
            }
        }
    }

    /// How long a message is under way; it leaves when its sender's disk is done.
    fn transit(&mut self, from: u64) -> Duration {
        let delay = self.around(self.plan.delay);
        self.seats[&from].busy_until.saturating_sub(self.now) + delay
    }

    fn is_lost(&mut self, from: u64, to: u64) -> bool {
        self.cuts.0.contains(&(from, to)) || self.rng.random_bool(self.loss)
    }

    fn send(&mut self, message: Message) {
        let (from, to) = (message.from(), message.to());
        if self.is_lost(from, to) {
            if self.rng.random_bool(0.2) {
                self.seats[&from].running.as_ref().expect("it sends").raft.unreachable(to);
            }
            return;
        }
        // A stream never repeats a proposal; everything else may come twice after a connection broke.
        let repeats = message.r#type() != MessageType::MsgProp && self.rng.random_bool(self.plan.duplication);
        if repeats {
            let delay = self.transit(from);
            self.after(delay, Event::Deliver(Box::new(message.clone())));
        }
        let delay = self.transit(from);
        self.after(delay, Event::Deliver(Box::new(message)));
    }

    fn deliver(&mut self, message: Message) {
        let (from, to) = (message.from(), message.to());
        self.note((from, to, message.r#type, message.term, message.index));
        let Some(running) = self.seats.get(&to).and_then(|seat| seat.running.as_ref()) else { return };
        if running.cluster.is_removed(from) {
            let delay = self.transit(to);
            return self.after(delay, Event::Removed(from));
        }
        running.raft.step(message);
        self.wake(to);
    }

    fn deliver_snapshot(&mut self, message: &Message, content: &[u8]) {
        let (from, to) = (message.from(), message.to());
        self.note(("snapshot", from, to, content.len()));
        let received = self.seats.get(&to).map(|seat| {
            unless_trapped(|| seat.receive(message, content)).unwrap_or_else(|| Err("injected fault".to_owned()))
        });
        let arrived = match received {
            None => false,
            Some(Ok(arrived)) => arrived,
            Some(Err(error)) => {
                assert!(error.contains("injected fault"), "a snapshot to {to:x} is not taken: {error}");
                self.end(to);
                false
            }
        };
        self.wake(to);
        let delay = self.around(self.plan.delay) + Duration::from_millis(1);
        self.after(delay, Event::SnapshotSent { from, to, arrived });
    }

    /// What a member does on its own.
    fn upkeep(&mut self, id: u64, life: u64) {
        let (now, healthy, bug) = (self.now, self.healed, self.plan.bug);
        let Some(seat) = self.living(id, life) else { return };
        // A process that goes on after a pause may get here before its raft thread looks at what came in meanwhile.
        const FIRST: Duration = Duration::from_micros(1);
        if now + FIRST < seat.busy_until && !healthy {
            let until = seat.busy_until - FIRST;
            return self.at(until, Event::Upkeep(id, life));
        }
        let early = if bug == Some(Bug::HastyLease) { Duration::from_millis(1500) } else { Duration::ZERO };
        let is_bound = bug != Some(Bug::DeposedRevoke);
        let shown = seat.look_at_clock(now) + early;
        let running = seat.running.as_ref().expect("it lives");
        let (term, expired, due) = {
            let mut lessor = running.lessor.lock();
            (lessor.primary_term(), lessor.expired(shown, 500), lessor.checkpoints_due(shown, 1000))
        };
        let mut proposed = Vec::new();
        if !due.is_empty() {
            let id = running.ids.next();
            let header = Some(RequestHeader { id, ..RequestHeader::default() });
            let checkpoint = Some(LeaseCheckpointRequest { checkpoints: due });
            let request =
                InternalRaftRequest { header, lease_checkpoint: checkpoint, ..InternalRaftRequest::default() };
            let _ = running.raft.propose(Proposal { id, data: request.encode_to_vec().into(), term });
        }
        for lease in expired {
            let request_id = running.ids.next();
            let header = Some(RequestHeader { id: request_id, ..RequestHeader::default() });
            let revoke = Some(LeaseRevokeRequest { id: lease });
            let request = InternalRaftRequest { header, lease_revoke: revoke, ..InternalRaftRequest::default() };
            let _ = running.raft.propose(Proposal {
                id: request_id,
                data: request.encode_to_vec().into(),
                term: term.filter(|_| is_bound),
            });
            proposed.push(request_id);
        }
        for request_id in &proposed {
            self.judge.expires(*request_id);
        }
        self.wake(id);
        self.after(Duration::from_millis(500), Event::Upkeep(id, life));
    }

    /// A member that says that it leads.
    pub(super) fn leader(&self) -> Option<u64> {
        let leads =
            |seat: &&Seat| seat.running.as_ref().is_some_and(|running| running.raft.status().role == Role::Leader);
        self.seats.values().filter(leads).max_by_key(|seat| term(seat)).map(|seat| seat.id)
    }

    /// The members that run.
    pub(super) fn running(&self) -> Vec<u64> {
        self.seats.values().filter(|seat| seat.running.is_some()).map(|seat| seat.id).collect()
    }
}

impl Cuts {
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        self.0.insert((from, to));
    }
}

fn term(seat: &Seat) -> u64 {
    seat.running.as_ref().map_or(0, |running| running.raft.status().term)
}

pub(super) fn min_lease_ttl(plan: &Plan) -> i64 {
    crate::Config { election_timeout: plan.election(), ..crate::Config::default() }.min_lease_ttl()
}
