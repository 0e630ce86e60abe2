//! A keyspace that is kept at its upstream's revisions: what a gateway answers from.
//!
//! It is filled from a list at one revision and then follows a watch. It holds all live keys of its ranges, and of
//! their past a *window*:
//!
//! ```text
//!            compacted         floor                         revision
//! upstream  ....|----------------|------------------------------|
//! mirror                         |-- reads and changes since ---|
//! ```
//!
//! At and above the floor reads are answered; changes are known above it. What lies between the upstream's compaction
//! and the floor is the upstream's to tell: a read there is [`Unanswered::Outside`], a watcher there asks for a private
//! feed ([`crate::watch::CatchUp`]). Below the compaction both are answered as the upstream would, even if the window
//! still has it.
//!
//! Everything the upstream says is checked against what is known. What contradicts it is a [`Desync`]: the mirror takes
//! no more changes until it is filled anew, and what it showed before stays as it was.

mod desync;
mod load;
mod ranges;
#[cfg(test)]
mod tests;
mod trim;
mod window;

use std::sync::Arc;

use forebay_proto::mvccpb::{self, KeyValue, event::EventType};

pub use self::{
    desync::{Desync, Key},
    load::Load,
    ranges::Ranges,
    trim::Limits,
    window::{MirrorReader, Unanswered},
};
use self::{trim::Trim, window::Window};
use crate::{
    record::{Revision, Version},
    store::Keyspace,
    watch::{History as _, Hub},
};

/// The mirror, and the right to change it.
///
/// Each change is visible to [`MirrorReader`]s and under way to watchers when the call that makes it returns.
pub struct Mirror {
    keyspace: Keyspace,
    window: Arc<Window>,
    hub: Hub,
    trim: Trim,
    /// What the live records take.
    live_bytes: u64,
    /// Why it takes no more changes.
    desync: Option<Desync>,
    scratch: Vec<u8>,
}

impl Mirror {
    /// The mirror of what was loaded. `max_request_bytes` is the upstream's flag, which decides where responses to
    /// watchers are fragmented.
    pub fn new(load: Load, limits: Limits, max_request_bytes: usize) -> Result<Mirror, Desync> {
        let (ranges, live_bytes, keyspace) = load.finish()?;
        let window = Arc::new(Window::new(keyspace.reader(), ranges));
        let hub = Hub::new(window.clone(), max_request_bytes);
        Ok(Mirror { keyspace, window, hub, trim: Trim::new(limits), live_bytes, desync: None, scratch: Vec::new() })
    }

    /// A handle to read with.
    pub fn reader(&self) -> MirrorReader {
        MirrorReader::new(self.window.clone())
    }

    /// The hub whose watchers see the changes.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The revision up to which everything is known.
    pub fn revision(&self) -> i64 {
        self.window.revision()
    }

    /// What the records and the window take in memory, nearly.
    pub fn bytes(&self) -> u64 {
        self.live_bytes + self.trim.bytes()
    }

    /// Why the mirror takes no more changes, if it does not.
    pub fn desync(&self) -> Option<&Desync> {
        self.desync.as_ref()
    }

    /// Applies events in the upstream's order: whole revisions, each above all before. Fragments are joined before.
    ///
    /// All of them become visible together, or none.
    pub fn apply(&mut self, events: &[mvccpb::Event]) -> Result<(), Desync> {
        self.check_synced()?;
        let published = self.revision();
        let mut at = Revision { main: published, sub: 0 };
        for event in events {
            at = self.adopt(event, published, at).inspect_err(|desync| self.desync = Some(desync.clone()))?;
        }
        if let Some(batch) = self.keyspace.publish() {
            self.hub.publish(&batch);
            let floor = self.trim.add(&batch);
            self.raise_floor(floor);
            self.trim.step(&mut self.keyspace, batch.changes.len());
        }
        Ok(())
    }

    /// Takes note that there is no further change up to `revision`: the upstream's progress.
    pub fn advance(&mut self, revision: i64) -> Result<(), Desync> {
        self.check_synced()?;
        let current = self.revision();
        if revision < current {
            return Err(self.desync.insert(Desync::Backwards { revision, current }).clone());
        }
        if revision > current {
            self.keyspace.advance(revision);
            self.hub.advance(revision);
        }
        self.trim.step(&mut self.keyspace, 0);
        Ok(())
    }

    /// Takes note of the upstream's last compaction. Whatever was learnt before and is higher stays.
    pub fn set_compacted(&mut self, revision: i64) {
        self.window.set_compacted(revision);
        // Nobody may read below it, and watchers may still begin at it.
        self.raise_floor((revision - 1).min(self.revision()));
        self.trim.forget_through(self.keyspace.compacted_revision());
    }

    /// Goes on from a new list of the same upstream, at this revision or a later one. Watchers go on from their next
    /// revision: by the window, or by a feed of their own if it lies before the list.
    ///
    /// A list at a lower revision is refused: of a member that lags another list has to be asked for, of an upstream that
    /// was set back see [`Mirror::restart`].
    pub fn replace(&mut self, load: Load) -> Result<(), Desync> {
        let current = self.revision();
        if load.revision() < current {
            return Err(Desync::Backwards { revision: load.revision(), current });
        }
        let keyspace = self.loaded(load)?;
        self.keyspace.replace(keyspace);
        self.hub.resync();
        Ok(())
    }

    /// Begins anew from a list of an upstream that is no continuation of what was mirrored: another cluster, or one that
    /// was restored to an older revision. Every watcher ends as compacted, and its stream with it.
    pub fn restart(&mut self, load: Load) -> Result<(), Desync> {
        let keyspace = self.loaded(load)?;
        let Mirror { keyspace: current, window, hub, .. } = self;
        hub.purge(|| {
            window.forget_compacted();
            current.begin_anew(keyspace);
        });
        Ok(())
    }

    /// What was loaded for the same ranges, to be put in place of what there is.
    fn loaded(&mut self, load: Load) -> Result<Keyspace, Desync> {
        let (ranges, live_bytes, keyspace) = load.finish()?;
        assert_eq!(ranges, *self.window.ranges(), "a mirror is filled anew with the ranges it has");
        self.trim = Trim::new(self.trim.limits());
        (self.live_bytes, self.desync) = (live_bytes, None);
        Ok(keyspace)
    }

    fn check_synced(&self) -> Result<(), Desync> {
        self.desync.clone().map_or(Ok(()), Err)
    }

    fn raise_floor(&mut self, floor: i64) {
        if floor > self.keyspace.compacted_revision() {
            self.keyspace.raise_floor(floor);
        }
    }

    /// Adds one change; `last` is where the one before stands. Returns where this one does.
    fn adopt(&mut self, event: &mvccpb::Event, published: i64, last: Revision) -> Result<Revision, Desync> {
        let kv = event.kv.as_ref().ok_or(Desync::Malformed { key: Key::default(), revision: last.main })?;
        let (key, main) = (|| Key::of(&kv.key), kv.mod_revision);
        if main < last.main || main <= published {
            return Err(Desync::Backwards { revision: main, current: last.main });
        }
        if !self.window.ranges().contains(&kv.key) {
            return Err(Desync::Foreign { key: key(), revision: main });
        }
        let sub = if main == last.main { last.sub + 1 } else { 0 };
        let revision = Revision { main, sub };
        let live = self.keyspace.snapshot().get(&kv.key, i64::MAX);
        let version = match EventType::try_from(event.r#type) {
            Ok(EventType::Put) => self.put(kv, revision, live.as_ref())?,
            Ok(EventType::Delete) if live.is_none() => return Err(Desync::Unknown { key: key(), revision: main }),
            Ok(EventType::Delete) => Version::tombstone(revision, &kv.key, &mut self.scratch),
            Err(_) => return Err(Desync::Malformed { key: key(), revision: main }),
        };
        if !version.is_tombstone() {
            self.live_bytes += load::cost(&version);
        }
        if let Some(live) = &live {
            self.live_bytes -= load::cost(live);
        }
        self.keyspace.adopt(version, live);
        Ok(revision)
    }

    /// The version that a put event tells of, if it continues what is known of the key.
    fn put(&mut self, kv: &KeyValue, revision: Revision, live: Option<&Version>) -> Result<Version, Desync> {
        let malformed = || Desync::Malformed { key: Key::of(&kv.key), revision: revision.main };
        let version = Version::of(kv, revision, &mut self.scratch).ok_or_else(malformed)?;
        let expected = live.map_or((revision.main, 1), |live| (live.create_revision(), live.version() + 1));
        let told = (version.create_revision(), version.version());
        if told != expected {
            return Err(Desync::Discontinuous { key: Key::of(&kv.key), revision: revision.main, told, expected });
        }
        Ok(version)
    }
}
