//! What a request costs: predicted before it is forwarded, settled when its answer is known.
//!
//! Two measures. *Load* is the formula of the talk this project answers: requests × objects × object size, in bytes.
//! *Units* weigh different kinds of work against each other with the weights of TiDB's request units: 8 reads, 64 KiB
//! read, 1 write, 1 KiB written, 1,000 keys walked, or 500 watches that hear of a write are one unit.

use forebay_proto::KeyRange;

use crate::{Answer, Kind, Request, Rpc};

/// The cost of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Objects in the answer, or written.
    pub objects: u64,
    /// Bytes of objects read and written.
    pub load: u64,
    /// Thousandths of a unit.
    pub units: u64,
    /// How much of the upstream's concurrency it takes, 1 to [`SEATS_MAX`].
    pub seats: u32,
}

/// What is known of the objects that a request's ranges hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub objects: u64,
    /// The mean size of an object, key and value.
    pub object_bytes: u64,
}

/// What a request turned out to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    /// Objects in the answer.
    pub objects: u64,
    /// Their bytes, or those of the whole answer where objects are not told apart.
    pub bytes: u64,
}

/// The seats of the widest request.
pub const SEATS_MAX: u32 = 10;

/// Bytes of objects that take one seat.
const SEAT_BYTES: u64 = 100_000;

/// Watches to tell of a write that take one seat. Kubernetes counts ten, and encodes each event for itself; here all are
/// told with the same bytes.
const SEAT_WATCHERS: u64 = 100;

/// Thousandths of a unit for each of them: some microseconds of CPU time.
const WATCHER_UNITS: u64 = 2;

/// What is assumed of a range that nothing is known of: as much as a request can be. The first answer corrects it.
const UNKNOWN: Expected = Expected { objects: 1_000_000_000, object_bytes: 1_500_000 };

/// What is assumed of a single object that nothing is known of.
const UNKNOWN_OBJECT_BYTES: u64 = 2_048;

/// What is assumed of a key without its value.
const KEY_BYTES: u64 = 100;

impl Cost {
    /// The cost before the answer is known. `expected` describes the request's ranges, `None` is the worst.
    pub fn predict(request: &Request<'_>, expected: Option<Expected>) -> Cost {
        let single = request.keys.iter().all(|keys| matches!(keys, KeyRange::Key(_)));
        let found = match expected {
            Some(expected) => expected,
            None if single => Expected { objects: request.keys.len() as u64, object_bytes: UNKNOWN_OBJECT_BYTES },
            None => UNKNOWN,
        };
        match request.rpc {
            Rpc::Range | Rpc::RangeStream => {
                let limit = if request.limit == 0 { u64::MAX } else { request.limit };
                let objects = found.objects.min(limit);
                let actual = match request.answer {
                    Answer::Objects => Actual { objects, bytes: objects.saturating_mul(found.object_bytes) },
                    Answer::Keys => Actual { objects, bytes: objects.saturating_mul(KEY_BYTES) },
                    Answer::Count => Actual::default(),
                };
                Cost::of(request, actual, found.objects)
            }
            Rpc::DeleteRange => {
                let actual = Actual { objects: found.objects, bytes: 0 };
                Cost::of(request, actual, found.objects)
            }
            Rpc::Txn if !single => {
                let bytes = found.objects.saturating_mul(found.object_bytes);
                Cost::of(request, Actual { objects: found.objects, bytes }, found.objects)
            }
            Rpc::Txn => Cost::of(request, Actual { objects: u64::from(request.ops), bytes: 0 }, 0),
            Rpc::Put => Cost::of(request, Actual { objects: 1, bytes: 0 }, 0),
            _ => Cost::of(request, Actual::default(), 0),
        }
    }

    /// The cost of what was answered.
    pub fn settle(request: &Request<'_>, actual: Actual) -> Cost {
        Cost::of(request, actual, actual.objects)
    }

    fn of(request: &Request<'_>, actual: Actual, walked: u64) -> Cost {
        let writes = match (request.rpc, request.rpc.kind()) {
            (Rpc::Txn, _) => u64::from(request.writes),
            (_, Kind::Write) => 1,
            _ => 0,
        };
        let (written, told) = if writes > 0 { (request.bytes, u64::from(request.watchers)) } else { (0, 0) };
        let reading = 125 + (u128::from(actual.bytes) * 1_000 / (64 << 10)) as u64;
        let writing = writes * 1_000 + (u128::from(written) * 1_000 / (1 << 10)) as u64 + told * WATCHER_UNITS;
        let load = actual.bytes.saturating_add(written);
        let wide = load.div_ceil(SEAT_BYTES).max(1).saturating_add(told / SEAT_WATCHERS);
        let seats = wide.min(u64::from(SEATS_MAX)) as u32;
        Cost { objects: actual.objects, load, units: reading.saturating_add(writing).saturating_add(walked), seats }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Client, prefix};

    fn list<'a>(client: &'a Client, keys: &'a [KeyRange], limit: u64) -> Request<'a> {
        Request { keys, limit, ..Request::new(client, Rpc::Range) }
    }

    #[test]
    fn the_talks_list_costs_what_the_talk_says() {
        let (client, keys) = (Client::default(), [prefix::range(b"/registry/jobs/")]);
        let jobs = Some(Expected { objects: 320_186, object_bytes: 1_100 });
        let cost = Cost::predict(&list(&client, &keys, 0), jobs);
        assert_eq!((cost.objects, cost.load, cost.seats), (320_186, 320_186 * 1_100, SEATS_MAX));
        // 5,374 units of payload and 320 of walking.
        assert_eq!(cost.units, 125 + 320_186 * 1_100 * 1_000 / 65_536 + 320_186);
        let page = Cost::predict(&list(&client, &keys, 500), jobs);
        assert_eq!((page.objects, page.load, page.seats), (500, 550_000, 6));
    }

    #[test]
    fn counting_carries_nothing_but_walks() {
        let (client, keys) = (Client::default(), [prefix::range(b"/registry/jobs/")]);
        let request = Request { answer: Answer::Count, ..list(&client, &keys, 0) };
        let cost = Cost::predict(&request, Some(Expected { objects: 5_000, object_bytes: 1_000 }));
        assert_eq!(cost, Cost { objects: 0, load: 0, units: 125 + 5_000, seats: 1 });
    }

    #[test]
    fn an_unknown_range_is_taken_for_the_worst_and_an_unknown_key_is_not() {
        let client = Client::default();
        let range = [prefix::range(b"/a/")];
        assert_eq!(Cost::predict(&list(&client, &range, 0), None).seats, SEATS_MAX);
        let key = [KeyRange::Key(Bytes::from_static(b"/a/b"))];
        assert_eq!(Cost::predict(&list(&client, &key, 0), None).seats, 1);
    }

    #[test]
    fn a_write_weighs_as_eight_reads_and_its_kilobytes() {
        let (client, keys) = (Client::default(), [KeyRange::Key(Bytes::from_static(b"/a/b"))]);
        let put = Request { keys: &keys, bytes: 4 << 10, ..Request::new(&client, Rpc::Put) };
        assert_eq!(Cost::predict(&put, None), Cost { objects: 1, load: 4 << 10, units: 125 + 1_000 + 4_000, seats: 1 });
        let large = Request { bytes: 1 << 20, ..put };
        assert_eq!(Cost::predict(&large, None).seats, SEATS_MAX);
    }

    #[test]
    fn a_write_that_many_watch_is_wider_and_a_read_is_not() {
        let (client, keys) = (Client::default(), [KeyRange::Key(Bytes::from_static(b"/a/b"))]);
        let put = |watchers| Request { keys: &keys, bytes: 1 << 10, watchers, ..Request::new(&client, Rpc::Put) };
        let seats = |watchers| Cost::predict(&put(watchers), None).seats;
        assert_eq!((seats(0), seats(99), seats(100), seats(850), seats(u32::MAX)), (1, 1, 2, 9, SEATS_MAX));
        let (alone, watched) = (Cost::predict(&put(0), None), Cost::predict(&put(500), None));
        assert_eq!((watched.units - alone.units, watched.load), (1_000, alone.load));
        let read = Request { rpc: Rpc::Range, ..put(u32::MAX) };
        assert_eq!(Cost::predict(&read, Some(Expected { objects: 1, object_bytes: 1 })).seats, 1);
    }

    #[test]
    fn no_size_overflows() {
        let (client, keys) = (Client::default(), [prefix::range(b"/a/")]);
        let request =
            Request { bytes: u64::MAX, ops: u32::MAX, writes: u32::MAX, watchers: u32::MAX, ..list(&client, &keys, 0) };
        for &rpc in Rpc::ALL {
            let request = Request { rpc, ..request.clone() };
            let most = Expected { objects: u64::MAX, object_bytes: u64::MAX };
            assert!(Cost::predict(&request, Some(most)).seats <= SEATS_MAX);
            Cost::settle(&request, Actual { objects: u64::MAX, bytes: u64::MAX });
        }
    }
}
