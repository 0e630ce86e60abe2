//! Answers of the upstream that lie here because their clients do not read them.
//!
//! Each may take a window of memory here and, once that is full, keeps the upstream from going on with it: an etcd holds
//! the rest, and one of ours may end the connection that all clients share. So what nobody has read of for long is given
//! up before that, and when much lies here altogether, what has lain longest is. The upstream's stream is reset, and the
//! client told to come back, should it ever ask.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use h2::RecvStream;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::connection::STREAM_WINDOW;

/// How often it is looked what nobody reads.
const LOOK: Duration = Duration::from_millis(500);
/// For how long a client may leave an answer unread for which the upstream has to wait; less than a member of ours waits.
const PATIENCE: Duration = Duration::from_secs(8);
/// From here on a window is taken for full: the upstream sends whole frames.
const FULL: usize = STREAM_WINDOW as usize / 4 * 3;
/// How much may lie here altogether, but for what came within [`BRIEFLY`].
const UNREAD_MAX: usize = 128 << 20;
/// Whoever asked for more so lately reads.
const BRIEFLY: Duration = Duration::from_secs(1);

/// What lies here for all clients of a pool.
#[derive(Debug)]
pub(super) struct Unread {
    start: Instant,
    answers: Mutex<Vec<Weak<Answer>>>,
}

/// One answer that is on its way.
#[derive(Debug)]
pub(super) struct Answer {
    /// Until it is given up.
    stream: Mutex<Option<RecvStream>>,
    /// When the client last asked for more of it.
    asked_ms: AtomicU64,
    start: Instant,
}

impl Unread {
    /// Nothing, and a look at what there is now and then.
    pub(super) fn new() -> Arc<Unread> {
        Arc::new(Unread { start: Instant::now(), answers: Mutex::default() })
    }

    /// Looks after it for good.
    pub(super) async fn look_after(self: Arc<Unread>) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.give_up(UNREAD_MAX);
        }
    }

    pub(super) fn add(&self, stream: RecvStream) -> Arc<Answer> {
        let start = self.start;
        let answer =
            Arc::new(Answer { stream: Mutex::new(Some(stream)), asked_ms: AtomicU64::new(since(start)), start });
        self.answers.lock().push(Arc::downgrade(&answer));
        answer
    }

    fn give_up(&self, unread_max: usize) {
        let mut lying: Vec<_> = {
            let mut answers = self.answers.lock();
            answers.retain(|answer| answer.strong_count() > 0);
            answers.iter().filter_map(Weak::upgrade).map(|answer| (answer.unread(), answer)).collect()
        };
        lying.retain(|(unread, _)| *unread > 0);
        let mut total: usize = lying.iter().map(|(unread, _)| unread).sum();
        let silent = |answer: &Answer, time: Duration| {
            u128::from(since(self.start).saturating_sub(answer.asked_ms.load(Ordering::Relaxed))) > time.as_millis()
        };
        lying.sort_by_key(|(_, answer)| answer.asked_ms.load(Ordering::Relaxed));
        for (unread, answer) in lying {
            let blocks = unread >= FULL && silent(&answer, PATIENCE);
            if blocks || total > unread_max && silent(&answer, BRIEFLY) {
                total -= unread;
                answer.stream.lock().take();
            }
        }
    }
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

impl Answer {
    /// How much came that nobody asked for.
    fn unread(&self) -> usize {
        self.stream.lock().as_mut().map_or(0, |stream| stream.flow_control().used_capacity())
    }

    /// Whether nothing comes after what was read.
    pub(super) fn is_over(&self) -> bool {
        self.stream.lock().as_ref().is_some_and(RecvStream::is_end_stream)
    }

    /// Asks for more with what came; `None` if it was given up.
    pub(super) fn ask<T>(&self, more: impl FnOnce(&mut RecvStream) -> T) -> Option<T> {
        self.asked_ms.store(since(self.start), Ordering::Relaxed);
        self.stream.lock().as_mut().map(more)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    /// Answers to as many calls as there are lengths, of such lengths, of which nothing was read.
    async fn answers(lens: &[usize]) -> Vec<RecvStream> {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let mut lens_left = std::collections::VecDeque::from(lens.to_vec());
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
                stream.send_data(vec![0; lens_left.pop_front().unwrap()].into(), false).unwrap();
                // It is open until somebody resets it.
                tokio::spawn(async move { std::future::poll_fn(|cx| stream.poll_reset(cx)).await });
            }
        });
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(1 << 30);
        let (mut sender, connection) = builder.handshake::<_, Bytes>(ours).await.unwrap();
        tokio::spawn(connection);
        let mut streams = Vec::new();
        for _ in lens {
            sender = sender.ready().await.unwrap();
            let (response, _) = sender.send_request(http::Request::new(()), true).unwrap();
            streams.push(response.await.unwrap().into_body());
        }
        // All that comes has come.
        tokio::time::sleep(Duration::from_millis(1)).await;
        streams
    }

    fn is_given_up(answer: &Answer) -> bool {
        answer.stream.lock().is_none()
    }

    #[tokio::test(start_paused = true)]
    async fn what_keeps_the_upstream_waiting_for_long_is_given_up_and_nothing_else() {
        let (unread, window) = (Unread::new(), STREAM_WINDOW as usize);
        let streams = answers(&[window, window / 2, window]).await;
        let [blocks, waits_for_nothing, is_read] =
            <[_; 3]>::try_from(streams.into_iter().map(|stream| unread.add(stream)).collect::<Vec<_>>()).unwrap();
        assert_eq!((blocks.unread(), waits_for_nothing.unread()), (window, window / 2));
        tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
        assert!(is_read.ask(|_| ()).is_some());
        unread.give_up(usize::MAX);
        assert!(!is_given_up(&blocks));
        tokio::time::sleep(Duration::from_secs(2)).await;
        unread.give_up(usize::MAX);
        assert!(is_given_up(&blocks) && !is_given_up(&waits_for_nothing) && !is_given_up(&is_read));
        assert!(blocks.ask(|_| ()).is_none() && !blocks.is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_much_what_has_lain_longest_is_given_up() {
        let (unread, len) = (Unread::new(), 10_000);
        let answers: Vec<_> = answers(&[len; 4]).await.into_iter().map(|stream| unread.add(stream)).collect();
        tokio::time::sleep(2 * BRIEFLY).await;
        for later in [&answers[0], &answers[2]] {
            tokio::time::sleep(Duration::from_millis(10)).await;
            later.ask(|_| ());
        }
        // Who asked a moment ago reads, however much there is.
        unread.give_up(len / 2);
        assert_eq!(answers.iter().map(|answer| is_given_up(answer)).collect::<Vec<_>>(), [false, true, false, true]);
        tokio::time::sleep(2 * BRIEFLY).await;
        unread.give_up(len);
        assert_eq!(answers.iter().map(|answer| is_given_up(answer)).collect::<Vec<_>>(), [true, true, false, true]);
        // What its client let go of is not looked at any more.
        drop(answers);
        unread.give_up(0);
        assert!(unread.answers.lock().is_empty());
    }
}
