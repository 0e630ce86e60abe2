//! Whose turn it is to list some keys, and who waits together.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay_proto::KeyRange;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use tokio::time;

/// Two calls with the same twin get the same answer: the same question by the same credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Twin {
    message: Bytes,
    credentials: [Option<HeaderValue>; 3],
}

impl Twin {
    pub(super) fn new(headers: &HeaderMap, message: &Bytes) -> Twin {
        let credentials = ["token", "authorization", "hasleader"].map(|name| headers.get(name).cloned());
        Twin { message: message.clone(), credentials }
    }
}

/// The lists under way and those that wait, by their keys.
pub(super) struct Turns<T: Clone> {
    by_keys: Mutex<HashMap<KeyRange, Queue<T>>>,
}

struct Queue<T: Clone> {
    /// Held by the list that is under way.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Lists that have not begun: they can be joined.
    waiting: Vec<Waiting<T>>,
}

struct Waiting<T: Clone> {
    twin: Twin,
    list: WeakShared<BoxFuture<'static, T>>,
    begun: Arc<AtomicBool>,
}

/// A list that somebody waits for, and whether its turn has come.
struct Joined<T: Clone> {
    list: Shared<BoxFuture<'static, T>>,
    begun: Arc<AtomicBool>,
}

/// Too many wait for the turn of these keys, or it did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

/// Lists of the same keys that wait, twins counted once. Each holds its request.
const WAITING_MAX: usize = 64;

impl<T: Clone> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { by_keys: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Turns<T> {
    /// Waits for the turn of these keys, for so long at most, and does `work`; or shares what a twin who waits will
    /// get, and says so with `joined`.
    ///
    /// The work is driven by whoever waits for it; when all of them are gone, it ends.
    pub(super) async fn take(
        self: &Arc<Self>,
        keys: KeyRange,
        twin: Twin,
        work: BoxFuture<'static, T>,
        patience: Duration,
        joined: impl FnOnce(),
    ) -> Result<T, Crowded> {
        let _leaving = Leaving { turns: self, keys: &keys };
        let Joined { list, begun } = self.join(&keys, twin, work, joined)?;
        match time::timeout(patience, list.clone()).await {
            Ok(answer) => Ok(answer),
            // What has begun is worth waiting for.
            Err(_elapsed) if begun.load(Ordering::Relaxed) => Ok(list.await),
            Err(_elapsed) => Err(Crowded),
        }
    }

    fn join(
        self: &Arc<Self>,
        keys: &KeyRange,
        twin: Twin,
        work: BoxFuture<'static, T>,
        joined: impl FnOnce(),
    ) -> Result<Joined<T>, Crowded> {
        let mut by_keys = self.by_keys.lock();
        let queue = by_keys.entry(keys.clone()).or_insert_with(|| Queue { turn: Arc::default(), waiting: Vec::new() });
        queue.waiting.retain(|waiting| waiting.list.upgrade().is_some());
        let waiting = queue.waiting.iter().find(|waiting| waiting.twin == twin);
        if let Some((list, begun)) = waiting.and_then(|waiting| Some((waiting.list.upgrade()?, &waiting.begun))) {
            joined();
            return Ok(Joined { list, begun: Arc::clone(begun) });
        }
        if queue.waiting.len() >= WAITING_MAX {
            return Err(Crowded);
        }
        let (turn, turns, own, keys) = (Arc::clone(&queue.turn), Arc::clone(self), twin.clone(), keys.clone());
        let begun = Arc::new(AtomicBool::new(false));
        let begins = Arc::clone(&begun);
        let list = async move {
            let _turn = turn.lock().await;
            begins.store(true, Ordering::Relaxed);
            turns.begin(&keys, &own);
            work.await
        }
        .boxed()
        .shared();
        let weak = list.downgrade().expect("it has not ended");
        queue.waiting.push(Waiting { twin, list: weak, begun: Arc::clone(&begun) });
        Ok(Joined { list, begun })
    }

    /// From now on nobody joins.
    fn begin(&self, keys: &KeyRange, twin: &Twin) {
        if let Some(queue) = self.by_keys.lock().get_mut(keys) {
            queue.waiting.retain(|waiting| waiting.twin != *twin);
        }
    }
}

/// Forgets keys that nobody lists any more.
struct Leaving<'a, T: Clone> {
    turns: &'a Turns<T>,
    keys: &'a KeyRange,
}

impl<T: Clone> Drop for Leaving<'_, T> {
    fn drop(&mut self) {
        let mut by_keys = self.turns.by_keys.lock();
        // Every list that waits or is under way has the turn in hand.
        if by_keys.get(self.keys).is_some_and(|queue| Arc::strong_count(&queue.turn) == 1) {
            by_keys.remove(self.keys);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::future::join_all;

    use super::*;

    fn twin(message: &'static str, token: Option<&'static str>) -> Twin {
        let mut headers = HeaderMap::new();
        headers.extend(token.map(|token| (http::HeaderName::from_static("token"), HeaderValue::from_static(token))));
        Twin::new(&headers, &message.into())
    }

    fn keys() -> KeyRange {
        KeyRange::Range("a".into(), "b".into())
    }

    struct Lists {
        turns: Arc<Turns<usize>>,
        begun: Arc<AtomicUsize>,
    }

    impl Lists {
        fn new() -> Lists {
            Lists { turns: Arc::default(), begun: Arc::default() }
        }

        /// Takes a second and tells the how-manieth it was.
        async fn list(&self, twin: Twin) -> usize {
            self.within(twin, Duration::from_secs(3600)).await.expect("there is time")
        }

        async fn within(&self, twin: Twin, patience: Duration) -> Result<usize, Crowded> {
            let begun = Arc::clone(&self.begun);
            let work = async move {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                time::sleep(Duration::from_secs(1)).await;
                number
            };
            self.turns.take(keys(), twin, work.boxed(), patience, || {}).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_makes_two_lists_and_nobody_joins_one_that_has_begun() {
        let lists = Lists::new();
        let first = lists.list(twin("all", None));
        let crowd = join_all((0..1000).map(|_| async {
            time::sleep(Duration::from_millis(1)).await;
            lists.list(twin("all", None)).await
        }));
        let (first, crowd) = tokio::join!(first, crowd);
        assert_eq!(first, 0);
        assert!(crowd.iter().all(|number| *number == 1));
        assert_eq!(lists.begun.load(Ordering::SeqCst), 2);
        assert!(lists.turns.by_keys.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn other_questions_and_other_credentials_have_their_own_turn() {
        let lists = Lists::new();
        let began = time::Instant::now();
        let (a, b, c) = tokio::join!(
            lists.list(twin("all", None)),
            lists.list(twin("all", Some("alice"))),
            lists.list(twin("keys", None)),
        );
        assert_eq!((a, b, c), (0, 1, 2));
        assert_eq!(began.elapsed(), Duration::from_secs(3), "one after the other");
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_whose_turn_does_not_come_in_time_is_given_up_and_one_that_has_begun_is_not() {
        let lists = Lists::new();
        let soon = Duration::from_millis(500);
        let (first, second, third) = tokio::join!(
            lists.within(twin("all", None), soon),
            lists.within(twin("keys", None), soon),
            lists.within(twin("some", None), Duration::from_millis(1_500)),
        );
        assert_eq!((first, second, third), (Ok(0), Err(Crowded), Ok(1)));
        assert_eq!(lists.begun.load(Ordering::SeqCst), 2, "the upstream never heard of the second");
        assert!(lists.turns.by_keys.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_different_lists_of_the_same_keys_wait() {
        let lists = Lists::new();
        let asked = (0..WAITING_MAX + 10).map(|number| {
            let message = Bytes::from(number.to_string());
            lists.within(Twin::new(&HeaderMap::new(), &message), Duration::from_secs(3600))
        });
        let answers = join_all(asked).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        // The first of them has begun when the second comes.
        assert_eq!(refused, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_nobody_waits_for_is_let_go() {
        let lists = Lists::new();
        let running = lists.list(twin("all", None));
        let impatient = time::timeout(Duration::from_millis(10), lists.list(twin("all", None)));
        let (_, gone) = tokio::join!(running, impatient);
        assert!(gone.is_err());
        assert_eq!(lists.begun.load(Ordering::SeqCst), 1);
        assert!(lists.turns.by_keys.lock().is_empty());
        assert_eq!(lists.list(twin("all", None)).await, 1, "the next one is not held up");
    }
}
