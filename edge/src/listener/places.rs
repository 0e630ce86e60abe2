//! Who is connected, and who goes first when there is no room.
//!
//! A connection is opening until it has shown that it speaks HTTP, under TLS if the port has it. After that it is idle
//! or has open requests. An honest client opens within milliseconds, and one without requests loses nothing by
//! connecting again; so when room is needed, the longest opening goes, then the longest idle, and nobody with a
//! request.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::Limits;

/// The places of a listener.
pub(super) struct Places {
    limits: Limits,
    /// What instants are counted from.
    start: Instant,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next: u64,
    /// In the order in which they came.
    opening: BTreeMap<u64, Arc<Seat>>,
    begun: HashMap<u64, Arc<Seat>>,
}

impl Held {
    fn all(&self) -> impl Iterator<Item = &Arc<Seat>> {
        self.opening.values().chain(self.begun.values())
    }

    /// Who may be asked to leave, among those that `which` lets through.
    fn dispensable(&self, which: impl Fn(&Seat) -> bool) -> Option<Arc<Seat>> {
        let opening = self.opening.values().find(|seat| seat.is_staying() && which(seat));
        let idle = || self.begun.values().filter(|seat| seat.is_staying() && seat.is_idle() && which(seat));
        opening.or_else(|| idle().min_by_key(|seat| seat.idle_since_ms.load(Ordering::Relaxed))).cloned()
    }
}

/// One connection as the others see it.
struct Seat {
    source: IpAddr,
    /// Requests whose answers have not gone out whole.
    requests: AtomicUsize,
    /// When the last of them ended.
    idle_since_ms: AtomicU64,
    /// How often it was asked to leave.
    asked: AtomicUsize,
    leave: Notify,
    cut: Notify,
}

impl Seat {
    fn is_idle(&self) -> bool {
        self.requests.load(Ordering::Relaxed) == 0
    }

    fn is_staying(&self) -> bool {
        self.asked.load(Ordering::Relaxed) == 0
    }

    fn ask_to_leave(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.leave.notify_one();
    }
}

impl Places {
    pub(super) fn new(limits: Limits) -> Arc<Places> {
        Arc::new(Places { limits, start: Instant::now(), held: Mutex::default() })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether one more may be let in, if need be for another that leaves.
    pub(super) fn has_room(&self) -> bool {
        let held = self.held.lock();
        held.opening.len() + held.begun.len() < self.limits.max_connections || held.dispensable(|_| true).is_some()
    }

    /// Gives a new connection a place; `None` if its source has too many already.
    pub(super) fn take(self: &Arc<Places>, source: IpAddr) -> Option<Place> {
        let mut held = self.held.lock();
        let from_source = || held.all().filter(|seat| seat.source == source && seat.is_staying()).count();
        if let Some(max) = self.limits.max_connections_per_source
            && from_source() >= max
        {
            held.dispensable(|seat| seat.source == source)?.ask_to_leave();
        }
        let full = held.opening.len() + held.begun.len() >= self.limits.max_connections;
        if (full || held.opening.len() >= self.limits.max_opening)
            && let Some(seat) = held.dispensable(|_| true)
        {
            seat.ask_to_leave();
        }
        let id = held.next;
        held.next += 1;
        let seat = Arc::new(Seat {
            source,
            requests: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(self.now_ms()),
            asked: AtomicUsize::new(0),
            leave: Notify::new(),
            cut: Notify::new(),
        });
        held.opening.insert(id, Arc::clone(&seat));
        Some(Place(Arc::new(Taken { places: Arc::clone(self), id, seat })))
    }

    /// Asks somebody to leave, because the process has no room for more.
    pub(super) fn make_room(&self) {
        if let Some(seat) = self.held.lock().dispensable(|_| true) {
            seat.ask_to_leave();
        }
    }
}

/// The place of one connection, given back when the last handle is dropped.
#[derive(Clone)]
pub(super) struct Place(Arc<Taken>);

struct Taken {
    places: Arc<Places>,
    id: u64,
    seat: Arc<Seat>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut held = self.places.held.lock();
        if held.opening.remove(&self.id).is_none() {
            held.begun.remove(&self.id);
        }
    }
}

impl Place {
    /// The connection speaks HTTP.
    pub(super) fn begin(&self) {
        let mut held = self.0.places.held.lock();
        if let Some(seat) = held.opening.remove(&self.0.id) {
            seat.idle_since_ms.store(self.0.places.now_ms(), Ordering::Relaxed);
            held.begun.insert(self.0.id, seat);
        }
    }

    /// A request came in; it is open until the guard is dropped.
    pub(super) fn open(&self) -> OpenRequest {
        self.0.seat.requests.fetch_add(1, Ordering::Relaxed);
        OpenRequest(self.clone())
    }

    /// Ends the connection, whatever it is at.
    pub(super) fn cut(&self) {
        self.0.seat.cut.notify_one();
    }

    /// Waits until the connection is cut.
    pub(super) async fn was_cut(&self) {
        self.0.seat.cut.notified().await;
    }

    /// Waits until the connection should end: it was asked to leave, or was idle for too long.
    pub(super) async fn dismissed(&self) {
        let seat = &self.0.seat;
        let idle = async {
            let timeout = self.0.places.limits.idle_timeout;
            let mut wait = timeout;
            loop {
                tokio::time::sleep(wait).await;
                let idle_since = Duration::from_millis(seat.idle_since_ms.load(Ordering::Relaxed));
                let idle = self.0.places.start.elapsed().saturating_sub(idle_since);
                match (seat.is_idle(), timeout.checked_sub(idle)) {
                    (true, None | Some(Duration::ZERO)) => return,
                    (true, Some(left)) => wait = left,
                    (false, _) => wait = timeout,
                }
            }
        };
        tokio::select! {
            _ = seat.leave.notified() => {}
            _ = idle => {}
        }
    }
}

/// A request that is open.
pub(crate) struct OpenRequest(Place);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let Taken { places, seat, .. } = &*self.0.0;
        seat.idle_since_ms.store(places.now_ms(), Ordering::Relaxed);
        seat.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const BOB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn places(limits: Limits) -> Arc<Places> {
        Places::new(limits)
    }

    fn was_asked(place: &Place) -> bool {
        !place.0.seat.is_staying()
    }

    #[tokio::test(start_paused = true)]
    async fn who_opens_longest_goes_first_then_who_is_idle_longest_and_nobody_with_a_request() {
        let places = places(Limits { max_connections: 4, ..Limits::default() });
        let take = || places.take(ALICE).expect("no bound for a source");
        let (busy, idle_long, idle_short, opening) = (take(), take(), take(), take());
        let request = busy.open();
        for place in [&busy, &idle_long, &idle_short] {
            place.begin();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let mut newcomers = Vec::new();
        for victim in [&opening, &idle_long, &idle_short] {
            assert!(places.has_room() && !was_asked(victim));
            let newcomer = take();
            newcomer.begin();
            assert!(was_asked(victim));
            newcomers.push((newcomer.open(), newcomer));
        }
        assert!(!places.has_room());
        assert!(!was_asked(&busy));
        drop(request);
        assert!(places.has_room());
    }

    #[tokio::test(start_paused = true)]
    async fn unfinished_openings_have_a_bound_of_their_own() {
        let places = places(Limits { max_opening: 2, ..Limits::default() });
        let taken: Vec<Place> = (0..4).map(|_| places.take(ALICE).unwrap()).collect();
        assert_eq!(taken.iter().map(was_asked).collect::<Vec<_>>(), [true, true, false, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_beyond_its_bound_replaces_its_own_and_never_others() {
        let places = places(Limits { max_connections_per_source: Some(1), ..Limits::default() });
        let bob = places.take(BOB).unwrap();
        let first = places.take(ALICE).unwrap();
        let second = places.take(ALICE).unwrap();
        assert!(was_asked(&first) && !was_asked(&bob));
        second.begin();
        let _request = second.open();
        assert!(places.take(ALICE).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_idle_for_long_is_dismissed_and_one_with_a_request_is_not() {
        let timeout = Duration::from_secs(60);
        let places = places(Limits { idle_timeout: timeout, ..Limits::default() });
        let place = places.take(ALICE).unwrap();
        place.begin();
        let begin = Instant::now();
        let request = place.open();
        let dismissed = tokio::spawn({
            let place = place.clone();
            async move {
                place.dismissed().await;
                Instant::now()
            }
        });
        tokio::time::sleep(Duration::from_secs(90)).await;
        drop(request);
        let after = dismissed.await.unwrap() - begin;
        assert!((Duration::from_secs(150)..Duration::from_secs(181)).contains(&after), "{after:?}");
    }
}
