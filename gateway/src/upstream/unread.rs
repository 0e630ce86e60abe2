//! Answers of the upstream that lie here because their clients do not read them.
//!
//! Each may take a window of memory here and, once that is full, keeps the upstream from going on with it: an etcd holds
//! the rest, and one of ours may end the connection that all clients share. So what nobody has read of for long is given
//! up before that, and when much lies here altogether, what has lain longest is. The upstream's stream is reset, and the
//! client told to come back, should it ever ask.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use h2::RecvStream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::STREAM_WINDOW;

/// How often it is looked what nobody reads.
const LOOK: Duration = Duration::from_millis(500);
/// For how long a client may leave what came unread while the upstream has to wait; with two looks, less than a member of
/// ours waits.
const PATIENCE: Duration = Duration::from_secs(8);
/// From here on a window is taken for full: the upstream sends whole frames.
const FULL: usize = STREAM_WINDOW as usize / 4 * 3;
/// How much may lie here altogether, but for what came within [`BRIEFLY`].
const UNREAD_MAX: usize = 128 << 20;
/// Whoever leaves it for no longer than that reads.
const BRIEFLY: Duration = Duration::from_secs(1);

/// What lies here for all clients of a pool.
#[derive(Debug, Default)]
pub(super) struct Unread {
    answers: Mutex<Vec<Weak<Answer>>>,
}

/// One answer that is on its way; `None` once it is given up.
#[derive(Debug)]
pub(super) struct Answer(Mutex<Option<Stream>>);

#[derive(Debug)]
struct Stream {
    receiving: RecvStream,
    /// When a look first found something here that the client has not asked for since.
    lies_since: Option<Instant>,
}

impl Unread {
    /// Looks after it for good.
    pub(super) async fn look_after(self: Arc<Unread>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.give_up(UNREAD_MAX);
        }
    }

    pub(super) fn add(&self, receiving: RecvStream) -> Arc<Answer> {
        let answer = Arc::new(Answer(Mutex::new(Some(Stream { receiving, lies_since: None }))));
        self.answers.lock().push(Arc::downgrade(&answer));
        answer
    }

    fn give_up(&self, unread_max: usize) {
        let answers: Vec<_> = {
            let mut answers = self.answers.lock();
            answers.retain(|answer| answer.strong_count() > 0);
            answers.iter().filter_map(Weak::upgrade).collect()
        };
        let now = Instant::now();
        let mut lying: Vec<_> =
            answers.iter().filter_map(|answer| answer.unread(now).map(|(since, len)| (since, len, answer))).collect();
        lying.sort_by_key(|(since, ..)| *since);
        let mut total: usize = lying.iter().map(|(_, len, _)| len).sum();
        for (since, len, answer) in lying {
            let blocks = len >= FULL && now - since > PATIENCE;
            if blocks || total > unread_max && now - since > BRIEFLY {
                total -= len;
                answer.give_up(since);
            }
        }
    }
}

impl Answer {
    /// Since when something lies here that the client has not asked for, and how much.
    fn unread(&self, now: Instant) -> Option<(Instant, usize)> {
        let mut stream = self.0.lock();
        let stream = stream.as_mut()?;
        let len = stream.receiving.flow_control().used_capacity();
        (len > 0).then(|| (*stream.lies_since.get_or_insert(now), len))
    }

    /// Lets go of it, unless the client asked for it meanwhile.
    fn give_up(&self, since: Instant) {
        self.0.lock().take_if(|stream| stream.lies_since == Some(since));
    }

    /// Whether nothing comes after what was read.
    pub(super) fn is_over(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|stream| stream.receiving.is_end_stream())
    }

    /// Asks for more with what came; `None` if it was given up.
    pub(super) fn ask<T>(&self, more: impl FnOnce(&mut RecvStream) -> T) -> Option<T> {
        let mut stream = self.0.lock();
        let stream = stream.as_mut()?;
        stream.lies_since = None;
        Some(more(&mut stream.receiving))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Answers that come after so long and have such lengths, and of which nothing was read.
    async fn answers(unread: &Unread, come: &[(Duration, usize)]) -> Vec<Arc<Answer>> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let mut left = std::collections::VecDeque::from(come.to_vec());
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                let (after, len) = left.pop_front().unwrap();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    stream.send_data(vec![0; len].into(), false).unwrap();
                    // It is open until somebody resets it.
                    std::future::poll_fn(|cx| stream.poll_reset(cx)).await
                });
            }
        });
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(1 << 30);
        let (mut sender, connection) = builder.handshake::<_, Bytes>(ours).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in come {
            sender = sender.ready().await.unwrap();
            let (response, _) = sender.send_request(http::Request::new(()), true).unwrap();
            answers.push(unread.add(response.await.unwrap().into_body()));
        }
        // All that comes at once has come.
        tokio::time::sleep(Duration::from_millis(1)).await;
        answers
    }

    async fn look_for(unread: &Unread, time: Duration, unread_max: usize) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::time::sleep(LOOK).await;
            unread.give_up(unread_max);
        }
    }

    fn are_given_up(answers: &[Arc<Answer>]) -> Vec<bool> {
        answers.iter().map(|answer| answer.0.lock().is_none()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_the_upstream_waiting_for_long_is_given_up_and_nothing_else() {
        let (unread, window) = (Unread::default(), STREAM_WINDOW as usize);
        let at_once = |len| (Duration::ZERO, len);
        let answers = answers(&unread, &[at_once(window), at_once(window / 2), at_once(window)]).await;
        look_for(&unread, PATIENCE - Duration::from_secs(1), usize::MAX).await;
        let lens: Vec<_> = answers.iter().map(|answer| answer.unread(Instant::now()).unwrap().1).collect();
        assert_eq!(lens, [window, window / 2, window]);
        assert!(answers[2].ask(|_| ()).is_some());
        look_for(&unread, Duration::from_secs(2), usize::MAX).await;
        assert_eq!(are_given_up(&answers), [true, false, false], "the second blocks nothing, the third is read");
        assert!(answers[0].ask(|_| ()).is_none() && !answers[0].is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_long_silence_has_its_time() {
        let (unread, window, silence) = (Unread::default(), STREAM_WINDOW as usize, 10 * PATIENCE);
        let answers = answers(&unread, &[(silence, window), (silence, window)]).await;
        look_for(&unread, silence, 0).await;
        assert_eq!(answers[0].unread(Instant::now()).unwrap().1, window, "it has come between two looks");
        unread.give_up(0);
        assert_eq!(are_given_up(&answers), [false, false]);
        answers[1].ask(|_| ());
        look_for(&unread, BRIEFLY + LOOK, 0).await;
        assert_eq!(are_given_up(&answers), [true, false]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_much_what_has_lain_longest_is_given_up() {
        let (unread, len) = (Unread::default(), 10_000);
        let answers = answers(&unread, &[(Duration::ZERO, len); 4]).await;
        look_for(&unread, 2 * BRIEFLY, usize::MAX).await;
        for later in [&answers[0], &answers[2]] {
            later.ask(|_| ());
            unread.give_up(usize::MAX);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Who asked a moment ago reads, however much there is.
        unread.give_up(len / 2);
        assert_eq!(are_given_up(&answers), [false, true, false, true]);
        tokio::time::sleep(2 * BRIEFLY).await;
        unread.give_up(len);
        assert_eq!(are_given_up(&answers), [true, true, false, true]);
        // What its client let go of is not looked at any more.
        drop(answers);
        unread.give_up(0);
        assert!(unread.answers.lock().is_empty());
    }

    #[tokio::test]
    async fn what_is_asked_for_while_it_is_looked_at_is_in_no_bodys_way() {
        let unread = Unread::default();
        let answers = answers(&unread, &[(Duration::ZERO, 1); 500]).await;
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(1);
                while Instant::now() < until {
                    unread.give_up(usize::MAX);
                }
            });
            while !looking.is_finished() {
                answers[rand::random_range(0..answers.len())].ask(|_| ());
            }
            looking.join().expect("it does not depend on what is asked meanwhile");
        });
        assert!(are_given_up(&answers).iter().all(|is| !is));
    }
}
