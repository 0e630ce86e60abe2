//! A mirror by hand: what it takes, what it refuses, and where its window ends.

mod model;

use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{RangeRequest, WatchCreateRequest},
    mvccpb::{Event, KeyValue},
};

use super::*;
use crate::watch::{
    Order, Polled,
    tests::{Client, event, on_all, on_key},
};

const WIDE: Limits = Limits { bytes: 1 << 20, revisions: 1000 };

fn put(key: &str, value: &str, created: i64, version: i64, main: i64) -> Event {
    event(key, Some(value), created, version, main)
}

fn delete(key: &str, main: i64) -> Event {
    event(key, None, 0, 0, main)
}

fn record(key: &str, value: &str, created: i64, version: i64, main: i64) -> KeyValue {
    put(key, value, created, version, main).kv.unwrap()
}

/// a=1@4 and b=1@7, listed at revision 9.
fn load() -> Load {
    let mut load = Load::new(Ranges::all(), 9);
    load.add(&record("b", "1", 7, 1, 7)).unwrap();
    load.add(&record("a", "1", 2, 3, 4)).unwrap();
    load
}

fn mirror(limits: Limits) -> Mirror {
    Mirror::new(load(), limits, 0).unwrap()
}

/// `key=value@mod_revision` of every key, and the header's revision.
fn shown(reader: &MirrorReader, revision: i64) -> Result<(String, i64), Unanswered> {
    let all = RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() };
    let result = reader.range(&all)?;
    assert_eq!(result.count as usize, result.kvs.len());
    let kvs = result.kvs.iter().map(|version| {
        format!("{}={}@{}", version.key().escape_ascii(), version.value().escape_ascii(), version.mod_revision())
    });
    Ok((kvs.collect::<Vec<_>>().join(" "), result.revision))
}

#[test]
fn b02_events_are_taken_at_the_revisions_they_have_and_progress_fills_the_gaps() {
    let mut mirror = mirror(WIDE);
    let reader = mirror.reader();
    assert_eq!(shown(&reader, 0), Ok(("a=1@4 b=1@7".into(), 9)));
    mirror.apply(&[put("a", "2", 2, 4, 12), delete("b", 12), put("c", "1", 15, 1, 15)]).unwrap();
    mirror.advance(20).unwrap();
    assert_eq!(shown(&reader, 0), Ok(("a=2@12 c=1@15".into(), 20)));
    assert_eq!(shown(&reader, 14), Ok(("a=2@12".into(), 20)));
    assert_eq!(shown(&reader, 11), Ok(("a=1@4 b=1@7".into(), 20)), "nothing changed between");
    assert_eq!(shown(&reader, 21), Err(Unanswered::Refused(Error::FutureRev)));
    assert_eq!(shown(&reader, 8), Err(Unanswered::Outside { floor: 9 }));
    let version = reader.evaluate(0, |snapshot| Ok(snapshot.get(b"a", 20))).unwrap().unwrap();
    assert_eq!((version.create_revision(), version.version(), version.mod_revision()), (2, 4, 12));
}

#[test]
fn b32_whatever_does_not_continue_what_is_known_ends_the_mirror_and_shows_nothing_of_it() {
    let malformed = |revision| Desync::Malformed { key: Key::of(b"c"), revision };
    let discontinuous = |told, expected| Desync::Discontinuous { key: Key::of(b"a"), revision: 10, told, expected };
    let cases = [
        (vec![put("a", "2", 2, 5, 10)], discontinuous((2, 5), (2, 4))),
        (vec![put("a", "2", 3, 4, 10)], discontinuous((3, 4), (2, 4))),
        (vec![put("a", "2", 10, 1, 10)], discontinuous((10, 1), (2, 4))),
        (vec![put("a", "2", 2, 4, 10), put("a", "2", 2, 4, 10)], discontinuous((2, 4), (2, 5))),
        (vec![delete("c", 10)], Desync::Unknown { key: Key::of(b"c"), revision: 10 }),
        (vec![delete("a", 10), delete("a", 10)], Desync::Unknown { key: Key::of(b"a"), revision: 10 }),
        (vec![put("a", "2", 2, 4, 9)], Desync::Backwards { revision: 9, current: 10 }),
        (vec![delete("a", 11), delete("b", 10)], Desync::Backwards { revision: 10, current: 11 }),
        (vec![put("c", "", 10, 0, 10)], malformed(10)),
        (vec![put("c", "", 11, 1, 10)], malformed(10)),
        (vec![put("c", "", 10, 1, i64::MAX)], malformed(i64::MAX)),
        (vec![Event { r#type: 2, ..put("c", "", 10, 1, 10) }], malformed(10)),
    ];
    for (events, desync) in cases {
        let mut mirror = mirror(WIDE);
        // What came before in the same call is not shown either.
        let all = [vec![put("z", "1", 10, 1, 10)], events].concat();
        assert_eq!(mirror.apply(&all), Err(desync.clone()));
        assert_eq!(mirror.apply(&[put("y", "1", 30, 1, 30)]), Err(desync.clone()), "it takes nothing more");
        assert_eq!(mirror.advance(40), Err(desync.clone()));
        assert_eq!((mirror.desync(), mirror.reader().revision()), (Some(&desync), 9));
        assert_eq!(shown(&mirror.reader(), 0), Ok(("a=1@4 b=1@7".into(), 9)));
        mirror.replace(load()).unwrap();
        assert_eq!(mirror.apply(&[put("a", "2", 2, 4, 10)]), Ok(()), "until it is filled anew");
    }
    let mut mirror = mirror(WIDE);
    assert_eq!(mirror.advance(8), Err(Desync::Backwards { revision: 8, current: 9 }));
}

#[test]
fn a_key_that_one_revision_deletes_and_puts_is_no_contradiction() {
    // etcd accepts such a txn; see the holes of its check for duplicate keys.
    let mut mirror = mirror(WIDE);
    mirror.apply(&[delete("a", 10), put("a", "2", 10, 1, 10)]).unwrap();
    assert_eq!(shown(&mirror.reader(), 0), Ok(("a=2@10 b=1@7".into(), 10)));
}

#[test]
fn a_list_that_cannot_be_one_is_refused() {
    let mut load = Load::new(Ranges::new([KeyRange::new("a".into(), "c".into())]), 9);
    let at = |revision| Desync::Malformed { key: Key::of(b"a"), revision };
    assert_eq!(load.add(&record("a", "", 1, 0, 4)), Err(at(4)));
    assert_eq!(load.add(&record("a", "", 5, 1, 4)), Err(at(4)));
    assert_eq!(load.add(&record("a", "", 0, 1, 4)), Err(at(4)));
    assert_eq!(load.add(&record("a", "", 2, 1, 10)), Err(Desync::Backwards { revision: 9, current: 10 }));
    assert_eq!(load.add(&record("c", "", 2, 1, 4)), Err(Desync::Foreign { key: Key::of(b"c"), revision: 4 }));
    assert!(load.is_empty());
    load.add(&record("a", "", 2, 1, 4)).unwrap();
    load.add(&record("a", "", 2, 2, 5)).unwrap();
    assert_eq!(load.len(), 2);
    assert_eq!(Mirror::new(load, WIDE, 0).err(), Some(Desync::Twice { key: Key::of(b"a") }));
}

#[test]
fn a_range_is_answered_if_every_key_of_it_is_mirrored() {
    let ranges = Ranges::new([KeyRange::new("a".into(), "c".into())]);
    let mut mirror = Mirror::new(Load::new(ranges, 1), WIDE, 0).unwrap();
    mirror.apply(&[put("a", "1", 5, 1, 5)]).unwrap();
    let reader = mirror.reader();
    let range = |key: &'static str, end: &'static str| {
        reader.range(&RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() })
    };
    assert_eq!(range("a", "b").unwrap().count, 1);
    assert_eq!(range("b", "").unwrap().count, 0);
    for (key, end) in [("c", ""), ("a", "d"), ("a", "\0"), ("A", "b")] {
        assert_eq!(range(key, end).unwrap_err(), Unanswered::Unmirrored);
    }
    let desync = mirror.apply(&[put("c", "1", 6, 1, 6)]);
    assert_eq!(desync, Err(Desync::Foreign { key: Key::of(b"c"), revision: 6 }));
}

#[test]
fn b29_a_revision_that_others_compacted_is_refused_even_if_the_window_has_it() {
    let mut mirror = mirror(WIDE);
    let reader = mirror.reader();
    for main in 10..20 {
        mirror.apply(&[put("a", &main.to_string(), 2, main - 6, main)]).unwrap();
    }
    mirror.set_compacted(15);
    assert_eq!(shown(&reader, 14), Err(Unanswered::Refused(Error::Compacted)));
    assert_eq!(shown(&reader, 5), Err(Unanswered::Refused(Error::Compacted)), "not outside of the window: gone");
    assert_eq!(shown(&reader, 15), Ok(("a=15@15 b=1@7".into(), 19)));
    mirror.set_compacted(12);
    assert_eq!(reader.compacted_revision(), 15, "a compaction is not taken back");
    assert_eq!(shown(&reader, -1), Ok(("a=19@19 b=1@7".into(), 19)));
    mirror.set_compacted(25);
    assert_eq!(shown(&reader, 19), Err(Unanswered::Refused(Error::Compacted)));
    assert_eq!(shown(&reader, 0).unwrap().1, 19, "the current state is readable whatever others compact");
}

#[test]
fn b16_a_start_that_others_compacted_is_cancelled_with_the_stores_compaction() {
    let mut mirror = mirror(WIDE);
    for main in 10..20 {
        mirror.apply(&[put("a", &main.to_string(), 2, main - 6, main)]).unwrap();
    }
    mirror.set_compacted(18);
    let mut client = Client::new(mirror.hub());
    client.create(WatchCreateRequest { start_revision: 17, ..on_all() });
    client.create(WatchCreateRequest { start_revision: 3, ..on_all() });
    client.create(WatchCreateRequest { start_revision: 18, prev_kv: true, ..on_all() });
    let created = ["0@19 created", "1@19 created", "2@19 created"];
    let rest = ["0@0 canceled compacted=18", "1@0 canceled compacted=18", "2@19 a=18@18 a=19@19(was 18)"];
    let mut shown = client.shown();
    let mut answers = shown.split_off(3);
    answers.sort();
    assert_eq!((shown.as_slice(), answers.as_slice()), (&created.map(String::from)[..], &rest.map(String::from)[..]));
}

#[test]
fn b19_a_previous_value_is_told_though_it_was_written_before_the_window() {
    let mut mirror = mirror(WIDE);
    let mut client = Client::new(mirror.hub());
    client.create(WatchCreateRequest { prev_kv: true, ..on_key("a") });
    mirror.apply(&[put("a", "2", 2, 4, 10)]).unwrap();
    mirror.apply(&[delete("a", 13)]).unwrap();
    mirror.apply(&[put("a", "3", 14, 1, 14)]).unwrap();
    assert_eq!(client.shown(), ["0@9 created", "0@10 a=2@10(was 1)", "0@13 -a@13(was 2)", "0@14 a=3@14"]);
    client.create(WatchCreateRequest { prev_kv: true, start_revision: 10, ..on_key("a") });
    assert_eq!(client.shown(), ["1@14 created", "1@14 a=2@10(was 1) -a@13(was 2) a=3@14"]);
}

#[test]
fn the_window_keeps_its_limits_and_the_live_records() {
    let limits = Limits { bytes: 20_000, revisions: 50 };
    let mut mirror = mirror(limits);
    let reader = mirror.reader();
    let live = mirror.bytes();
    for step in 0..500i64 {
        let (main, value) = (10 + 3 * step, "v".repeat(step as usize % 300));
        mirror.apply(&[put("a", &value, 2, 4 + step, main)]).unwrap();
        assert!(mirror.bytes() <= live + limits.bytes + 400);
        let floor = reader.floor();
        assert!(main - floor <= 150, "{main} {floor}");
        assert_eq!(shown(&reader, floor).unwrap().1, main);
        assert_eq!(shown(&reader, floor - 1), Err(Unanswered::Outside { floor }));
    }
    // A quiet upstream lets the removal finish; of both keys the versions since the floor are left.
    for revision in 2000..2010 {
        mirror.advance(revision).unwrap();
    }
    let mut versions = 0;
    mirror.keyspace.published().tree.for_each(&mut |chain| versions += chain.versions().count());
    assert!(versions <= 52, "{versions}");
    assert_eq!(mirror.keyspace.compacting().count(), 0);
}

#[test]
fn the_last_batch_stays_however_large() {
    let mut mirror = mirror(Limits { bytes: 1, revisions: 1 });
    let mut client = Client::new(mirror.hub());
    mirror.apply(&[put("a", "2", 2, 4, 10), put("b", "2", 7, 2, 11)]).unwrap();
    assert_eq!(mirror.reader().floor(), 9);
    client.create(WatchCreateRequest { start_revision: 10, ..on_all() });
    assert_eq!(client.shown(), ["0@11 created", "0@11 a=2@10 b=2@11"]);
}

#[test]
fn b21_after_a_rebuild_watchers_go_on_or_are_fed_and_nothing_is_made_up() {
    let mut mirror = mirror(WIDE);
    let [mut current, mut behind, mut future] = std::array::from_fn(|_| Client::new(mirror.hub()));
    current.watch(on_key("a"));
    behind.watch(on_key("b"));
    future.watch(WatchCreateRequest { start_revision: 30, ..on_all() });
    mirror.apply(&[put("a", "2", 2, 4, 10)]).unwrap();
    assert_eq!(current.shown(), ["0@10 a=2@10"]);
    // What happened between 10 and 20 is not known; b changed, a did not.
    let mut again = Load::new(Ranges::all(), 20);
    again.add(&record("a", "2", 2, 4, 10)).unwrap();
    again.add(&record("b", "2", 7, 3, 15)).unwrap();
    mirror.replace(again).unwrap();
    assert_eq!(shown(&mirror.reader(), 19), Err(Unanswered::Outside { floor: 20 }));
    for client in [&mut current, &mut behind] {
        assert_eq!(client.shown(), Vec::<String>::new());
        let Some(Order::Open(catch_up)) = client.stream.take_order() else { panic!("a feed is needed") };
        assert_eq!(catch_up.request.start_revision, 11);
    }
    assert_eq!(future.shown(), Vec::<String>::new());
    assert_eq!(future.stream.take_order(), None, "a start in the future is still covered");
    mirror.apply(&[put("a", "3", 2, 5, 30)]).unwrap();
    assert_eq!(future.shown(), ["0@30 a=3@30"]);
}

#[test]
fn b39_a_list_of_a_member_that_lags_is_refused_and_nothing_goes_back() {
    let mut mirror = mirror(WIDE);
    let mut client = Client::new(mirror.hub());
    client.watch(on_all());
    mirror.apply(&[put("a", "2", 2, 4, 10)]).unwrap();
    assert_eq!(mirror.replace(load()), Err(Desync::Backwards { revision: 9, current: 10 }));
    assert_eq!(client.shown(), ["0@10 a=2@10"]);
    assert_eq!(shown(&mirror.reader(), 0), Ok(("a=2@10 b=1@7".into(), 10)));
}

#[test]
fn b40_an_upstream_that_was_set_back_ends_all_watchers_and_is_read_as_it_is() {
    let mut mirror = mirror(WIDE);
    let reader = mirror.reader();
    let mut client = Client::new(mirror.hub());
    client.watch(on_all());
    client.watch(WatchCreateRequest { start_revision: 100, ..on_all() });
    mirror.apply(&[put("a", "2", 2, 4, 10)]).unwrap();
    mirror.set_compacted(8);
    let mut restored = Load::new(Ranges::all(), 4);
    restored.add(&record("a", "1", 2, 3, 4)).unwrap();
    mirror.restart(restored).unwrap();
    mirror.apply(&[put("a", "other", 2, 4, 5)]).unwrap();
    assert_eq!(client.shown(), ["0@0 canceled compacted=4", "1@0 canceled compacted=4"]);
    assert_eq!(client.poll(&mut Default::default(), 1), Polled::Over);
    assert_eq!(shown(&reader, 0), Ok(("a=other@5".into(), 5)));
    assert_eq!(shown(&reader, 3), Err(Unanswered::Outside { floor: 4 }), "the old compaction is forgotten");
    assert_eq!(shown(&reader, 10), Err(Unanswered::Refused(Error::FutureRev)));
}
