//! How everybody else talks to the raft thread: a mailbox that costs no system call while the thread is busy, and a
//! status that costs none ever.

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    thread::Thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use forebay_proto::raftpb::{ConfChange, Message};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::{backlog::Backlog, reads::Reads};

/// Committed entries that are not yet applied, beyond which proposals are refused. etcd's number.
pub(super) const APPLY_GAP_MAX: u64 = 5000;
/// The same for what others wait for. etcd's number as well.
const APPLY_GAP_MAX_FIRST: u64 = 10_000;
/// Proposals waiting for the thread. A ceiling for memory: the apply gap is what usually refuses first.
const PROPOSALS_WAITING_MAX: usize = 100_000;
/// Bytes of proposals waiting for the thread.
const PROPOSAL_BYTES_WAITING_MAX: usize = 256 << 20;
/// Reads waiting for a read index.
const READS_WAITING_MAX: usize = 100_000;
/// Messages of peers waiting for the thread; what comes beyond is dropped, and raft sends it again.
const MESSAGES_WAITING_MAX: usize = 4096;
/// Bytes of entries in those messages, roughly.
const MESSAGE_BYTES_WAITING_MAX: usize = 256 << 20;

/// A request on its way into the log.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The id in the request's header, by which [`super::StateMachine::dropped`] names it.
    pub id: u64,
    /// The encoded `InternalRaftRequest`.
    pub data: Bytes,
    /// The only term in which it may come into the log, by this member as its leader; `None` for any, by any.
    pub term: Option<u64>,
}

/// Why something was not even queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Applying cannot keep up, or a queue is at its bound.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// The raft thread has ended.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// What a member is in its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    Follower,
    Candidate,
    Leader,
    PreCandidate,
    Learner,
}

/// The raft state as of the last step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub term: u64,
    /// The leader's id, or 0.
    pub leader: u64,
    pub role: Role,
    pub commit: u64,
    pub applied: u64,
}

/// Members, each with how far its log agrees with the leader's.
pub type Progress = Vec<(u64, u64)>;

/// Talks to the raft thread. Clones are cheap and equal.
#[derive(Debug, Clone)]
pub struct RaftHandle {
    shared: Arc<Shared>,
}

impl RaftHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Puts a request on its way into the log, in the order of calls. Whether it got there shows when it is applied
    /// here, or dropped; without a leader it waits.
    pub fn propose(&self, proposal: Proposal) -> Result<(), Refused> {
        self.propose_within(proposal, APPLY_GAP_MAX)
    }

    /// As [`RaftHandle::propose`], and still taken when applying lags so far that others are refused.
    pub fn propose_first(&self, proposal: Proposal) -> Result<(), Refused> {
        self.propose_within(proposal, APPLY_GAP_MAX_FIRST)
    }

    fn propose_within(&self, proposal: Proposal, gap_max: u64) -> Result<(), Refused> {
        let shared = &*self.shared;
        // Both move on while we look; a request more or less is no matter.
        let gap = shared.commit.load(Ordering::Relaxed).saturating_sub(shared.applied.load(Ordering::Relaxed));
        if gap > gap_max {
            return Err(Refused::TooManyRequests);
        }
        shared.mailbox.push(|inbox| {
            let count = inbox.proposals.len() + shared.held.proposals.load(Ordering::Relaxed);
            let bytes = inbox.proposal_bytes + shared.held.proposal_bytes.load(Ordering::Relaxed);
            if count >= PROPOSALS_WAITING_MAX || bytes + proposal.data.len() > PROPOSAL_BYTES_WAITING_MAX {
                return Err(Refused::TooManyRequests);
            }
            inbox.proposal_bytes += proposal.data.len();
            inbox.proposals.push(proposal);
            Ok(())
        })
    }

    /// Puts a membership change on its way into the log; `change.id` names it when it is applied or dropped.
    pub fn propose_conf_change(&self, change: ConfChange) -> Result<(), Refused> {
        self.control(Control::ConfChange(change))
    }

    /// Resolves once everything that was acknowledged anywhere in the cluster before this call is applied here, to the
    /// index of that. All who wait when a round begins share it; later callers wait for the next.
    ///
    /// It resolves late, or never, without a quorum: bound it by a timeout. Dropping it gives up.
    pub fn read_index(&self) -> impl Future<Output = Result<u64, Refused>> + Send + use<> {
        // The only voter is its own quorum: what it has applied is all there is.
        let at_once = match self.shared.sole_read_index.load(Ordering::Acquire) {
            0 => None,
            index => Some(Ok(index)),
        };
        let waiting = at_once.is_none().then(|| {
            let (reply, receiver) = oneshot::channel();
            self.shared.mailbox.push(|inbox| {
                if inbox.reads.len() + self.shared.held.reads.load(Ordering::Relaxed) >= READS_WAITING_MAX {
                    return Err(Refused::TooManyRequests);
                }
                inbox.reads.push(ReadWaiter { reply });
                Ok(receiver)
            })
        });
        async move {
            match (at_once, waiting) {
                (Some(answer), _) => answer,
                (None, Some(Ok(receiver))) => receiver.await.map_err(|_| Refused::Stopped),
                (None, Some(Err(refused))) => Err(refused),
                (None, None) => unreachable!("a read is answered at once or waits"),
            }
        }
    }

    /// A message from another member. `false` if it was dropped because too many wait.
    pub fn step(&self, message: Message) -> bool {
        let bytes = message.entries.iter().map(|entry| entry.data().len() + 64).sum::<usize>();
        let pushed = self.shared.mailbox.push(|inbox| {
            let total = inbox.message_bytes + bytes;
            if inbox.messages.len() >= MESSAGES_WAITING_MAX || total > MESSAGE_BYTES_WAITING_MAX {
                return Err(Refused::TooManyRequests);
            }
            inbox.message_bytes = total;
            inbox.messages.push(message);
            Ok(())
        });
        pushed.is_ok()
    }

    /// A snapshot from the leader, whose db is ready to be installed. Resolves when raft is done with it: it is installed,
    /// or there was no use for it.
    pub fn step_snapshot(&self, message: Message) -> Result<oneshot::Receiver<()>, Refused> {
        let (done, receiver) = oneshot::channel();
        self.control(Control::Snapshot { message: Box::new(message), done })?;
        Ok(receiver)
    }

    /// How far each member's log agrees with that of this one; `None` if it does not lead.
    pub fn progress(&self) -> Result<oneshot::Receiver<Option<Progress>>, Refused> {
        let (reply, receiver) = oneshot::channel();
        self.control(Control::Progress(reply))?;
        Ok(receiver)
    }

    /// Another member says that this one was removed from the cluster: it ends.
    pub fn removed(&self) {
        let _ = self.control(Control::Removed);
    }

    /// Stands for election now.
    pub fn campaign(&self) -> Result<(), Refused> {
        self.control(Control::Campaign)
    }

    /// So many ticks have passed as far as elections are concerned.
    pub(crate) fn advance_ticks(&self, ticks: usize) -> Result<(), Refused> {
        self.control(Control::AdvanceTicks(ticks))
    }

    /// Asks the leader to hand over to another voter. Watch [`RaftHandle::status`] for the outcome.
    pub fn transfer_leader(&self, to: u64) -> Result<(), Refused> {
        self.control(Control::TransferLeader(to))
    }

    /// Tells raft that messages to a member are being lost.
    pub fn unreachable(&self, id: u64) {
        // A stopped thread does not need to know.
        let _ = self.control(Control::Unreachable(id));
    }

    /// Tells raft that the process of a member has ended.
    pub fn gone(&self, id: u64) {
        // A stopped thread does not need to know.
        let _ = self.control(Control::Gone(id));
    }

    /// Tells raft how sending a snapshot went. Until then it sends that member nothing else.
    pub fn snapshot_sent(&self, to: u64, arrived: bool) {
        let _ = self.control(Control::SnapshotSent { to, arrived });
    }

    /// Ends the raft thread after what it is doing.
    pub fn stop(&self) {
        let _ = self.control(Control::Stop);
    }

    /// The raft state as of the last step. Never waits; the fields may be of neighbouring steps.
    pub fn status(&self) -> Status {
        let shared = &*self.shared;
        Status {
            id: shared.id,
            term: shared.term.load(Ordering::Acquire),
            leader: shared.leader.load(Ordering::Acquire),
            role: match shared.role.load(Ordering::Acquire) {
                role if role == Role::Leader as u8 => Role::Leader,
                role if role == Role::Candidate as u8 => Role::Candidate,
                role if role == Role::PreCandidate as u8 => Role::PreCandidate,
                role if role == Role::Learner as u8 => Role::Learner,
                _ => Role::Follower,
            },
            commit: shared.commit.load(Ordering::Acquire),
            applied: shared.applied.load(Ordering::Acquire),
        }
    }

    /// Resolves when everything that was committed before the start is applied, as far as this member can know, or the
    /// thread has ended. Before that, applying lags as it never does later, and proposals may be refused for it.
    pub fn replayed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut replayed = self.shared.replayed.subscribe();
        async move {
            let _ = replayed.wait_for(|replayed| *replayed).await;
        }
    }

    /// Resolves when the raft thread has ended, for whatever reason.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stopped = self.shared.stopped.subscribe();
        async move {
            // The sender lives as long as this handle; an error would mean the same.
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    fn control(&self, control: Control) -> Result<(), Refused> {
        self.shared.mailbox.push(|inbox| {
            inbox.controls.push(control);
            Ok(())
        })
    }
}

/// What the raft thread shows to everybody.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) id: u64,
    pub(super) term: AtomicU64,
    pub(super) leader: AtomicU64,
    pub(super) role: AtomicU8,
    pub(super) commit: AtomicU64,
    pub(super) applied: AtomicU64,
    /// The applied index while this member is a settled leader and the only voter, else 0.
    ///
    /// It is cleared before another voter can take part in anything: a membership change takes effect on this thread.
    pub(super) sole_read_index: AtomicU64,
    pub(super) held: Held,
    /// Becomes true when the log of before the start is applied, or the thread ends.
    pub(super) replayed: watch::Sender<bool>,
    /// Becomes true when the thread ends.
    pub(super) stopped: watch::Sender<bool>,
    pub(super) mailbox: Mailbox,
}

impl Shared {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            term: AtomicU64::default(),
            leader: AtomicU64::default(),
            role: AtomicU8::new(Role::Follower as u8),
            commit: AtomicU64::default(),
            applied: AtomicU64::default(),
            sole_read_index: AtomicU64::default(),
            held: Held::default(),
            replayed: watch::Sender::default(),
            stopped: watch::Sender::default(),
            mailbox: Mailbox::default(),
        }
    }
}

/// What the thread has taken but holds back, most of all for want of a leader. It counts towards the bounds.
#[derive(Debug, Default)]
pub(super) struct Held {
    proposals: AtomicUsize,
    proposal_bytes: AtomicUsize,
    reads: AtomicUsize,
}

impl Held {
    pub(super) fn note(&self, backlog: &Backlog, reads: &Reads) {
        self.proposals.store(backlog.len(), Ordering::Relaxed);
        self.proposal_bytes.store(backlog.bytes(), Ordering::Relaxed);
        self.reads.store(reads.len(), Ordering::Relaxed);
    }
}

/// Everything that came in since the thread last looked.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) controls: Vec<Control>,
    pub(super) messages: Vec<Message>,
    message_bytes: usize,
    pub(super) proposals: Vec<Proposal>,
    proposal_bytes: usize,
    pub(super) reads: Vec<ReadWaiter>,
}

impl Inbox {
    pub(super) fn is_empty(&self) -> bool {
        self.controls.is_empty() && self.messages.is_empty() && self.proposals.is_empty() && self.reads.is_empty()
    }

    /// How many proposals it holds, or more than anybody waits for if there is anything else.
    fn gathered(&self) -> usize {
        let others = !(self.controls.is_empty() && self.messages.is_empty() && self.reads.is_empty());
        if others { usize::MAX } else { self.proposals.len() }
    }

    /// Empties it, keeping its space for the next round.
    pub(super) fn clear(&mut self) {
        self.controls.clear();
        self.messages.clear();
        self.proposals.clear();
        self.reads.clear();
        (self.message_bytes, self.proposal_bytes) = (0, 0);
    }
}

#[derive(Debug)]
pub(super) enum Control {
    ConfChange(ConfChange),
    TransferLeader(u64),
    Campaign,
    AdvanceTicks(usize),
    Unreachable(u64),
    Gone(u64),
    SnapshotSent { to: u64, arrived: bool },
    Snapshot { message: Box<Message>, done: oneshot::Sender<()> },
    Progress(oneshot::Sender<Option<Progress>>),
    Removed,
    Stop,
}

/// Somebody who waits for a read index.
#[derive(Debug)]
pub(super) struct ReadWaiter {
    reply: oneshot::Sender<u64>,
}

impl ReadWaiter {
    pub(super) fn answer(self, index: u64) {
        // Whoever stopped waiting does not need it.
        let _ = self.reply.send(index);
    }

    pub(super) fn is_gone(&self) -> bool {
        self.reply.is_closed()
    }
}

/// Many writers, one reader that takes everything at once.
///
/// The reader is only woken when it sleeps: it says so, under the lock, before it does, and whoever finds it so and
/// takes that back wakes it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    state: Mutex<MailboxState>,
    /// How many proposals the reader sleeps for; 0 if it is awake.
    sleeps: AtomicUsize,
    reader: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct MailboxState {
    inbox: Inbox,
    closed: bool,
}

impl Mailbox {
    fn push<T>(&self, put: impl FnOnce(&mut Inbox) -> Result<T, Refused>) -> Result<T, Refused> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Stopped);
        }
        let result = put(&mut state.inbox);
        let gathered = state.inbox.gathered();
        drop(state);
        let sleeps = self.sleeps.load(Ordering::Acquire);
        if (1..=gathered).contains(&sleeps)
            && self.sleeps.swap(0, Ordering::AcqRel) != 0
            && let Some(reader) = self.reader.get()
        {
            reader.unpark();
        }
        result
    }

    /// Names the reading thread. Before that, nobody is woken.
    pub(super) fn set_reader(&self, reader: Thread) {
        // There is one reader in the life of a mailbox.
        let _ = self.reader.set(reader);
    }

    /// Swaps what came in against an empty inbox. With `until`, waits for something to come in, or that moment.
    ///
    /// Fewer proposals than are `enough` do not end the wait by themselves.
    pub(super) fn take(&self, empty: &mut Inbox, until: Option<Instant>, enough: usize) {
        debug_assert!(empty.is_empty());
        loop {
            let mut state = self.state.lock();
            let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
            if state.inbox.gathered() >= enough || left.is_zero() {
                std::mem::swap(&mut state.inbox, empty);
                return;
            }
            self.sleeps.store(enough, Ordering::Release);
            drop(state);
            std::thread::park_timeout(left);
            self.sleeps.store(0, Ordering::Release);
        }
    }

    /// Lets nothing more in, and returns what was still there.
    pub(super) fn close(&self) -> Inbox {
        let mut state = self.state.lock();
        state.closed = true;
        std::mem::take(&mut state.inbox)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A waiter, and where its answer arrives.
    pub(in crate::raft) fn read_waiter() -> (ReadWaiter, oneshot::Receiver<u64>) {
        let (reply, receiver) = oneshot::channel();
        (ReadWaiter { reply }, receiver)
    }

    fn proposal(id: u64, bytes: usize) -> Proposal {
        Proposal { id, data: vec![0; bytes].into(), term: None }
    }

    fn taken(handle: &RaftHandle) -> Inbox {
        let mut inbox = Inbox::default();
        handle.shared.mailbox.take(&mut inbox, None, 1);
        inbox
    }

    #[test]
    fn everything_that_waits_is_taken_at_once_and_in_order() {
        let handle = RaftHandle::new(Arc::new(Shared::new(1)));
        for id in 0..10 {
            handle.propose(proposal(id, 1)).unwrap();
        }
        handle.campaign().unwrap();
        let inbox = taken(&handle);
        assert_eq!(inbox.proposals.iter().map(|proposal| proposal.id).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert_eq!(inbox.controls.len(), 1);
        assert!(taken(&handle).is_empty());
    }

    #[test]
    fn a_sleeping_reader_is_woken() {
        let shared = Arc::new(Shared::new(1));
        let handle = RaftHandle::new(shared.clone());
        let reader = std::thread::spawn(move || {
            shared.mailbox.set_reader(std::thread::current());
            let mut inbox = Inbox::default();
            let start = Instant::now();
            shared.mailbox.take(&mut inbox, Some(start + Duration::from_secs(20)), 1);
            (inbox.proposals.len(), start.elapsed())
        });
        handle.propose(proposal(1, 1)).unwrap();
        let (taken, waited) = reader.join().unwrap();
        assert_eq!(taken, 1);
        assert!(waited < Duration::from_secs(10));
    }

    #[test]
    fn a_reader_that_gathers_sleeps_until_enough_came_or_something_else() {
        let shared = Arc::new(Shared::new(1));
        let handle = RaftHandle::new(shared.clone());
        let reader = std::thread::spawn(move || {
            shared.mailbox.set_reader(std::thread::current());
            let mut taken = Vec::new();
            for _ in 0..3 {
                let mut inbox = Inbox::default();
                shared.mailbox.take(&mut inbox, Some(Instant::now() + Duration::from_secs(20)), 3);
                taken.push((inbox.proposals.len(), inbox.controls.len()));
            }
            let mut inbox = Inbox::default();
            shared.mailbox.take(&mut inbox, Some(Instant::now() + Duration::from_millis(1)), 3);
            taken.push((inbox.proposals.len(), inbox.controls.len()));
            taken
        });
        let taken_by_then = |proposals: usize| {
            let shared = &handle.shared;
            while shared.mailbox.state.lock().inbox.proposals.len() != proposals {
                std::thread::yield_now();
            }
        };
        for id in 0..6 {
            handle.propose(proposal(id, 1)).unwrap();
            if id == 2 {
                taken_by_then(0);
            }
        }
        taken_by_then(0);
        handle.propose(proposal(6, 1)).unwrap();
        handle.campaign().unwrap();
        let taken = reader.join().unwrap();
        assert_eq!(taken, [(3, 0), (3, 0), (1, 1), (0, 0)]);
    }

    #[test]
    fn queues_are_bounded() {
        let shared = Arc::new(Shared::new(1));
        let handle = RaftHandle::new(shared.clone());
        for _ in 0..256 {
            handle.propose(proposal(1, 1 << 20)).unwrap();
        }
        assert_eq!(handle.propose(proposal(1, 1)), Err(Refused::TooManyRequests));
        // Taken but held back counts as well.
        let mut backlog = Backlog::new(Duration::from_secs(7));
        backlog.add(taken(&handle).proposals.into_iter(), Instant::now());
        shared.held.note(&backlog, &Reads::new(0));
        assert_eq!(handle.propose(proposal(1, 1)), Err(Refused::TooManyRequests));
        assert_eq!(backlog.take(1).count(), 1);
        shared.held.note(&backlog, &Reads::new(0));
        handle.propose(proposal(1, 1)).unwrap();
        for _ in 0..MESSAGES_WAITING_MAX {
            assert!(handle.step(Message::default()));
        }
        assert!(!handle.step(Message::default()));
    }

    #[test]
    fn proposals_are_refused_while_applying_lags() {
        let shared = Arc::new(Shared::new(1));
        let handle = RaftHandle::new(shared.clone());
        shared.commit.store(5001, Ordering::Relaxed);
        assert_eq!(handle.propose(proposal(1, 1)), Err(Refused::TooManyRequests));
        assert_eq!(handle.propose_first(proposal(1, 1)), Ok(()));
        shared.commit.store(10_001, Ordering::Relaxed);
        assert_eq!(handle.propose_first(proposal(1, 1)), Err(Refused::TooManyRequests));
        shared.commit.store(5001, Ordering::Relaxed);
        shared.applied.store(1, Ordering::Relaxed);
        assert_eq!(handle.propose(proposal(1, 1)), Ok(()));
    }

    #[tokio::test]
    async fn a_closed_mailbox_takes_nothing_and_frees_who_waits() {
        let shared = Arc::new(Shared::new(1));
        let handle = RaftHandle::new(shared.clone());
        let waiting = handle.read_index();
        drop(shared.mailbox.close());
        assert_eq!(waiting.await, Err(Refused::Stopped));
        assert_eq!(handle.propose(proposal(1, 1)), Err(Refused::Stopped));
    }
}
