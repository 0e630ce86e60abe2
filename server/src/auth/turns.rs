//! Work that is slow on purpose, on threads of its own, where those who ask for it take turns.
//!
//! Somebody who asks for much waits for that, and nobody else does: each has a queue, and the queues are worked off one
//! job at a time. When all together are too long, the longest gives one up to a newcomer.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::raft::Refused;

/// Jobs that wait. At bcrypt's usual cost a thread does some twenty a second, so more than these would wait longer than a
/// request does.
pub(super) const WAITING_MAX: usize = 256;

type Job = Box<dyn FnOnce() + Send>;

/// The threads and who waits for them. They begin with the first job and end with the value.
#[derive(Debug, Default)]
pub(super) struct Turns(OnceLock<Arc<Shared>>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is a job, or there will be no more.
    woken: Condvar,
}

/// Invariant: who has a queue has a turn and the other way round, and no queue is empty.
#[derive(Default)]
struct Waiting {
    queues: HashMap<Arc<str>, VecDeque<Job>>,
    turns: VecDeque<Arc<str>>,
    count: usize,
    ended: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("waiting", &self.waiting.lock().count).finish_non_exhaustive()
    }
}

impl Turns {
    /// Has a thread do some work for this user.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        user: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (reply, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Whoever has gone meanwhile costs nothing more.
            if !reply.is_closed() {
                let _ = reply.send(work());
            }
        });
        let shared = self.0.get_or_init(start_threads);
        if !shared.waiting.lock().push(user, job) {
            return Err(Refused::TooManyRequests);
        }
        shared.woken.notify_one();
        // A job that is not done was given up.
        result.await.map_err(|_| Refused::TooManyRequests)
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        if let Some(shared) = self.0.get() {
            shared.waiting.lock().ended = true;
            shared.woken.notify_all();
        }
    }
}

impl Waiting {
    /// Whether there is room for a job of this user.
    fn push(&mut self, user: &str, job: Job) -> bool {
        if self.count >= WAITING_MAX {
            let own = self.queues.get(user).map_or(0, VecDeque::len);
            let longest = self.queues.values_mut().max_by_key(|queue| queue.len());
            let Some(longest) = longest.filter(|longest| longest.len() > own + 1) else { return false };
            longest.pop_back();
            self.count -= 1;
        }
        self.count += 1;
        if let Some(queue) = self.queues.get_mut(user) {
            queue.push_back(job);
        } else {
            let user: Arc<str> = user.into();
            self.turns.push_back(Arc::clone(&user));
            self.queues.insert(user, VecDeque::from([job]));
        }
        true
    }

    fn pop(&mut self) -> Option<Job> {
        let user = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&user).expect("invariant: who has a turn has a queue");
        let job = queue.pop_front().expect("invariant: no queue is empty");
        if queue.is_empty() {
            self.queues.remove(&user);
        } else {
            self.turns.push_back(user);
        }
        self.count -= 1;
        Some(job)
    }
}

/// Half as many threads as there are cores.
fn start_threads() -> Arc<Shared> {
    let shared = Arc::new(Shared::default());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..cores.div_ceil(2) {
        let shared = Arc::clone(&shared);
        let run = move || work_off(&shared);
        std::thread::Builder::new().name("passwords".into()).spawn(run).expect("a thread can be started");
    }
    shared
}

fn work_off(shared: &Shared) {
    loop {
        let mut waiting = shared.waiting.lock();
        let job = loop {
            match waiting.pop() {
                _ if waiting.ended => return,
                Some(job) => break job,
                None => shared.woken.wait(&mut waiting),
            }
        };
        drop(waiting);
        job();
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn who_asks_for_much_waits_and_others_take_their_turns() {
        let turns = Turns::default();
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let done = Arc::new(Mutex::new(Vec::new()));
        let ask = |user: &'static str| {
            let (held, done) = (Arc::clone(&held), Arc::clone(&done));
            let work = move || {
                let _ = held.lock().recv();
                done.lock().push(user);
            };
            turns.run(user, work).boxed_local()
        };
        // Some are on the threads already; the rest is all the room there is.
        let mut greedy = Vec::new();
        let refused = loop {
            let mut asked = ask("greedy");
            match poll!(&mut asked) {
                std::task::Poll::Ready(answer) => break answer,
                std::task::Poll::Pending => greedy.push(asked),
            }
        };
        assert_eq!(refused, Err(Refused::TooManyRequests));
        assert!(greedy.len() >= WAITING_MAX);
        let mut modest = ask("modest");
        assert!(poll!(&mut modest).is_pending(), "there is room for somebody else");
        drop(hold);
        assert_eq!(modest.await, Ok(()));
        let answers = futures::future::join_all(greedy).await;
        let given_up = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(given_up, 1, "one made room");
        let at = done.lock().iter().position(|user| *user == "modest").unwrap();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        assert!(at <= threads + 2, "the modest one was the {at}th");
        assert_eq!(turns.run("greedy", || 7).await, Ok(7));
    }
}
