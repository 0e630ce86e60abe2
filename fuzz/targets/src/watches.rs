//! Watch streams: what a client asks for, against what a list of everything that happened says it must get.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use forebay_edge::grpc;
use forebay_keyspace::{
    CompactStep, Keyspace,
    watch::{HeaderBase, Hub, Polled, WatchStream},
};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
        watch_create_request::FilterType, watch_request::RequestUnion,
    },
    mvccpb::{Event, KeyValue, event::EventType},
};
use prost::Message as _;

use crate::input::Input;

const BASE: HeaderBase = HeaderBase { cluster_id: 1, member_id: 2, raft_term: 3 };
const POLL_BYTES: usize = 1 << 20;

/// Each watcher gets what it asked for, once and in order, in whatever order things happen.
///
/// Input: steps; see [`World::step`].
pub fn watch_streams(data: &[u8]) {
    let mut input = Input::new(data);
    let mut world = World::new();
    while !input.is_empty() {
        world.step(&mut input);
    }
    world.publish();
    world.drain();
    world.client.check_all_told(&world.log);
}

struct World {
    keyspace: Keyspace,
    hub: Hub,
    stream: WatchStream,
    log: Log,
    client: Client,
}

/// Everything that happened.
#[derive(Default)]
struct Log {
    events: Vec<Event>,
    live: BTreeMap<Bytes, KeyValue>,
    compacted: i64,
}

/// What the other end of the stream knows.
#[derive(Default)]
struct Client {
    asked: VecDeque<WatchCreateRequest>,
    watchers: HashMap<i64, Watcher>,
    /// Watchers that a compaction ended. A client may still cancel them, and is told so.
    ended: HashSet<i64>,
    revision: i64,
}

struct Watcher {
    request: WatchCreateRequest,
    range: KeyRange,
    /// The first revision that it wants.
    from: i64,
    /// How many events of the log it has got or passed over.
    at: usize,
    /// The revision of the last event that it got.
    seen: i64,
}

impl World {
    fn new() -> World {
        let keyspace = Keyspace::new();
        let hub = Hub::new(Arc::new(keyspace.reader()), 0);
        let stream = hub.open(Arc::new(|| ()));
        World { keyspace, hub, stream, log: Log::default(), client: Client::default() }
    }

    /// Takes one step: a byte for its kind, then what that needs.
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..=3 => {
                let mut txn = self.keyspace.write();
                for _ in 0..=input.byte() % 3 {
                    let (key, value) = (key(input), Bytes::from(vec![b'v'; usize::from(input.byte() % 8)]));
                    txn.put(&key, &value, 0);
                    let revision = txn.revision();
                    self.log.put(key, value, revision);
                }
            }
            4 => {
                let range = KeyRange::new(key(input), end(input));
                let mut txn = self.keyspace.write();
                txn.delete_range(&range);
                let revision = txn.revision();
                self.log.delete(&range, revision);
            }
            5 | 6 => self.publish(),
            7..=9 => {
                let create = WatchCreateRequest {
                    key: if input.flag() { key(input) } else { Bytes::new() },
                    range_end: end(input),
                    start_revision: i64::from(input.byte()) - 4,
                    progress_notify: input.flag(),
                    filters: (0..input.byte() % 3).map(|_| i32::from(input.byte() % 3)).collect(),
                    prev_kv: input.flag(),
                    watch_id: i64::from(input.byte() % 4),
                    fragment: input.flag(),
                };
                self.ask(RequestUnion::CreateRequest(create));
            }
            10 => {
                let watch_id = i64::from(input.byte() % 6);
                self.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
            }
            11 => self.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})),
            12 => {
                if let Some(request) = WatchRequest::decode(input.chunk()).ok().and_then(|it| it.request_union) {
                    self.ask(request);
                }
            }
            13 => self.compact(input.byte()),
            14 => self.stream.tick_progress(),
            _ => drop(self.poll(usize::from(input.byte()))),
        }
    }

    /// As the Watch service does it.
    fn ask(&mut self, request: RequestUnion) {
        if !self.stream.accepts_requests() {
            self.drain();
        }
        match request {
            RequestUnion::CreateRequest(create) => {
                self.stream.create(&create);
                self.client.asked.push_back(create);
            }
            RequestUnion::CancelRequest(cancel) => self.stream.cancel(cancel.watch_id),
            RequestUnion::ProgressRequest(_) => self.stream.request_progress(),
        }
    }

    fn publish(&mut self) {
        if let Some(batch) = self.keyspace.publish() {
            self.hub.publish(&batch);
        }
    }

    fn compact(&mut self, revision: u8) {
        self.publish();
        if self.keyspace.compact(revision.into()).is_ok() {
            self.log.compacted = revision.into();
            self.keyspace.publish();
            while !matches!(self.keyspace.compact_step(10), CompactStep::Idle) {}
        }
    }

    fn poll(&mut self, max_bytes: usize) -> Polled {
        let mut out = BytesMut::new();
        let mut polled = self.stream.poll(&BASE, &mut out, max_bytes);
        if let Polled::Long(_) = polled {
            self.stream.allow_long();
            polled = self.stream.poll(&BASE, &mut out, max_bytes);
        }
        let mut responses = Vec::new();
        while !out.is_empty() {
            let prefix = out.split_to(grpc::PREFIX);
            let len = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes behind the flag"));
            responses.push(WatchResponse::decode(out.split_to(len as usize)).expect("a response is a message"));
        }
        match polled {
            Polled::Wrote { messages, events } => {
                assert_eq!(messages, responses.len());
                assert_eq!(events, responses.iter().map(|response| response.events.len()).sum::<usize>());
            }
            Polled::Yield | Polled::Idle => assert!(responses.is_empty()),
            Polled::Over => panic!("a keyspace does not begin anew"),
            Polled::Long(_) => panic!("there was memory for it"),
        }
        responses.into_iter().for_each(|response| self.client.receive(response, &self.log));
        polled
    }

    fn drain(&mut self) {
        while self.poll(POLL_BYTES) != Polled::Idle {}
    }
}

impl Log {
    fn put(&mut self, key: Bytes, value: Bytes, revision: i64) {
        let before = self.live.get(&key);
        let (create_revision, version) =
            before.map_or((revision, 1), |before| (before.create_revision, before.version + 1));
        // What was before the txn, whatever else it did to the key.
        let before = match before {
            Some(before) if before.mod_revision == revision => {
                let earlier = self.events.iter().rfind(|event| kv_of(event) == before);
                earlier.and_then(|event| event.prev_kv.clone())
            }
            before => before.cloned(),
        };
        let kv = KeyValue { key, create_revision, mod_revision: revision, version, value, lease: 0 };
        self.live.insert(kv.key.clone(), kv.clone());
        self.events.push(Event { r#type: EventType::Put.into(), kv: Some(kv), prev_kv: before });
    }

    fn delete(&mut self, range: &KeyRange, revision: i64) {
        let deleted: Vec<KeyValue> = self.live.values().filter(|kv| range.contains(&kv.key)).cloned().collect();
        for prev in deleted {
            self.live.remove(&prev.key);
            let kv = KeyValue { key: prev.key.clone(), mod_revision: revision, ..Default::default() };
            self.events.push(Event { r#type: EventType::Delete.into(), kv: Some(kv), prev_kv: Some(prev) });
        }
    }
}

impl Client {
    fn receive(&mut self, response: WatchResponse, log: &Log) {
        let header = response.header.expect("every response has a header");
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (1, 2, 3));
        let revision = header.revision;
        if response.created {
            let request = self.asked.pop_front().expect("what is created was asked for");
            if !response.canceled {
                let from = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
                let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() };
                let range = KeyRange::new(key, request.range_end.clone());
                let watcher = Watcher { request, range, from, at: 0, seen: 0 };
                assert!(self.watchers.insert(response.watch_id, watcher).is_none(), "an id is used once at a time");
            }
        } else if response.canceled {
            let watcher = self.watchers.remove(&response.watch_id);
            if response.compact_revision == 0 {
                assert!(watcher.is_some() || self.ended.remove(&response.watch_id), "what is cancelled was there");
            } else {
                let watcher = watcher.expect("what is ended was there");
                self.ended.insert(response.watch_id);
                let at = response.compact_revision;
                assert!(at <= log.compacted && watcher.from < at && watcher.seen < at, "it had to go on below {at}");
            }
        } else if response.events.is_empty() {
            // Progress: nothing up to here is still to come.
            assert!(revision >= self.revision, "the revision of a stream does not go down");
            // A client may also have given this number to a watcher.
            let is_for_all = response.watch_id == -1 && !self.watchers.contains_key(&-1);
            let about = |id: i64| is_for_all || response.watch_id == id;
            for (_, watcher) in self.watchers.iter_mut().filter(|(id, _)| about(**id)) {
                let next = watcher.next(log).map(main_of);
                assert!(next.is_none_or(|next| next > revision), "{next:?} is still to come at {revision}");
            }
        } else {
            assert!(revision >= self.revision, "the revision of a stream does not go down");
            let watcher = self.watchers.get_mut(&response.watch_id).expect("only watchers get events");
            for event in response.events {
                watcher.receive(event, log);
            }
            assert!(log.events[..watcher.at].last().is_none_or(|last| main_of(last) <= revision));
        }
        self.revision = self.revision.max(revision);
    }

    fn check_all_told(&mut self, log: &Log) {
        assert!(self.asked.is_empty(), "every request is answered");
        for (id, watcher) in &mut self.watchers {
            let next = watcher.next(log).cloned();
            assert_eq!(next, None, "watcher {id} waits for it");
        }
    }
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let filter = if event.r#type == i32::from(EventType::Put) { FilterType::Noput } else { FilterType::Nodelete };
        main_of(event) >= self.from
            && self.range.contains(&kv_of(event).key)
            && !self.request.filters.contains(&filter.into())
    }

    /// The next event that it must get, passing over what it does not want.
    fn next<'l>(&mut self, log: &'l Log) -> Option<&'l Event> {
        while let Some(event) = log.events.get(self.at) {
            if self.wants(event) {
                return Some(event);
            }
            self.at += 1;
        }
        None
    }

    fn receive(&mut self, event: Event, log: &Log) {
        let mut expected = self.next(log).expect("nothing comes that did not happen").clone();
        // At the revision of a compaction there may be a part of the changes only.
        while expected != event && main_of(&expected) <= log.compacted && kv_of(&expected).key != kv_of(&event).key {
            self.at += 1;
            expected = self.next(log).expect("nothing comes that did not happen").clone();
        }
        if !self.request.prev_kv {
            expected.prev_kv = None;
        } else if event.prev_kv.is_none() && log.compacted > 0 {
            // It may be gone.
            expected.prev_kv = None;
        }
        assert_eq!(event, expected);
        self.seen = main_of(&event);
        self.at += 1;
    }
}

fn kv_of(event: &Event) -> &KeyValue {
    event.kv.as_ref().expect("an event has a key")
}

fn main_of(event: &Event) -> i64 {
    kv_of(event).mod_revision
}

fn key(input: &mut Input<'_>) -> Bytes {
    Bytes::from(vec![b'a' + input.byte() % 4])
}

/// No end, no upper end, or a key.
fn end(input: &mut Input<'_>) -> Bytes {
    match input.byte() % 4 {
        0 | 1 => Bytes::new(),
        2 => Bytes::from_static(b"\0"),
        _ => key(input),
    }
}
