//! Named places where a test may end the process, or look on.
//!
//! A place costs one relaxed load of a flag while nobody watches. `FOREBAY_FAILPOINT=wal-append-written:3` kills the
//! process the third time that it comes by that place, as `kill -9` would; a simulation watches a thread and decides for
//! itself.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

macro_rules! points {
    ($($name:ident = $text:literal: $what:literal,)*) => {
        /// A place.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Point {
            $(#[doc = $what] $name,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Point] = &[$(Point::$name,)*];

            /// What it is called.
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$name => $text,)*
                }
            }
        }
    };
}

points! {
    WalCreateBuilt = "wal-create-built": "A new log is complete, and has not its name yet.",
    WalCreated = "wal-created": "A new log has its name, perhaps not durably.",
    WalOpenRead = "wal-open-read": "A log is read; its tail is not cut yet.",
    WalOpenCut = "wal-open-cut": "The tail is cut, not durably.",
    WalAppend = "wal-append": "Before records are written.",
    WalAppendWritten = "wal-append-written": "Records are written and not synced.",
    WalAppendSynced = "wal-append-synced": "Records are durable.",
    WalMark = "wal-mark": "Before a snapshot is marked.",
    WalMarked = "wal-marked": "A snapshot is marked, durably.",
    WalCut = "wal-cut": "Before a segment ends.",
    WalCutEnded = "wal-cut-ended": "A segment has ended; the next has no head.",
    WalCutHead = "wal-cut-head": "The next segment has its head, and not its name.",
    WalCutNamed = "wal-cut-named": "The next segment has its name, perhaps not durably.",
    WalCutDone = "wal-cut-done": "The next segment is there.",
    WalRelease = "wal-release": "Before segments are let go.",
    WalRemove = "wal-remove": "Before a segment is removed.",
    SnapSave = "snap-save": "Before a snapshot file is made.",
    SnapWritten = "snap-written": "A snapshot file is written and not synced.",
    SnapSynced = "snap-synced": "A snapshot file is durable under another name.",
    SnapNamed = "snap-named": "A snapshot file has its name, perhaps not durably.",
    SnapSaved = "snap-saved": "A snapshot file is there.",
    SnapPurge = "snap-purge": "Before a snapshot file is removed.",
    DbCreated = "db-created": "A db file has its first pages.",
    DbCommit = "db-commit": "Before the pages of a commit are written.",
    DbCommitPages = "db-commit-pages": "The pages of a commit are written and not synced.",
    DbCommitSynced = "db-commit-synced": "The pages of a commit are durable.",
    DbCommitMeta = "db-commit-meta": "The meta page of a commit is written and not synced.",
    DbCommitted = "db-committed": "A commit is durable.",
    DefragOpen = "defrag-open": "Before the new file of a defragmentation is made.",
    DefragCopied = "defrag-copied": "The content is copied and not synced.",
    DefragSynced = "defrag-synced": "The new file is durable under another name.",
    DbSwitched = "db-switched": "A file has the place of the db, perhaps not durably.",
    DbSwitchedDurably = "db-switched-durably": "A file has the place of the db.",
    RaftStart = "raft-start": "Before what is known to be committed is applied.",
    RaftTurn = "raft-turn": "Before what came in is stepped.",
    RaftSendFirst = "raft-send-first": "Before messages that wait for no disk are sent.",
    RaftPersist = "raft-persist": "Before anything is persisted.",
    RaftPersistSnapshot = "raft-persist-snapshot": "The file of a received snapshot is saved; the log has no mark.",
    RaftPersisted = "raft-persisted": "Everything is persisted.",
    RaftSendLast = "raft-send-last": "Before messages that waited for the disk are sent.",
    RaftSent = "raft-sent": "Those messages are sent.",
    RaftApply = "raft-apply": "Before entries are applied.",
    RaftApplied = "raft-applied": "Entries are applied.",
    RaftConfChange = "raft-conf-change": "Before a membership change takes effect.",
    RaftConfChanged = "raft-conf-changed": "A membership change took effect and is not recorded.",
    RaftRestore = "raft-restore": "Before a received snapshot takes the place of the state.",
    RaftRestored = "raft-restored": "It has.",
    RaftSnapshot = "raft-snapshot": "Before a snapshot is begun.",
    RaftSnapshotDurable = "raft-snapshot-durable": "The db holds what the snapshot says.",
    RaftSnapshotSend = "raft-snapshot-send": "Before a snapshot is sent.",
    RaftRest = "raft-rest": "Before a commit index is written that nothing took along.",
    ApplyEntry = "apply-entry": "Before an entry is carried out.",
    ApplyPublish = "apply-publish": "Entries are carried out, and nobody sees it.",
    ApplyPublished = "apply-published": "Readers see it; watchers and waiters do not know.",
    ApplyWatched = "apply-watched": "Watchers know; waiters do not.",
    ApplyAnswered = "apply-answered": "Everybody knows.",
    ApplyMembership = "apply-membership": "Before a membership change is recorded.",
    BackendCommit = "backend-commit": "What waits for the file is taken.",
    BackendCommitted = "backend-committed": "It is in the file, and not noted.",
    BackendReplace = "backend-replace": "Before another file takes the place of the db.",
    CompactStep = "compact-step": "Before versions are removed.",
    CompactStepped = "compact-stepped": "Versions are removed from memory; the file was told.",
    CompactFinish = "compact-finish": "The file was told that a compaction is finished.",
    LeaseGrant = "lease-grant": "Before a lease is granted.",
    LeaseRevoke = "lease-revoke": "Before a lease ends.",
    LeaseRevoked = "lease-revoked": "A lease has ended; its keys are still there.",
    LeaseCheckpoint = "lease-checkpoint": "Before what is left of leases is noted.",
    LeasePromote = "lease-promote": "Before a leader takes the leases over.",
    LeaseDemote = "lease-demote": "Before a leader that is none any more lets them go.",
    StartOpened = "start-opened": "The db is open and read.",
    StartInstall = "start-install": "Before a received db takes the place of the old one, at a start.",
}

static WATCHED: AtomicBool = AtomicBool::new(false);
static ARMED: OnceLock<(Point, AtomicU64)> = OnceLock::new();

type Watcher = Box<dyn FnMut(Point)>;

thread_local! {
    static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
}

/// This place is reached.
#[inline(always)]
pub fn reach(point: Point) {
    if WATCHED.load(Ordering::Relaxed) {
        reached(point);
    }
}

#[cold]
fn reached(point: Point) {
    if let Some((armed, left)) = ARMED.get()
        && *armed == point
        && left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    // Taken out while it looks: it may end the work of the thread by a panic, and is asked again after that.
    if let Some(mut watcher) = WATCHER.take() {
        let looked = catch_unwind(AssertUnwindSafe(|| watcher(point)));
        WATCHER.set(Some(watcher));
        if let Err(panic) = looked {
            resume_unwind(panic);
        }
    }
}

/// Has `watcher` look on whenever this thread reaches a place.
pub fn watch(watcher: impl FnMut(Point) + 'static) {
    WATCHER.set(Some(Box::new(watcher)));
    WATCHED.store(true, Ordering::Relaxed);
}

/// Arms the place that `FOREBAY_FAILPOINT` names, `name` or `name:count`, if it is set.
pub fn arm_from_environment() -> Result<(), String> {
    let Ok(text) = std::env::var("FOREBAY_FAILPOINT") else { return Ok(()) };
    let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
    let point = Point::ALL.iter().find(|point| point.name() == name);
    let names = || Point::ALL.iter().map(|point| point.name()).collect::<Vec<_>>().join(", ");
    let point = point.ok_or_else(|| format!("FOREBAY_FAILPOINT={text} names no place; there are {}", names()))?;
    let count = count.parse().map_err(|_| format!("FOREBAY_FAILPOINT={text} has no count behind the colon"))?;
    if ARMED.set((*point, AtomicU64::new(count))).is_ok() {
        WATCHED.store(true, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Point::ALL.len());
    }

    #[test]
    fn a_watcher_sees_its_thread_and_may_end_what_it_does() {
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        watch(move |point| {
            count.set(count.get() + 1);
            if point == Point::WalCut {
                std::panic::resume_unwind(Box::new("ended here"));
            }
        });
        reach(Point::WalAppend);
        assert!(std::panic::catch_unwind(|| reach(Point::WalCut)).is_err());
        reach(Point::WalAppend);
        std::thread::spawn(|| reach(Point::WalAppend)).join().unwrap();
        assert_eq!(seen.get(), 3);
    }
}
