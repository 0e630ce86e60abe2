//! The memory of what is on its way: answers, and requests, which are collected before they are carried out.
//!
//! A client that asks for much and reads slowly makes us hold it, and so does one that sends much and slowly. What is
//! long shares a budget. Whoever makes a long answer, or the next long piece of one, asks for its memory *before* making
//! it: a read or a long request that finds none is refused with what etcd says when it has too much to do, and what
//! cannot be refused, because it has happened or is amid a stream, waits. While somebody wants memory, connections are
//! cut on which nothing moves, or so little that what they hold would be held for long. What is short is not counted.
//!
//! What is large has half of the budget and no more: one answer that fills that half, and those that wait for their turn
//! there, leave the other half to all who ask for less.
//!
//! What was handed to a connection is not gone: one byte of it that the client has no window for keeps all of it. So the
//! count goes [with the bytes](Held::with), into the connection's buffers.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Extensions;
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};

use super::places::Place;

/// What takes no more than this is not counted. A large value lets a thousand streams take more than the budget, a small
/// one costs every answer a look at it.
pub const SHORT: usize = 16 << 10;
/// A request is counted in pieces of this size, as it comes, from the second on.
const STEP: usize = 64 << 10;
/// The budget is counted in units of so many bytes.
const UNIT: usize = 1 << 10;
/// What takes more than this part of the budget at once is large.
const LARGE_PART: usize = 8;
/// So many times its patience the budget gives a client for all that it holds: five minutes, if it is ten seconds. A client
/// that takes 128 MiB needs 450 KB/s.
const PATIENCE_FOR_ALL: u64 = 30;

/// What all that is long on a listener may take.
pub(super) struct Budget {
    /// What is free of the half that only those have who ask for less than [`LARGE_PART`], and of the other.
    free: [Semaphore; 2],
    /// How many units there are in each half.
    units: [usize; 2],
    /// How long a connection may take nothing of an answer while others want the memory.
    patience: Duration,
    start: Instant,
    /// How many wait for memory.
    waiting: AtomicUsize,
    /// Whether somebody was refused since it was last looked who stalls.
    refused: AtomicBool,
    held: Mutex<Holders>,
}

#[derive(Default)]
struct Holders {
    next: u64,
    exchanges: HashMap<u64, Arc<Exchange>>,
}

/// One request and its answer.
struct Exchange {
    budget: Arc<Budget>,
    place: Place,
    /// How many bytes of it the connection took or brought.
    moved: AtomicU64,
    /// How many units it holds.
    held: AtomicUsize,
    /// How it was when it was last looked at, at least the budget's patience apart, the older first.
    looks: Mutex<Option<[Look; 2]>>,
    /// How many of its answers are being made, so that it is not the client who keeps it.
    making: AtomicUsize,
}

/// What an exchange has come to.
#[derive(Clone, Copy)]
struct Look {
    at_ms: u64,
    moved: u64,
    held: usize,
}

impl Exchange {
    /// Whether it holds memory longer than it may. To be asked often.
    fn is_slow(&self) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        let now = Look { at_ms: self.budget.now_ms(), moved: self.moved.load(Ordering::Relaxed), held };
        let mut looks = self.looks.lock();
        if self.making.load(Ordering::Relaxed) > 0 {
            *looks = None;
            return false;
        }
        let patience_ms = u64::try_from(self.budget.patience.as_millis()).unwrap_or(u64::MAX);
        let [older, newer] = looks.get_or_insert([now; 2]);
        if now.at_ms - newer.at_ms >= patience_ms {
            (*older, *newer) = (*newer, now);
        }
        let took_ms = now.at_ms - older.at_ms;
        // What was held all the while.
        let bytes = (now.held.min(older.held) * UNIT) as u64;
        let due = bytes.saturating_mul(took_ms) / patience_ms.saturating_mul(PATIENCE_FOR_ALL).max(1);
        took_ms >= patience_ms && now.moved - older.moved < due.max(1)
    }
}

impl Budget {
    pub(super) fn new(bytes: usize, patience: Duration) -> Arc<Budget> {
        let half = (bytes / UNIT / 2).clamp(1, Semaphore::MAX_PERMITS);
        let units = [half; 2];
        Arc::new(Budget {
            free: units.map(Semaphore::new),
            units,
            patience,
            start: Instant::now(),
            waiting: AtomicUsize::new(0),
            refused: AtomicBool::new(false),
            held: Mutex::default(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What is counted of so many bytes, and in which half it may be from. Who exceeds a half alone has to have all of it.
    fn share_of(&self, bytes: usize) -> Share {
        let units = bytes.div_ceil(UNIT);
        let is_large = units > 2 * self.units[LARGE] / LARGE_PART;
        Share { units: u32::try_from(units.min(self.units[LARGE])).unwrap_or(u32::MAX), is_large }
    }

    /// Cuts the connections that hold memory for too long, if anybody wants it. To be called often.
    pub(super) fn look_after(&self) {
        let refused = self.refused.swap(false, Ordering::Relaxed);
        let is_wanted = refused || self.waiting.load(Ordering::Relaxed) > 0;
        let held = self.held.lock();
        let slow = held.exchanges.values().filter(|exchange| exchange.is_slow() && is_wanted);
        slow.for_each(|exchange| exchange.place.cut());
    }
}

/// The halves of a budget.
const SMALL: usize = 0;
const LARGE: usize = 1;

/// What is counted of somebody.
#[derive(Clone, Copy)]
struct Share {
    units: u32,
    is_large: bool,
}

/// What one request may take of its listener's memory, with its answer; an extension of the request. Of a request that
/// was made in this process nothing is counted.
#[derive(Clone)]
pub struct Memory {
    exchange: Option<Arc<Exchange>>,
    /// How much is made of a byte that is asked for.
    times: usize,
    /// Where everything is kept until the whole answer is gone, if its pieces are collected first.
    kept: Option<Arc<Mutex<Held>>>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { exchange: None, times: 1, kept: None }
    }
}

/// How much JSON and the message that it is made of take, of each byte of the message.
const TIMES_AS_JSON: usize = 3;

/// There is no memory for more.
#[derive(Debug)]
pub struct TooMany;

impl From<TooMany> for tonic::Status {
    fn from(_: TooMany) -> tonic::Status {
        forebay_proto::Error::TooManyRequests.into()
    }
}

impl Memory {
    pub(super) fn new(budget: &Arc<Budget>, place: Place) -> Memory {
        let exchange = Exchange {
            budget: budget.clone(),
            place,
            moved: AtomicU64::new(0),
            held: AtomicUsize::new(0),
            looks: Mutex::new(None),
            making: AtomicUsize::new(0),
        };
        Memory { exchange: Some(Arc::new(exchange)), ..Memory::default() }
    }

    /// The memory of the request that has these extensions.
    pub fn of(extensions: &Extensions) -> Memory {
        extensions.get().cloned().unwrap_or_default()
    }

    /// The same for an answer whose messages become JSON, one at a time.
    pub(crate) fn for_json(&self) -> Memory {
        Memory { times: TIMES_AS_JSON, ..self.clone() }
    }

    /// The same for an answer that is collected whole: what is held for it is held until [`Memory::kept`] was dropped.
    pub(crate) fn collecting(&self) -> Memory {
        Memory { kept: Some(Arc::default()), ..self.clone() }
    }

    /// What was held for an answer that is being collected.
    pub(crate) fn kept(&self) -> Held {
        self.kept.as_ref().map(|kept| std::mem::take(&mut *kept.lock())).unwrap_or_default()
    }

    /// Whether whoever reads an answer collects it before it goes on, so that all of it takes memory at once.
    pub(crate) fn is_collecting(&self) -> bool {
        self.kept.is_some()
    }

    /// The connection took or brought so many bytes.
    pub(crate) fn moved(&self, bytes: usize) {
        if let Some(exchange) = &self.exchange {
            exchange.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// The client waits for its answer, however long that takes, until what is returned is dropped.
    pub(crate) fn making(&self) -> Making {
        if let Some(exchange) = &self.exchange {
            exchange.making.fetch_add(1, Ordering::Relaxed);
        }
        Making(self.clone())
    }

    /// Waits until the connection is cut because it held memory and did not move.
    pub(crate) async fn was_cut(&self) {
        match &self.exchange {
            Some(exchange) => exchange.place.was_cut().await,
            None => std::future::pending().await,
        }
    }

    /// Takes memory for as long as what is returned lives, unless there is too little.
    pub fn try_hold(&self, bytes: usize) -> Result<Held, TooMany> {
        let Some((exchange, share)) = self.counted(bytes) else { return Ok(Held::default()) };
        // Who asks for less may have what is free of either half.
        let halves: &[usize] = if share.is_large { &[LARGE] } else { &[SMALL, LARGE] };
        for half in halves.iter().copied() {
            if let Ok(permit) = exchange.budget.free[half].try_acquire_many(share.units) {
                permit.forget();
                return Ok(self.keep(Held::of(exchange, share.units, half)));
            }
        }
        exchange.budget.refused.store(true, Ordering::Relaxed);
        Err(TooMany)
    }

    /// Takes memory as soon as there is enough, in turn.
    pub async fn hold(&self, bytes: usize) -> Held {
        let Some((exchange, share)) = self.counted(bytes) else { return Held::default() };
        let budget = &exchange.budget;
        let _waiting = Waiting::of(&budget.waiting);
        let take = async |half: usize| {
            budget.free[half].acquire_many(share.units).await.expect("a budget is never closed").forget();
            half
        };
        let half = tokio::select! {
            biased;
            half = take(SMALL), if !share.is_large => half,
            half = take(LARGE) => half,
        };
        self.keep(Held::of(exchange, share.units, half))
    }

    fn counted(&self, bytes: usize) -> Option<(&Arc<Exchange>, Share)> {
        let bytes = bytes.saturating_mul(self.times);
        let exchange = self.exchange.as_ref().filter(|_| bytes > SHORT)?;
        Some((exchange, exchange.budget.share_of(bytes)))
    }

    fn keep(&self, held: Held) -> Held {
        match &self.kept {
            None => held,
            Some(kept) => {
                kept.lock().add(held);
                Held::default()
            }
        }
    }
}

/// An answer that is being made, until this is dropped.
pub(crate) struct Making(Memory);

impl Drop for Making {
    fn drop(&mut self) {
        if let Some(exchange) = &self.0.exchange {
            exchange.making.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Somebody who waits, until this is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn of(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Memory that is counted until this is dropped, and every clone of it.
#[derive(Clone, Default)]
pub struct Held(Vec<Arc<Holding>>);

struct Holding {
    exchange: Arc<Exchange>,
    id: u64,
    units: u32,
    half: usize,
}

impl Held {
    fn of(exchange: &Arc<Exchange>, units: u32, half: usize) -> Held {
        let mut held = exchange.budget.held.lock();
        if exchange.held.fetch_add(units as usize, Ordering::Relaxed) == 0 {
            *exchange.looks.lock() = None;
        }
        let id = held.next;
        held.next += 1;
        held.exchanges.insert(id, Arc::clone(exchange));
        Held(vec![Arc::new(Holding { exchange: Arc::clone(exchange), id, units, half })])
    }

    /// Holds what the other holds, too.
    pub fn add(&mut self, other: Held) {
        self.0.extend(other.0);
    }

    /// These bytes, which are counted until the last of them is gone.
    pub fn with(self, bytes: Bytes) -> Bytes {
        if self.is_counted() { keeping(bytes, self) } else { bytes }
    }

    /// Whether it stands for anything.
    pub(crate) fn is_counted(&self) -> bool {
        !self.0.is_empty()
    }
}

/// These bytes, which keep something until the last of them is gone.
pub(crate) fn keeping(bytes: impl AsRef<[u8]> + Send + 'static, kept: impl Send + 'static) -> Bytes {
    struct Keeping<B, K>(B, K);
    impl<B: AsRef<[u8]>, K> AsRef<[u8]> for Keeping<B, K> {
        fn as_ref(&self) -> &[u8] {
            self.0.as_ref()
        }
    }
    Bytes::from_owner(Keeping(bytes, kept))
}

impl Drop for Holding {
    fn drop(&mut self) {
        let budget = &self.exchange.budget;
        budget.held.lock().exchanges.remove(&self.id);
        self.exchange.held.fetch_sub(self.units as usize, Ordering::Relaxed);
        budget.free[self.half].add_permits(self.units as usize);
    }
}

/// What is held of a request that is being collected; given back when it is dropped.
#[derive(Default)]
pub(crate) struct Collected {
    memory: Memory,
    /// How much was held last.
    bytes: usize,
    held: Vec<Held>,
}

impl Collected {
    /// Nothing yet.
    pub(crate) fn new(memory: Memory) -> Collected {
        Collected { memory, bytes: 0, held: Vec::new() }
    }

    /// So many bytes are held now, and some of them have just come.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), TooMany> {
        let steps = bytes.saturating_sub(STEP).div_ceil(STEP);
        self.held.truncate(steps);
        self.memory.moved(bytes.saturating_sub(self.bytes));
        self.bytes = bytes;
        while self.held.len() < steps {
            self.held.push(self.memory.try_hold(STEP)?);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Memory {
    /// Memory of a listener that has so much.
    pub(crate) fn with_budget(bytes: usize) -> Memory {
        let places = super::places::Places::new(super::Limits::default());
        let place = places.take(std::net::Ipv4Addr::LOCALHOST.into()).expect("the first connection has a place");
        Memory::new(&Budget::new(bytes, Duration::from_secs(10)), place)
    }

    /// How much is taken, in bytes.
    pub(crate) fn taken(&self) -> usize {
        let budget = &self.exchange.as_ref().expect("it is a listener's").budget;
        let free: usize = budget.free.iter().map(Semaphore::available_permits).sum();
        (budget.units.iter().sum::<usize>() - free) * UNIT
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn what_is_refused_leaves_nothing_and_who_waits_is_served_in_turn() {
        let memory = Memory::with_budget(2 << 20);
        let first = memory.try_hold(700 << 10).unwrap();
        assert!(!memory.try_hold(SHORT).unwrap().is_counted(), "what is short is not counted");
        assert!(memory.try_hold(400 << 10).is_err());
        assert_eq!(memory.taken(), 700 << 10);
        let mut large = Box::pin(memory.hold(4 << 20));
        let mut less = Box::pin(memory.hold(300 << 10));
        assert!(poll!(&mut large).is_pending() && poll!(&mut less).is_pending());
        drop(first);
        // Who wants more than there is gets all of it, once nobody else has any.
        let all = large.now_or_never().unwrap();
        assert!(poll!(&mut less).is_pending());
        drop(all);
        drop(less.now_or_never().unwrap());
        assert_eq!(memory.taken(), 0);
        // Somebody who gives up waiting leaves nothing behind.
        let first = memory.try_hold(1 << 20).unwrap();
        let mut waits = Box::pin(memory.hold(1 << 19));
        assert!(poll!(&mut waits).is_pending());
        drop(waits);
        drop(first);
        assert_eq!(memory.taken(), 0);
    }

    #[tokio::test]
    async fn what_is_large_and_what_waits_for_it_leave_half_to_those_who_ask_for_less() {
        const LITTLE: usize = 256 << 10;
        let memory = Memory::with_budget(2 << 20);
        let all = memory.try_hold(1 << 30).unwrap();
        let mut waits = Box::pin(memory.hold(1 << 30));
        assert!(poll!(&mut waits).is_pending());
        let little: Vec<Held> = (0..4).map(|_| memory.try_hold(LITTLE).expect("half is free")).collect();
        assert!(memory.try_hold(LITTLE).is_err());
        let mut also_waits = Box::pin(memory.hold(LITTLE));
        assert!(poll!(&mut also_waits).is_pending());
        drop(little);
        assert!(also_waits.now_or_never().is_some());
        // Where nobody wants much, those who ask for less have all of it.
        drop((all, waits));
        let little: Vec<Held> = (0..8).map(|_| memory.try_hold(LITTLE).expect("all is free")).collect();
        assert_eq!(memory.taken(), 2 << 20);
        drop(little);
        assert_eq!(memory.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_much_and_moves_little_of_it_is_cut_and_who_takes_it_within_minutes_is_not() {
        const HELD: usize = 512 << 10;
        // Of a whole within 300 s, half a second's part is 874 bytes.
        for (step, is_cut) in [(500, true), (1000, false)] {
            let memory = Memory::with_budget(1 << 20);
            let budget = memory.exchange.as_ref().unwrap().budget.clone();
            let held = memory.try_hold(HELD).unwrap();
            for _ in 0..HELD / step {
                memory.moved(step);
                tokio::time::advance(Duration::from_millis(500)).await;
                assert!(memory.try_hold(HELD).is_err());
                budget.look_after();
            }
            assert_eq!(memory.was_cut().now_or_never().is_some(), is_cut, "{step} bytes in half a second");
            drop(held);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_its_answer_is_not_cut_and_one_that_does_not_take_it_is() {
        let memory = Memory::with_budget(1 << 20);
        let budget = memory.exchange.as_ref().unwrap().budget.clone();
        let is_cut_after = async |seconds| {
            for _ in 0..2 * seconds {
                tokio::time::advance(Duration::from_millis(500)).await;
                assert!(memory.try_hold(1 << 20).is_err());
                budget.look_after();
            }
            memory.was_cut().now_or_never().is_some()
        };
        let held = memory.try_hold(1 << 20).unwrap();
        let making = memory.making();
        assert!(!is_cut_after(60).await);
        drop(making);
        assert!(!is_cut_after(8).await);
        assert!(is_cut_after(20).await);
        drop(held);
    }

    #[test]
    fn what_is_held_for_an_answer_that_is_collected_is_held_until_the_answer_is_gone() {
        let memory = Memory::with_budget(1 << 20);
        let json = memory.for_json().collecting();
        assert!(!json.try_hold(100 << 10).unwrap().is_counted(), "it is kept");
        let kept = json.kept();
        assert_eq!(memory.taken(), TIMES_AS_JSON * (100 << 10));
        drop(json);
        drop(kept);
        assert_eq!(memory.taken(), 0);
    }
}
