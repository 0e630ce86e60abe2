//! Whose turn it is to list some keys, and who waits together.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use forebay_proto::KeyRange;
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

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
    waiting: Vec<(Twin, WeakShared<BoxFuture<'static, T>>)>,
}

impl<T: Clone> Default for Turns<T> {
    fn default() -> Turns<T> {
        Turns { by_keys: Mutex::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> Turns<T> {
    /// Waits for the turn of these keys and does `work`, or shares what a twin who waits will get, and
    /// says so with `joined`.
    ///
    /// The work is driven by whoever waits for it; when all of them are gone, it ends.
    pub(super) async fn take(
        self: &Arc<Self>,
        keys: KeyRange,
        twin: Twin,
        work: BoxFuture<'static, T>,
        joined: impl FnOnce(),
    ) -> T {
        let _leaving = Leaving { turns: self, keys: &keys };
        let shared = self.join(&keys, twin, work, joined);
        shared.await
    }

    fn join(
        self: &Arc<Self>,
        keys: &KeyRange,
        twin: Twin,
        work: BoxFuture<'static, T>,
        joined: impl FnOnce(),
    ) -> Shared<BoxFuture<'static, T>> {
        let mut by_keys = self.by_keys.lock();
        let queue = by_keys.entry(keys.clone()).or_insert_with(|| Queue { turn: Arc::default(), waiting: Vec::new() });
        queue.waiting.retain(|(_, waiting)| waiting.upgrade().is_some());
        let waiting = queue.waiting.iter().find(|(other, _)| *other == twin).and_then(|(_, waiting)| waiting.upgrade());
        if let Some(shared) = waiting {
            joined();
            return shared;
        }
        let (turn, turns, own, keys) = (Arc::clone(&queue.turn), Arc::clone(self), twin.clone(), keys.clone());
        let shared = async move {
            let _turn = turn.lock().await;
            turns.begin(&keys, &own);
            work.await
        }
        .boxed()
        .shared();
        queue.waiting.push((twin, shared.downgrade().expect("it has not ended")));
        shared
    }

    /// From now on nobody joins.
    fn begin(&self, keys: &KeyRange, twin: &Twin) {
        if let Some(queue) = self.by_keys.lock().get_mut(keys) {
            queue.waiting.retain(|(other, _)| other != twin);
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
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::future::join_all;
    use tokio::time;

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
            let begun = Arc::clone(&self.begun);
            let work = async move {
                let number = begun.fetch_add(1, Ordering::SeqCst);
                time::sleep(Duration::from_secs(1)).await;
                number
            };
            self.turns.take(keys(), twin, work.boxed(), || {}).await
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
