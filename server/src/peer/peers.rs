//! All other members, as raft and the member see them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use forebay_proto::raftpb::Message;
use forebay_storage::snap::{MemberRecord, Membership};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::Handle;

use super::{client::Client, id_text, identity::Identity, link::Link, metrics::PeerMetrics};
use crate::{
    cluster::Cluster,
    raft::{RaftHandle, SnapshotData, Transport},
};

/// Senders that are no members, as far as is known here, and are answered all the same: a member that lags does not
/// know those that joined since.
const REMOTES_MAX: usize = 32;
/// Snapshots that are sent at once.
const SNAPSHOTS_MAX: usize = 16;

/// What all links share.
pub(super) struct Network {
    pub(super) identity: Identity,
    pub(super) client: Client,
    pub(super) raft: RaftHandle,
    pub(super) cluster: Arc<Cluster>,
    pub(super) metrics: PeerMetrics,
    pub(super) runtime: Handle,
}

/// Why a message is not stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Its sender is no member any more.
    #[error("cannot process message from removed member")]
    Removed,
    /// It is for somebody else.
    #[error("cannot process message to mismatch member")]
    Mismatch,
    /// Too many wait.
    #[error("too many messages wait")]
    Busy,
}

impl Network {
    /// Whether a message may be stepped at all.
    pub(super) fn vet(&self, message: &Message) -> Result<(), Refused> {
        if self.cluster.is_removed(message.from()) {
            return Err(Refused::Removed);
        }
        if message.to() != self.identity.member_id {
            return Err(Refused::Mismatch);
        }
        self.metrics.received_bytes.with_label_values(&[&id_text(message.from())]).inc_by(message.encoded_len() as u64);
        Ok(())
    }

    /// Hands a message to raft.
    pub(super) fn receive(&self, message: Message) -> Result<(), Refused> {
        self.vet(&message)?;
        if self.raft.step(message) { Ok(()) } else { Err(Refused::Busy) }
    }

    pub(super) fn count_dropped(&self, from: u64) {
        self.metrics.received_failures.with_label_values(&[&id_text(from)]).inc();
    }
}

/// The links to all other members. Clones are the same.
#[derive(Clone)]
pub(crate) struct Peers(Arc<Inner>);

struct Inner {
    network: Arc<Network>,
    links: ArcSwap<HashMap<u64, Arc<Link>>>,
    /// Held while the links are changed.
    changing: Mutex<()>,
    snapshots: Arc<AtomicUsize>,
}

impl Peers {
    /// No links yet. Must be called in a tokio runtime, where their tasks will run.
    pub(crate) fn new(
        identity: Identity,
        client: Client,
        raft: RaftHandle,
        cluster: Arc<Cluster>,
        metrics: PeerMetrics,
    ) -> Peers {
        let network = Network { identity, client, raft, cluster, metrics, runtime: Handle::current() };
        Peers(Arc::new(Inner {
            network: Arc::new(network),
            links: ArcSwap::default(),
            changing: Mutex::new(()),
            snapshots: Arc::default(),
        }))
    }

    pub(super) fn network(&self) -> &Arc<Network> {
        &self.0.network
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.network.client
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.0.network.identity
    }

    /// Links to these members, with these URLs, and to none of those removed.
    ///
    /// A link whose member is in neither list stays: while a new member reads the log from its beginning, it learns one
    /// by one of those that it has long been talking to.
    pub(crate) fn set(&self, members: &[MemberRecord], removed: &[u64]) {
        let _changing = self.0.changing.lock();
        let mut links = HashMap::clone(&self.0.links.load());
        let others = members.iter().filter(|member| member.id != self.0.network.identity.member_id);
        for member in others {
            let link = links
                .entry(member.id)
                .or_insert_with(|| Link::new(&self.0.network, member.id, member.peer_urls.clone()));
            link.set_urls(&member.peer_urls);
            link.dial();
        }
        links.retain(|id, link| {
            let stays = !removed.contains(id);
            if !stays {
                link.close();
            }
            stays
        });
        self.0.links.store(Arc::new(links));
    }

    /// Lets a sender be answered that is not known as a member.
    pub(super) fn add_remote(&self, id: u64, urls: Vec<String>) {
        let network = &self.0.network;
        if id == network.identity.member_id || network.cluster.is_removed(id) || self.link(id).is_some() {
            return;
        }
        let _changing = self.0.changing.lock();
        let mut links = HashMap::clone(&self.0.links.load());
        let remotes = links.values().filter(|link| !link.is_member()).count();
        if remotes < REMOTES_MAX && !links.contains_key(&id) {
            links.insert(id, Link::new(network, id, urls));
            self.0.links.store(Arc::new(links));
        }
    }

    pub(super) fn link(&self, id: u64) -> Option<Arc<Link>> {
        self.0.links.load().get(&id).cloned()
    }

    /// Since when a member is reached without interruption.
    pub(crate) fn active_since(&self, id: u64) -> Option<Instant> {
        self.link(id)?.active_since()
    }

    /// How many members are reached.
    pub(crate) fn active(&self) -> usize {
        self.0.links.load().values().filter(|link| link.active_since().is_some()).count()
    }

    /// Ends all links.
    pub(crate) fn close(&self) {
        let _changing = self.0.changing.lock();
        self.0.links.swap(Arc::default()).values().for_each(|link| link.close());
    }
}

impl Transport for Peers {
    fn send(&mut self, messages: Vec<Message>) {
        let links = self.0.links.load();
        for message in messages {
            // One that was removed meanwhile needs nothing more.
            if let Some(link) = links.get(&message.to()) {
                link.send(message);
            }
        }
    }

    fn send_snapshot(&mut self, message: Message, db: Box<dyn SnapshotData>) {
        let to = message.to();
        let under_way = self.0.snapshots.fetch_add(1, Ordering::Relaxed);
        let counted = Counted { db, counter: self.0.snapshots.clone() };
        match self.link(to).filter(|_| under_way < SNAPSHOTS_MAX) {
            Some(link) => link.send_snapshot(message, Box::new(counted)),
            None => self.0.network.raft.snapshot_sent(to, false),
        }
    }

    fn set_members(&mut self, membership: &Membership) {
        self.set(&membership.members, &membership.removed);
    }
}

/// A db under way, which makes room for another one when it is read or given up.
struct Counted {
    db: Box<dyn SnapshotData>,
    counter: Arc<AtomicUsize>,
}

impl std::io::Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.db.read(buffer)
    }
}

impl SnapshotData for Counted {
    fn len(&self) -> u64 {
        self.db.len()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}
