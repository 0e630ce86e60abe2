//! Seeded programs: a mirror that is loaded, fed, trimmed, rebuilt and begun anew, against an upstream that forgets
//! nothing. Reads at random revisions are compared with a replay of everything; watchers at random starts, some fed
//! privately, with everything that was promised of a watch.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use forebay_proto::etcdserverpb::watch_create_request::FilterType;
use prost::Message as _;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom as _};

use super::*;
use crate::watch::{
    CatchUp, Events, Fed, History as _, Ticket,
    tests::{
        Store,
        model::{Log, Recorder, check, choose, main_of, random_txn},
        show,
    },
};

/// A store, and a log of all that ever happened there.
struct Upstream {
    store: Store,
    log: Log,
}

impl Upstream {
    /// A store at this revision, with random content.
    fn new(rng: &mut StdRng, revision: i64) -> Upstream {
        let mut upstream = Upstream { store: Store::default(), log: Log::default() };
        upstream.store.0.lock().revision = 1;
        while upstream.store.revision() < revision {
            upstream.commit(rng);
        }
        upstream
    }

    fn commit(&mut self, rng: &mut StdRng) {
        let txns: Vec<_> = (0..rng.random_range(1..4)).map(|_| random_txn(rng)).collect();
        self.log.append(&self.store.commit(&txns));
    }

    fn state(&self, revision: i64) -> BTreeMap<Vec<u8>, KeyValue> {
        let mut state = BTreeMap::new();
        for event in self.log.0.iter().take_while(|event| main_of(event) <= revision) {
            let kv = event.kv.clone().unwrap();
            match event.r#type {
                0 => drop(state.insert(kv.key.to_vec(), kv)),
                _ => drop(state.remove(&kv.key[..])),
            }
        }
        state
    }

    /// A list of these ranges at the current revision, in any order.
    fn load(&self, rng: &mut StdRng, ranges: &Ranges) -> Load {
        let mut load = Load::new(ranges.clone(), self.store.revision());
        let mut kvs: Vec<KeyValue> = self.state(self.store.revision()).into_values().collect();
        kvs.retain(|kv| ranges.contains(&kv.key));
        kvs.shuffle(rng);
        kvs.iter().for_each(|kv| load.add(kv).unwrap());
        load
    }
}

/// The upstream's side of a private feed.
struct Feed {
    catch_up: CatchUp,
    next: i64,
    /// Whether it was asked for the next thing.
    is_asked: bool,
}

impl Feed {
    fn deliver(&mut self, rng: &mut StdRng, upstream: &Upstream) -> Fed {
        let (request, compacted) = (&self.catch_up.request, upstream.store.compacted());
        self.is_asked = false;
        if self.next < compacted {
            return Fed::Compacted(compacted);
        }
        let range = KeyRange::new(request.key.clone(), request.range_end.clone());
        let is_wanted = |event: &Event| {
            let filtered = if event.r#type == 0 { FilterType::Noput } else { FilterType::Nodelete };
            range.contains(&event.kv.as_ref().unwrap().key) && !request.filters.contains(&filtered.into())
        };
        let behind = upstream.log.0.iter().filter(|event| main_of(event) >= self.next && is_wanted(event));
        let mut events: Vec<Event> = Vec::new();
        let mut revisions = rng.random_range(1..20);
        for event in behind {
            if events.last().is_some_and(|last| main_of(last) < main_of(event)) {
                revisions -= 1;
                if revisions == 0 {
                    break;
                }
            }
            let prev_kv = event.prev_kv.clone().filter(|_| request.prev_kv && main_of(event) > compacted);
            events.push(Event { prev_kv, ..event.clone() });
        }
        let Some(last) = events.last().map(main_of) else {
            self.next = self.next.max(upstream.store.revision() + 1);
            return Fed::Progress(upstream.store.revision());
        };
        // Now and then an upstream connection is lost, and what it said is said again.
        if rng.random_bool(0.9) {
            self.next = last + 1;
        }
        Fed::Events(Events::new(&events).unwrap())
    }
}

/// One client, and the feeds that its stream has open.
struct Rider {
    recorder: Recorder,
    feeds: HashMap<Ticket, Feed>,
    /// How eagerly it reads.
    eager: f64,
}

impl Rider {
    fn new(rng: &mut StdRng, mirror: &Mirror) -> Rider {
        let eager = *choose(rng, &[0.0, 0.02, 0.3, 1.0]);
        Rider { recorder: Recorder::new(Client::new(mirror.hub())), feeds: HashMap::new(), eager }
    }

    fn carry_out_orders(&mut self, reached: &mut Reached) {
        while let Some(order) = self.recorder.client.stream.take_order() {
            match order {
                Order::Open(catch_up) => {
                    reached.fed += usize::from(!catch_up.lasting);
                    let next = catch_up.request.start_revision;
                    let feed = Feed { catch_up: catch_up.clone(), next, is_asked: true };
                    assert!(self.feeds.insert(catch_up.ticket, feed).is_none(), "a ticket names one feed");
                }
                Order::More(ticket) => self.feeds.get_mut(&ticket).expect("it is open").is_asked = true,
                Order::Close(ticket) => drop(self.feeds.remove(&ticket).expect("it is open")),
            }
        }
    }

    /// Lets one of the feeds that were asked deliver; returns whether there was one with something to say.
    fn deliver(&mut self, rng: &mut StdRng, upstream: &Upstream) -> bool {
        let current = upstream.store.revision();
        let has_news = |feed: &Feed| feed.is_asked && (!feed.catch_up.lasting || feed.next <= current);
        let mut asked: Vec<Ticket> = self.feeds.iter().filter(|(_, feed)| has_news(feed)).map(|(of, _)| *of).collect();
        asked.sort();
        let Some(ticket) = asked.first().map(|_| *choose(rng, &asked)) else { return false };
        let fed = self.feeds.get_mut(&ticket).unwrap().deliver(rng, upstream);
        self.recorder.client.stream.feed(ticket, fed);
        true
    }

    /// Reads all there is, with a mirror that knows all there is.
    fn finish(&mut self, rng: &mut StdRng, upstream: &Upstream, reached: &mut Reached) {
        loop {
            self.recorder.drain();
            self.carry_out_orders(reached);
            if !self.deliver(rng, upstream) {
                return;
            }
        }
    }
}

/// How often a program came to what is rare.
#[derive(Debug, Default)]
struct Reached {
    events: usize,
    compacted: usize,
    progress: usize,
    fed: usize,
    outside: usize,
    answered: usize,
    rebuilt: usize,
    restarted: usize,
}

/// Says one more piece of what the upstream has and the mirror has not.
fn follow(rng: &mut StdRng, upstream: &Upstream, mirror: &mut Mirror) {
    let (from, current) = (mirror.revision(), upstream.store.revision());
    let to = rng.random_range(from..=current);
    let reader = mirror.reader();
    let of = |event: &&Event| {
        (from + 1..=to).contains(&main_of(event)) && reader.ranges().contains(&event.kv.as_ref().unwrap().key)
    };
    let events: Vec<Event> = upstream.log.0.iter().filter(of).cloned().collect();
    let mut revisions: Vec<&[Event]> = events.chunk_by(|a, b| main_of(a) == main_of(b)).collect();
    while !revisions.is_empty() {
        let rest = revisions.split_off(rng.random_range(1..=revisions.len()));
        mirror.apply(&revisions.concat()).unwrap();
        revisions = rest;
    }
    mirror.advance(to).unwrap();
}

fn read(rng: &mut StdRng, upstream: &Upstream, mirror: &Mirror, known: i64, reached: &mut Reached) {
    let (key, range_end) = *choose(rng, &[("a", ""), ("a/", "a0"), ("\0", "\0"), ("b", "\0"), ("b", "d"), ("d", "b")]);
    let reader = mirror.reader();
    let (current, floor) = (reader.revision(), reader.floor());
    let revision = if rng.random_bool(0.3) { 0 } else { rng.random_range(-1..=upstream.store.revision() + 1) };
    let request = RangeRequest { key: key.into(), range_end: range_end.into(), revision, ..Default::default() };
    let range = KeyRange::new(request.key.clone(), request.range_end.clone());
    let result = reader.range(&request);
    let expected = match revision {
        _ if !reader.ranges().covers(&range) => Err(Unanswered::Unmirrored),
        1.. if revision < known => Err(Unanswered::Refused(Error::Compacted)),
        _ if revision > current => Err(Unanswered::Refused(Error::FutureRev)),
        1.. if revision < floor => Err(Unanswered::Outside { floor }),
        _ => Ok(upstream.state(if revision > 0 { revision } else { current })),
    };
    reached.outside += usize::from(expected == Err(Unanswered::Outside { floor }));
    match (result, expected) {
        (Ok(result), Ok(mut state)) => {
            reached.answered += 1;
            state.retain(|key, _| range.contains(key));
            assert_eq!((result.revision, result.count), (current, state.len() as i64), "{request:?}");
            let kvs: Vec<KeyValue> =
                result.kvs.iter().map(|version| KeyValue::decode(version.record()).unwrap()).collect();
            assert_eq!(kvs, state.into_values().collect::<Vec<_>>(), "{request:?}");
        }
        (result, expected) => assert_eq!(result.err(), expected.err(), "{request:?}"),
    }
}

fn ranges(rng: &mut StdRng) -> Ranges {
    let range = |start: &'static str, end: &'static str| KeyRange::new(start.into(), end.into());
    match rng.random_range(0..3) {
        0 => Ranges::new([range("a/", "a0"), range("b", ""), range("c", "e")]),
        1 => Ranges::new([range("a", "c")]),
        _ => Ranges::all(),
    }
}

fn run(seed: u64, reached: &mut Reached) {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let begin = rng.random_range(1..100);
    let mut upstream = Upstream::new(&mut rng, begin);
    let limits = Limits { bytes: *choose(&mut rng, &[0, 5_000, 1 << 20]), revisions: *choose(&mut rng, &[1, 20, 500]) };
    let ranges = ranges(&mut rng);
    let mut mirror = Mirror::new(upstream.load(&mut rng, &ranges), limits, 0).unwrap();
    let mirrors = |range: &KeyRange| ranges.covers(range);
    let mut riders: Vec<Rider> = (0..5).map(|_| Rider::new(&mut rng, &mirror)).collect();
    // The upstream's compaction, as far as the mirror was told.
    let mut known = -1;
    for _ in 0..800 {
        match rng.random_range(0..200) {
            0..80 => upstream.commit(&mut rng),
            80..140 => follow(&mut rng, &upstream, &mut mirror),
            140 => {
                let oldest = upstream.store.compacted().max(upstream.store.revision() - 150).max(1);
                upstream.store.compact(rng.random_range(oldest..=upstream.store.revision()));
            }
            141..145 if upstream.store.compacted() > 0 => {
                known = upstream.store.compacted();
                mirror.set_compacted(known);
            }
            145..147 => {
                mirror.replace(upstream.load(&mut rng, &ranges)).unwrap();
                reached.rebuilt += 1;
            }
            147 if rng.random_bool(0.2) => {
                riders
                    .iter()
                    .for_each(|rider| check(&rider.recorder, &upstream.log, upstream.store.compacted(), false));
                let begin = rng.random_range(1..upstream.store.revision() * 2);
                upstream = Upstream::new(&mut rng, begin);
                mirror.restart(upstream.load(&mut rng, &ranges)).unwrap();
                riders.iter_mut().for_each(|rider| send_away(rider, upstream.store.revision()));
                riders = (0..5).map(|_| Rider::new(&mut rng, &mirror)).collect();
                known = -1;
                reached.restarted += 1;
            }
            _ => {}
        }
        read(&mut rng, &upstream, &mirror, known, reached);
        // What a client knows of, it has heard from anybody.
        let revision = upstream.store.revision();
        for rider in &mut riders {
            if rng.random_bool(0.1) && rider.recorder.client.stream.watchers() < 3 {
                rider.recorder.create(&mut rng, revision, &mirrors);
            }
            if rng.random_bool(rider.eager) {
                rider.recorder.step(&mut rng, revision, &mirrors);
            }
            rider.carry_out_orders(reached);
            if rng.random_bool(0.5) {
                rider.deliver(&mut rng, &upstream);
            }
        }
    }
    while mirror.revision() < upstream.store.revision() {
        follow(&mut rng, &upstream, &mut mirror);
    }
    for rider in &mut riders {
        rider.finish(&mut rng, &upstream, reached);
        check(&rider.recorder, &upstream.log, upstream.store.compacted(), true);
        for response in &rider.recorder.responses {
            reached.events += response.events.len();
            reached.compacted += usize::from(response.compact_revision != 0);
            let says = response.created || response.canceled || !response.events.is_empty();
            reached.progress += usize::from(!says);
        }
    }
    assert_eq!(mirror.hub().stats().pending, 0);
}

/// The upstream began anew at this revision: what a client is told still.
fn send_away(rider: &mut Rider, revision: i64) {
    let before = rider.recorder.responses.len();
    rider.recorder.drain();
    assert_eq!(rider.recorder.poll(1), Polled::Over);
    let told = &rider.recorder.responses[before..];
    let pieces = told.iter().take_while(|response| !response.events.is_empty()).count();
    for response in &told[pieces..] {
        assert!(response.events.is_empty(), "nothing of either store: {}", show(response));
        assert!([0, revision].contains(&response.compact_revision), "{}", show(response));
    }
}

#[test]
fn b06_a_mirror_answers_as_its_upstream_would_in_random_programs() {
    let mut reached = Reached::default();
    (0..16).for_each(|seed| run(seed, &mut reached));
    let Reached { events, compacted, progress, fed, outside, answered, rebuilt, restarted } = reached;
    assert!(events > 20_000, "{reached:?}");
    assert!([compacted, progress, fed, outside, answered].iter().all(|times| *times > 50), "{reached:?}");
    assert!(rebuilt > 20 && restarted > 5, "{reached:?}");
}

#[test]
fn b08_nothing_is_lost_while_the_window_moves_on_under_those_who_read_it() {
    let upstream = Upstream::new(&mut StdRng::seed_from_u64(5), 3000);
    let limits = Limits { bytes: 1 << 20, revisions: 300 };
    let mut mirror = Mirror::new(Load::new(Ranges::all(), 1), limits, 0).unwrap();
    let (hub, reader, is_done) = (mirror.hub().clone(), mirror.reader(), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for revision in upstream.log.0.chunk_by(|a, b| main_of(a) == main_of(b)) {
                mirror.apply(revision).unwrap();
                thread::yield_now();
            }
            is_done.store(true, Ordering::Release);
        });
        for seed in 1..4 {
            let (hub, reader, upstream, is_done) = (&hub, &reader, &upstream, &is_done);
            scope.spawn(move || {
                let (mut rng, mut reached) = (StdRng::seed_from_u64(seed), Reached::default());
                let recorder = Recorder::new(Client::new(hub));
                let mut rider = Rider { recorder, feeds: HashMap::new(), eager: 1.0 };
                while !is_done.load(Ordering::Acquire) {
                    rider.recorder.step(&mut rng, reader.revision(), &|_| true);
                    rider.carry_out_orders(&mut reached);
                    rider.deliver(&mut rng, upstream);
                    thread::yield_now();
                }
                rider.finish(&mut rng, upstream, &mut reached);
                check(&rider.recorder, &upstream.log, upstream.store.compacted(), true);
            });
        }
    });
}
