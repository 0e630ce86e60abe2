//! Seeded programs against a naive model of what a watch promises: ordered, unique, reliable, atomic, resumable and
//! bookmarkable events, filters, and previous values.
//!
//! The model is a list of all events there ever were. A watcher's expected events are a filter over it, and everything
//! that is promised says where in that list a response may begin and end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;

use forebay_proto::KeyRange;
use forebay_proto::etcdserverpb::watch_create_request::FilterType;
use forebay_proto::mvccpb::Event;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const KEYS: [&str; 6] = ["a", "a/b", "a/c", "b", "c", "d"];

/// Every event there ever was, with its previous value.
#[derive(Default)]
pub(crate) struct Log(pub(crate) Vec<Event>);

impl Log {
    pub(crate) fn append(&mut self, batch: &Batch) {
        for change in &batch.changes {
            let main = change.version.mod_revision();
            let mut kv = mvccpb::KeyValue::decode(change.version.record()).unwrap();
            kv.mod_revision = main;
            let created = kv.create_revision == main;
            // What the key was at main - 1, found the slow way.
            let before = self.0.iter().rev().map(|event| event.kv.as_ref().unwrap());
            let prev = before.clone().find(|other| other.key == kv.key && other.mod_revision < main);
            let prev_kv = prev.filter(|prev| prev.version > 0 && !created).cloned();
            let kind = i32::from(change.version.is_tombstone());
            self.0.push(Event { r#type: kind, kv: Some(kv), prev_kv });
        }
    }

    /// What a watcher with this request, created at this revision, must get sooner or later.
    fn expected(&self, request: &WatchCreateRequest, created_at: i64) -> Vec<&Event> {
        let from = if request.start_revision == 0 { created_at + 1 } else { request.start_revision };
        let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key.clone() };
        let range = KeyRange::new(key, request.range_end.clone());
        let wanted = |event: &&Event| {
            let kv = event.kv.as_ref().unwrap();
            let filtered = if event.r#type == 0 { FilterType::Noput } else { FilterType::Nodelete };
            kv.mod_revision >= from && range.contains(&kv.key) && !request.filters.contains(&(filtered as i32))
        };
        self.0.iter().filter(wanted).collect()
    }
}

pub(crate) fn main_of(event: &Event) -> i64 {
    event.kv.as_ref().unwrap().mod_revision
}

/// One client's stream, what it asked and what it was answered.
pub(crate) struct Recorder {
    pub(crate) client: Client,
    asked: VecDeque<WatchCreateRequest>,
    pub(crate) responses: Vec<WatchResponse>,
    /// Ids that were in use at some time; what is cancelled is picked among them.
    ids: Vec<i64>,
}

impl Recorder {
    pub(crate) fn new(client: Client) -> Recorder {
        Recorder { client, asked: VecDeque::new(), responses: Vec::new(), ids: Vec::new() }
    }

    pub(crate) fn poll(&mut self, max_bytes: usize) -> Polled {
        let mut out = BytesMut::new();
        let polled = self.client.poll(&mut out, max_bytes);
        let responses = decode(out);
        if let Polled::Wrote { messages, events } = polled {
            assert_eq!(messages, responses.len());
            assert_eq!(events, responses.iter().map(|response| response.events.len()).sum::<usize>());
        } else {
            assert!(responses.is_empty());
        }
        self.responses.extend(responses);
        polled
    }

    pub(crate) fn drain(&mut self) {
        while !matches!(self.poll(1 << 20), Polled::Idle | Polled::Over) {}
    }

    /// `mirrors` says whether the history has a range.
    pub(crate) fn create(&mut self, rng: &mut StdRng, revision: i64, mirrors: &dyn Fn(&KeyRange) -> bool) {
        let (key, range_end) = *choose(
            rng,
            &[
                ("a", ""),
                ("a/b", ""),
                ("d", ""),
                ("a/", "a0"),
                ("a", "c"),
                ("b", "\0"),
                ("", "\0"),
                ("c", "b"),
                ("", "b"),
            ],
        );
        let filters = match rng.random_range(0..8) {
            0 => vec![FilterType::Noput as i32],
            1 => vec![FilterType::Nodelete as i32],
            2 => vec![9],
            _ => vec![],
        };
        let request = WatchCreateRequest {
            start_revision: match rng.random_range(0..10) {
                0..5 => 0,
                5..8 => rng.random_range(1..=revision),
                8 => revision + rng.random_range(0..30),
                _ => rng.random_range(-1..3),
            },
            progress_notify: rng.random_bool(0.4),
            filters,
            prev_kv: rng.random_bool(0.5),
            // Not -1, which the answer to a progress request has as well.
            watch_id: *choose(rng, &[0, 0, 0, 0, 0, 0, -2, 1, 2, 5]),
            fragment: rng.random_bool(0.3),
            ..on_range(key, range_end)
        };
        self.asked.push_back(request.clone());
        let key = if key.is_empty() { "\0" } else { key };
        let id = match mirrors(&KeyRange::new(key.into(), range_end.into())) {
            true => self.client.stream.create(&request),
            false => self.client.stream.create_unmirrored(&request),
        };
        self.ids.extend(id);
    }

    /// One thing that a client may do.
    pub(crate) fn step(&mut self, rng: &mut StdRng, revision: i64, mirrors: &dyn Fn(&KeyRange) -> bool) {
        match rng.random_range(0..20) {
            0..5 if self.client.stream.watchers() < 12 => self.create(rng, revision, mirrors),
            0..7 if !self.ids.is_empty() => {
                let id = *choose(rng, &self.ids);
                self.client.stream.cancel(id);
            }
            7..10 if self.client.stream.accepts_requests() => self.client.stream.request_progress(),
            10 => self.client.stream.tick_progress(),
            11..14 => drop(self.poll(rng.random_range(1..4000))),
            14 => self.drain(),
            _ => {}
        }
    }
}

pub(crate) fn choose<'a, T>(rng: &mut StdRng, of: &'a [T]) -> &'a T {
    &of[rng.random_range(0..of.len())]
}

pub(crate) fn random_txn(rng: &mut StdRng) -> Vec<Op> {
    let large = rng.random_bool(0.02);
    let ops = if rng.random_bool(0.8) { 1 } else { rng.random_range(1..8) };
    let mut txn: Vec<Op> = (0..ops)
        .map(|_| {
            let key = *choose(rng, &KEYS);
            let len = if large { 200_000 } else { rng.random_range(0..200) };
            let value = Bytes::from(vec![rng.random_range(b'a'..=b'z'); len]);
            if rng.random_bool(0.7) { Op::Put(key, value) } else { Op::Delete(key) }
        })
        .collect();
    // A delete of what is not there changes nothing, and a txn here must change something.
    txn.push(Op::Put("a", Bytes::new()));
    txn
}

/// A watcher between its created and its canceled message, as its client sees it.
struct Seen<'a> {
    request: WatchCreateRequest,
    expected: Vec<&'a Event>,
    /// How many of the expected events have come.
    got: usize,
    ended: bool,
}

/// Checks a stream's responses against the log; `finished` says that the client read all there was.
pub(crate) fn check(recorder: &Recorder, log: &Log, compacted: i64, finished: bool) {
    let mut asked = recorder.asked.clone();
    let mut watchers: HashMap<i64, Seen> = HashMap::new();
    let mut header_revision = 0;
    let mut split: Option<i64> = None;
    for response in &recorder.responses {
        let id = response.watch_id;
        let what = show(response);
        let revision = revision_of(response);
        if let Some(open) = split {
            assert_eq!(open, id, "nothing comes between two fragments: {what}");
        }
        split = response.fragment.then_some(id);
        assert!(
            revision >= header_revision || response.compact_revision != 0,
            "header revisions do not go down: {what}"
        );
        header_revision = header_revision.max(revision);
        if response.created {
            let request = asked.pop_front().expect("a created message answers a request");
            assert!(response.events.is_empty());
            if response.canceled {
                assert!(id == -1 && !response.cancel_reason.is_empty(), "{what}");
                continue;
            }
            assert!(request.watch_id == 0 || request.watch_id == id);
            let expected = log.expected(&request, revision);
            let seen = Seen { request, expected, got: 0, ended: false };
            if let Some(before) = watchers.insert(id, seen) {
                assert!(before.ended, "an id is given once at a time: {what}");
            }
            continue;
        }
        if id == -1 {
            assert!(response.events.is_empty() && !response.canceled, "{what}");
            for (of, seen) in watchers.iter().filter(|(_, seen)| !seen.ended) {
                bookmarks(seen, revision, &format!("{what} for {of}"));
            }
            continue;
        }
        let seen = watchers.get_mut(&id).unwrap_or_else(|| panic!("created comes before all else: {what}"));
        if response.canceled {
            assert!(response.events.is_empty(), "{what}");
            assert_eq!(revision == 0, response.compact_revision != 0, "{what}");
            if response.compact_revision == 0 {
                seen.ended = true;
            } else if let Some(next) = seen.expected.get(seen.got) {
                // Ended by compaction, and its id stays taken: no more events, but perhaps a second canceled message.
                assert!(response.compact_revision <= compacted);
                let past = seen.request.start_revision.max(main_of(next));
                assert!(seen.request.start_revision < response.compact_revision || past < response.compact_revision);
                seen.expected.truncate(seen.got);
            }
            continue;
        }
        assert!(!seen.ended, "nothing follows the canceled message: {what}");
        if response.events.is_empty() {
            assert!(seen.request.progress_notify, "only who asked is told: {what}");
            bookmarks(seen, revision, &what);
            continue;
        }
        for event in &response.events {
            let expected = seen.expected.get(seen.got).unwrap_or_else(|| panic!("no event is left to come: {what}"));
            assert_eq!((event.r#type, &event.kv), (expected.r#type, &expected.kv), "{what}");
            if !seen.request.prev_kv {
                assert!(event.prev_kv.is_none());
            } else if event.prev_kv.is_some() || main_of(event) > compacted {
                assert_eq!(event.prev_kv, expected.prev_kv, "{what}");
            }
            seen.got += 1;
        }
        let last = main_of(response.events.last().unwrap());
        assert!(last <= revision, "a header is not older than its events: {what}");
        if response.fragment {
            assert!(seen.request.fragment);
        } else if let Some(next) = seen.expected.get(seen.got) {
            assert!(main_of(next) > last, "a revision comes whole: {what}");
        }
        let mut revisions: Vec<i64> = response.events.iter().map(main_of).collect();
        revisions.dedup();
        assert!(revisions.len() <= 1000);
    }
    if finished {
        assert!(asked.is_empty(), "every request is answered");
        assert!(split.is_none(), "the last fragment says so");
        for (id, seen) in watchers.iter().filter(|(_, seen)| !seen.ended) {
            assert_eq!(seen.got, seen.expected.len(), "watcher {id} got every event: {:?}", seen.request);
        }
    }
}

/// A notice says that everything up to its revision has come.
fn bookmarks(seen: &Seen<'_>, revision: i64, what: &str) {
    let missing = seen.expected.get(seen.got).filter(|event| main_of(event) <= revision);
    assert!(missing.is_none(), "progress before an event: {what}");
    assert!(revision >= seen.request.start_revision, "progress before the start: {what}");
}

/// How often a program came to what is rare.
#[derive(Debug, Default)]
struct Reached {
    events: usize,
    fragments: usize,
    refused: usize,
    compacted: usize,
    progress: usize,
    lagging: usize,
}

fn run(seed: u64, reached: &mut Reached) {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let world = World::new();
    let mut log = Log::default();
    let mut recorders: Vec<Recorder> = (0..5).map(|_| Recorder::new(world.open())).collect();
    // Clients of one program read rarely, often, or not before the end.
    let eager: Vec<f64> = recorders.iter().map(|_| *choose(&mut rng, &[0.0, 0.02, 0.3, 1.0])).collect();
    let mut unpublished = VecDeque::new();
    let mut published = Vec::new();
    for _ in 0..1500 {
        match rng.random_range(0..100) {
            0..60 => {
                let txns: Vec<Vec<Op>> = (0..rng.random_range(1..4)).map(|_| random_txn(&mut rng)).collect();
                let batch = world.store.commit(&txns);
                log.append(&batch);
                unpublished.push_back(batch);
            }
            60 => {
                let content = world.store.0.lock();
                let (from, to) = (content.compacted, content.revision);
                drop(content);
                world.store.compact(rng.random_range(from..=to));
            }
            61 if rng.random_bool(0.2) => {
                unpublished.clear();
                world.hub.resync();
            }
            _ => {}
        }
        while !unpublished.is_empty() && rng.random_bool(0.6) {
            let batch = unpublished.pop_front().unwrap();
            world.hub.publish(&batch);
            published.push(batch);
        }
        let revision = world.store.revision();
        for (recorder, eager) in recorders.iter_mut().zip(&eager) {
            if rng.random_bool(0.1) && recorder.client.stream.watchers() < 3 {
                recorder.create(&mut rng, revision, &|_| true);
            }
            if rng.random_bool(*eager) {
                recorder.step(&mut rng, revision, &|_| true);
            }
        }
    }
    unpublished.iter().for_each(|batch| world.hub.publish(batch));
    let compacted = world.store.compacted();
    reached.lagging += world.hub.stats().unsynced;
    let mut events = 0;
    for recorder in &mut recorders {
        check(recorder, &log, compacted, false);
        recorder.drain();
        check(recorder, &log, compacted, true);
        for response in &recorder.responses {
            events += response.events.len();
            reached.fragments += usize::from(response.fragment);
            reached.refused += usize::from(response.created && response.canceled);
            reached.compacted += usize::from(response.compact_revision != 0);
            let says = response.created || response.canceled || !response.events.is_empty();
            reached.progress += usize::from(!says);
        }
    }
    reached.events += events;
    let stats = world.hub.stats();
    let watchers: usize = recorders.iter().map(|recorder| recorder.client.stream.watchers()).sum();
    assert_eq!((stats.streams, stats.watchers, stats.unsynced, stats.pending), (5, watchers, 0, 0));
    assert_eq!(stats.events, events as u64);
}

#[test]
fn every_promise_holds_in_random_programs() {
    let mut reached = Reached::default();
    (0..10).for_each(|seed| run(seed, &mut reached));
    let Reached { events, fragments, refused, compacted, progress, lagging } = reached;
    assert!(events > 50_000, "{reached:?}");
    assert!([fragments, refused, compacted, progress, lagging].iter().all(|times| *times > 20), "{reached:?}");
}

#[test]
fn every_promise_holds_when_everything_happens_at_once() {
    let world = Arc::new(World::new());
    let (send, receive) = mpsc::channel::<Arc<Batch>>();
    let all_published = AtomicBool::new(false);
    let (batches, recorders) = thread::scope(|scope| {
        let writer = scope.spawn({
            let world = world.clone();
            move || {
                let mut rng = StdRng::seed_from_u64(1);
                let batches = (0..4000).map(|n| {
                    let batch = world.store.commit(&[random_txn(&mut rng)]);
                    if n % 500 == 499 {
                        world.store.compact(world.store.revision() - rng.random_range(0..400));
                    }
                    send.send(batch.clone()).unwrap();
                    batch
                });
                // Ends the channel, and with it the notifier and the clients.
                let batches: Vec<_> = batches.collect();
                drop(send);
                batches
            }
        });
        scope.spawn({
            let (world, all_published) = (world.clone(), &all_published);
            move || {
                receive.iter().for_each(|batch| world.hub.publish(&batch));
                all_published.store(true, Ordering::Release);
            }
        });
        let clients: Vec<_> = (2..5)
            .map(|seed| {
                let (world, all_published) = (&world, &all_published);
                scope.spawn(move || {
                    let mut rng = StdRng::seed_from_u64(seed);
                    let mut recorder = Recorder::new(world.open());
                    while !all_published.load(Ordering::Acquire) {
                        recorder.step(&mut rng, world.store.revision(), &|_| true);
                        thread::yield_now();
                    }
                    recorder.drain();
                    recorder
                })
            })
            .collect();
        let recorders: Vec<Recorder> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        (writer.join().unwrap(), recorders)
    });
    let mut log = Log::default();
    batches.iter().for_each(|batch| log.append(batch));
    for recorder in &recorders {
        check(recorder, &log, world.store.compacted(), true);
    }
    drop(recorders);
    let stats = world.hub.stats();
    assert_eq!((stats.streams, stats.watchers, stats.unsynced, stats.pending), (0, 0, 0, 0));
}
