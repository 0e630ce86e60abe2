//! Histories of a store that keeps its promises, made from a seed.

use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
        WatchCreateRequest, WatchResponse,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn},
        response_op,
    },
    mvccpb::Event,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::{
    super::{Answer, History, Model, Operation, Outcome, Received, Refusal, Request, Time, Watch, check},
    kinds,
};
use crate::check::{Base, watches::passes};

const CLIENTS: usize = 5;
const WATCHERS: usize = 4;
const KEYS: u8 = 6;

/// What may go wrong in the store on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A request that nobody answers is done twice.
    DoneTwice,
    /// One in twenty writes is answered and not done.
    NotDone,
}

enum Client {
    Idle,
    /// The operation at this place is on its way there.
    Sent(usize),
    /// And its answer on the way back.
    Done(usize, Answered),
}

enum Answered {
    Kv(response_op::Response),
    Done,
    Refused(Refusal),
}

/// A store, its clients and watchers, stepping one at a time.
struct World {
    rng: StdRng,
    now: Time,
    model: Model,
    compacted: i64,
    events: Vec<Vec<Event>>,
    history: History,
    clients: Vec<Client>,
    /// Next revision of each watch, and whether it goes on.
    watchers: Vec<(usize, i64)>,
    /// Operations whose clients have gone, and that may still be done.
    adrift: Vec<usize>,
    fault: Fault,
}

/// A history of so many steps.
pub fn history(seed: u64, steps: usize, fault: Fault) -> History {
    let base = Base { revision: 10, kvs: Vec::new() };
    let mut world = World {
        rng: StdRng::seed_from_u64(seed),
        now: 0,
        model: Model::new(base.revision, &base.kvs),
        compacted: 0,
        events: Vec::new(),
        history: History { base, exclusive: true, ..History::default() },
        clients: (0..CLIENTS).map(|_| Client::Idle).collect(),
        watchers: Vec::new(),
        adrift: Vec::new(),
        fault,
    };
    for _ in 0..steps {
        world.now += world.rng.random_range(1..10);
        match world.rng.random_range(0..10) {
            0..7 => world.step_client(),
            7..9 => world.step_watcher(),
            _ => world.step_adrift(),
        }
    }
    world.finish()
}

impl World {
    fn step_client(&mut self) {
        let client = self.rng.random_range(0..CLIENTS);
        self.clients[client] = match std::mem::replace(&mut self.clients[client], Client::Idle) {
            Client::Idle => {
                let request = self.request();
                self.history.operations.push(Operation { called: self.now, request, outcome: Outcome::Unknown });
                Client::Sent(self.history.operations.len() - 1)
            }
            Client::Sent(index) if self.rng.random_range(0..12) == 0 => {
                self.adrift.push(index);
                Client::Idle
            }
            Client::Sent(index) => Client::Done(index, self.execute(index)),
            // The answer is lost.
            Client::Done(..) if self.rng.random_range(0..15) == 0 => Client::Idle,
            Client::Done(index, answered) => {
                let at = self.now;
                self.history.operations[index].outcome = match answered {
                    Answered::Kv(response) => Outcome::Answered { at, answer: Answer::Kv(response) },
                    Answered::Done => Outcome::Answered { at, answer: Answer::Done },
                    Answered::Refused(refusal) => Outcome::Refused { at, refusal },
                };
                Client::Idle
            }
        };
    }

    /// A request that its client has given up arrives after all, or never.
    fn step_adrift(&mut self) {
        if self.adrift.is_empty() {
            return;
        }
        let chosen = self.rng.random_range(0..self.adrift.len());
        let index = self.adrift.swap_remove(chosen);
        if self.rng.random_range(0..2) == 0 {
            self.execute(index);
            if self.fault == Fault::DoneTwice {
                self.execute(index);
            }
        }
    }

    fn execute(&mut self, index: usize) -> Answered {
        let request = self.history.operations[index].request.clone();
        match request {
            Request::Compact(to) if to <= self.compacted || to > self.model.revision() => {
                Answered::Refused(Refusal::Other)
            }
            Request::Compact(to) => {
                self.compacted = to;
                Answered::Done
            }
            Request::Revoke(lease) => {
                let events = self.model.revoke(lease);
                self.happened(events);
                Answered::Done
            }
            Request::Kv(request) => {
                if let RequestRange(range) = &request
                    && range.revision > 0
                {
                    if range.revision < self.compacted {
                        return Answered::Refused(Refusal::Compacted);
                    }
                    if range.revision > self.model.revision() {
                        return Answered::Refused(Refusal::FutureRevision);
                    }
                }
                let is_forgotten = self.fault == Fault::NotDone && self.rng.random_range(0..20) == 0;
                let Ok((mut response, events)) = self.model.execute(&request) else {
                    return Answered::Refused(Refusal::Other);
                };
                set_header(&mut response, self.model.revision());
                if is_forgotten && !events.is_empty() {
                    // The revision is taken, the change is not there.
                    self.model.undo(&events);
                    self.model.follow(&[]);
                    self.events.push(Vec::new());
                } else {
                    self.happened(events);
                }
                Answered::Kv(response)
            }
        }
    }

    fn happened(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.events.push(events);
        }
    }

    fn key(&mut self) -> Bytes {
        Bytes::from(format!("k{}", self.rng.random_range(0..KEYS)))
    }

    fn put(&mut self) -> PutRequest {
        PutRequest {
            key: self.key(),
            value: Bytes::from(format!("v{}", self.rng.random::<u64>())),
            lease: self.rng.random_range(0..3),
            prev_kv: self.rng.random(),
            ..Default::default()
        }
    }

    fn range(&mut self) -> RangeRequest {
        let revision = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(self.history.base.revision..=self.model.revision() + 1),
            _ => 0,
        };
        RangeRequest {
            key: self.key(),
            range_end: if self.rng.random() { Bytes::new() } else { Bytes::from("k9") },
            limit: self.rng.random_range(0..4),
            revision,
            serializable: self.rng.random_range(0..4) == 0,
            ..Default::default()
        }
    }

    fn request(&mut self) -> Request {
        Request::Kv(match self.rng.random_range(0..20) {
            0..7 => RequestPut(self.put()),
            7..9 => RequestDeleteRange(DeleteRangeRequest {
                key: self.key(),
                range_end: if self.rng.random() { Bytes::new() } else { Bytes::from("k4") },
                prev_kv: true,
            }),
            9..12 => {
                let compare = Compare {
                    result: CompareResult::Equal as i32,
                    target: CompareTarget::Version as i32,
                    key: self.key(),
                    target_union: Some(TargetUnion::Version(self.rng.random_range(0..2))),
                    ..Default::default()
                };
                let [a, b] = ["k0", "k1"].map(|key| PutRequest { key: key.into(), ..self.put() });
                let range = RangeRequest { revision: 0, ..self.range() };
                let op = |request| RequestOp { request: Some(request) };
                RequestTxn(TxnRequest {
                    compare: vec![compare],
                    success: vec![op(RequestPut(a)), op(RequestPut(b))],
                    failure: vec![op(RequestRange(range))],
                })
            }
            12 => return Request::Compact(self.model.revision() - self.rng.random_range(0..10)),
            13 => return Request::Revoke(self.rng.random_range(1..3)),
            _ => RequestRange(self.range()),
        })
    }

    fn step_watcher(&mut self) {
        if self.watchers.len() < WATCHERS && self.rng.random_range(0..3) == 0 {
            return self.begin_watch();
        }
        if self.watchers.is_empty() {
            return;
        }
        let chosen = self.rng.random_range(0..self.watchers.len());
        self.deliver(chosen, self.model.revision());
    }

    fn begin_watch(&mut self) {
        let start_revision = match self.rng.random_range(0..3) {
            0 => 0,
            _ => self.rng.random_range(self.compacted.max(1)..=self.model.revision() + 2),
        };
        let request = WatchCreateRequest {
            key: self.key(),
            range_end: if self.rng.random_range(0..3) == 0 { Bytes::new() } else { Bytes::from("k9") },
            start_revision,
            prev_kv: self.rng.random(),
            filters: if self.rng.random_range(0..4) == 0 { vec![self.rng.random_range(0..2)] } else { Vec::new() },
            ..Default::default()
        };
        let created = WatchResponse { created: true, header: header(self.model.revision()), ..Default::default() };
        let messages = vec![Received { at: self.now, response: created }];
        self.history.watches.push(Watch { called: self.now, request, messages, settled: 0 });
        let next = if start_revision > 0 { start_revision } else { self.model.revision() + 1 };
        self.watchers.push((self.history.watches.len() - 1, next));
    }

    /// Sends a watcher some of what it has not got, up to a revision.
    fn deliver(&mut self, chosen: usize, to: i64) {
        let (index, next) = self.watchers[chosen];
        let watch = &mut self.history.watches[index];
        let range = forebay_proto::KeyRange::new(watch.request.key.clone(), watch.request.range_end.clone());
        let base = self.history.base.revision;
        let mut response = WatchResponse { header: header(self.model.revision()), ..Default::default() };
        let mut reached = next - 1;
        let most = self.rng.random_range(1..5);
        for revision in next.max(base + 1)..=to {
            let at = usize::try_from(revision - base - 1).expect("revisions follow the base");
            let mut events = self.events[at].clone();
            events.retain(|event| passes(&watch.request, &range, event));
            if !watch.request.prev_kv {
                events.iter_mut().for_each(|event| event.prev_kv = None);
            }
            response.events.extend(events);
            reached = revision;
            if response.events.len() >= most {
                break;
            }
        }
        let is_progress = response.events.is_empty();
        if is_progress && reached < next {
            return;
        }
        if is_progress {
            response.header = header(reached);
        }
        self.watchers[chosen].1 = reached + 1;
        watch.messages.push(Received { at: self.now, response });
    }

    fn finish(mut self) -> History {
        let last = self.model.revision();
        for chosen in 0..self.watchers.len() {
            self.now += 1;
            while self.watchers[chosen].1 <= last {
                self.deliver(chosen, last);
            }
            self.history.watches[self.watchers[chosen].0].settled = last;
        }
        self.history
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..Default::default() })
}

pub fn set_header(response: &mut response_op::Response, revision: i64) {
    use response_op::Response::{ResponseDeleteRange, ResponsePut, ResponseRange, ResponseTxn};
    let header = header(revision);
    match response {
        ResponseRange(response) => response.header = header,
        ResponsePut(response) => response.header = header,
        ResponseDeleteRange(response) => response.header = header,
        ResponseTxn(response) => response.header = header,
    }
}

#[test]
fn an_honest_store_is_believed() {
    let mut placed = 0;
    for seed in 0..80 {
        let report = check(&history(seed, 400, Fault::None));
        assert!(report.violations.is_empty(), "seed {seed}: {}", report.summary());
        assert!(report.operations > 50 && report.events > 0, "seed {seed}: {}", report.summary());
        placed += report.placed;
    }
    assert!(placed > 80, "unanswered writes happen: {placed}");
}

#[test]
fn an_honest_store_is_believed_without_watches_too() {
    for seed in 0..40 {
        let honest = History { watches: Vec::new(), ..history(seed, 400, Fault::None) };
        let report = check(&honest);
        assert!(report.violations.is_empty(), "seed {seed}: {}", report.summary());
    }
}

#[test]
fn an_honest_store_is_believed_where_others_write_too() {
    for seed in 0..40 {
        let honest = History { exclusive: false, ..history(seed, 400, Fault::None) };
        let report = check(&honest);
        assert!(report.violations.is_empty(), "seed {seed}: {}", report.summary());
    }
}

#[test]
fn a_store_that_does_a_request_twice_or_not_at_all_is_found_out() {
    for fault in [Fault::DoneTwice, Fault::NotDone] {
        let found = (0..40).filter(|seed| !kinds(&history(*seed, 800, fault)).is_empty()).count();
        assert!(found > 30, "{fault:?} was found in {found} of 40 runs");
    }
}
