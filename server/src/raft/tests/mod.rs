mod chaos;
mod cluster;
mod hostile;
mod thread;

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::raftpb::{
    ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Message, MessageType, Snapshot,
};
use prost::Message as _;

use super::{
    log::Log,
    node::{Node, NodeConfig, Rejected},
    translate::{conf_state_to_library, entry_to_library, hard_state_to_library},
};

const ELECTION_TICKS: usize = 10;

/// One member with what it would have on disk, and a state machine that remembers everything it applied.
struct Member {
    node: Node,
    hard_state: HardState,
    base: (u64, u64),
    entries: Vec<Entry>,
    applied: Vec<(u64, Bytes)>,
    applied_index: u64,
    conf_state: ConfState,
    reads: Vec<(u64, u64)>,
}

impl Member {
    fn new(id: u64, voters: &[u64], seed: u64) -> Self {
        let conf_state = ConfState { voters: voters.to_vec(), auto_leave: Some(false), ..ConfState::default() };
        let log = Log::new((0, 0), Vec::new(), Default::default(), conf_state_to_library(&conf_state).unwrap());
        Self {
            node: Node::new(node_config(id, seed), log, 0).unwrap(),
            hard_state: HardState::default(),
            base: (0, 0),
            entries: Vec::new(),
            applied: Vec::new(),
            applied_index: 0,
            conf_state,
            reads: Vec::new(),
        }
    }

    /// Comes back with what was persisted. `keep` of the applied entries are in the db; the rest is applied again.
    fn restart(&mut self, seed: u64, keep: usize) {
        let in_snapshot = self.applied.iter().filter(|(index, _)| *index <= self.base.0).count();
        let kept = keep.clamp(in_snapshot, self.applied.len());
        // Membership is not replayed by this state machine, so it keeps what it applied of it.
        if kept < self.applied.len() && self.entries.iter().all(|entry| entry.r#type() == EntryType::EntryNormal) {
            self.applied.truncate(kept);
            self.applied_index = self.applied.last().map_or(0, |(index, _)| *index).max(self.base.0);
        }
        let mut hard_state = hard_state_to_library(&self.hard_state);
        hard_state.commit = hard_state.commit.max(self.applied_index);
        let entries = self.entries.iter().cloned().map(|entry| entry_to_library(entry).unwrap()).collect();
        let conf_state = conf_state_to_library(&self.conf_state).unwrap();
        let mut log = Log::new(self.base, entries, hard_state, conf_state);
        log.set_applied(self.applied_index);
        self.node = Node::new(node_config(self.node.id(), seed), log, self.applied_index).unwrap();
        self.reads.clear();
    }

    /// Does what the driver does; returns the messages to send.
    fn work(&mut self) -> Vec<Message> {
        let mut sent = Vec::new();
        while let Some(mut ready) = self.node.ready() {
            self.send(std::mem::take(&mut ready.send), &mut sent);
            if let Some(hard_state) = ready.hard_state {
                self.hard_state = hard_state;
            }
            if let Some(snapshot) = ready.snapshot.clone() {
                self.restore(&snapshot);
            }
            for entry in &ready.entries {
                self.entries.truncate((entry.index() - self.base.0 - 1) as usize);
                self.entries.push(entry.clone());
            }
            let persisted = self.node.persisted(ready);
            self.send(persisted.send, &mut sent);
            self.reads.extend(persisted.reads);
            for entry in persisted.apply {
                self.apply(&entry);
            }
            self.hard_state = self.node.hard_state();
        }
        sent
    }

    fn send(&self, messages: Vec<Message>, sent: &mut Vec<Message>) {
        for mut message in messages {
            if let Some(snapshot) = message.snapshot.as_mut().filter(|_| message.r#type == Some(7)) {
                snapshot.data = Some(encode_state(&self.applied));
            }
            sent.push(message);
        }
    }

    fn apply(&mut self, entry: &Entry) {
        assert_eq!(entry.index(), self.applied_index + 1, "entries are applied in order, each once");
        match entry.r#type() {
            EntryType::EntryConfChange => {
                let change = ConfChange::decode(entry.data.clone().unwrap()).unwrap();
                if change.r#type() != ConfChangeType::ConfChangeUpdateNode {
                    self.conf_state = self.node.apply_conf_change(&change).unwrap();
                }
            }
            _ => self.applied.push((entry.index(), entry.data.clone().unwrap_or_default())),
        }
        self.applied_index = entry.index();
        self.node.applied(entry.index());
    }

    fn restore(&mut self, snapshot: &Snapshot) {
        let metadata = snapshot.metadata.as_ref().unwrap();
        self.base = (metadata.index(), metadata.term());
        self.entries.clear();
        self.applied = decode_state(snapshot.data.clone().unwrap_or_default());
        self.applied_index = metadata.index();
        self.conf_state = metadata.conf_state.clone().unwrap();
    }

    /// What was applied, without the empty entries leaders begin with.
    fn values(&self) -> Vec<Bytes> {
        self.applied.iter().map(|(_, data)| data.clone()).filter(|data| !data.is_empty()).collect()
    }

    fn leads(&self) -> bool {
        self.node.role() == raft::StateRole::Leader
    }
}

fn node_config(id: u64, seed: u64) -> NodeConfig {
    NodeConfig { id, election_ticks: ELECTION_TICKS, pre_vote: true, seed: seed ^ id << 32 }
}

/// The state machine's content, as a snapshot message carries it in these tests.
fn encode_state(applied: &[(u64, Bytes)]) -> Bytes {
    let entries =
        applied.iter().map(|(index, data)| Entry { index: Some(*index), data: Some(data.clone()), ..Entry::default() });
    Message { entries: entries.collect(), ..Message::default() }.encode_to_vec().into()
}

fn decode_state(bytes: Bytes) -> Vec<(u64, Bytes)> {
    let entries = Message::decode(bytes).unwrap().entries;
    entries.into_iter().map(|entry| (entry.index(), entry.data.unwrap_or_default())).collect()
}

/// Members and the messages between them, all in one thread.
struct Cluster {
    members: BTreeMap<u64, Member>,
    /// Under way, in the order they were sent.
    network: Vec<Message>,
}

impl Cluster {
    fn new(ids: &[u64], seed: u64) -> Self {
        let members = ids.iter().map(|id| (*id, Member::new(*id, ids, seed))).collect();
        Self { members, network: Vec::new() }
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap()
    }

    /// Lets a member do its work and puts what it sends on the network.
    fn work(&mut self, id: u64) {
        let sent = self.member(id).work();
        self.network.extend(sent);
    }

    /// Delivers one message, as a transport would: a snapshot is reported as arrived.
    fn deliver(&mut self, message: Message) {
        let (from, to, is_snapshot) = (message.from(), message.to(), message.r#type() == MessageType::MsgSnap);
        let Some(member) = self.members.get_mut(&to) else { return };
        match member.node.step(message) {
            Ok(()) | Err(Rejected::ProposalDropped) => {}
            Err(Rejected::Message(reason)) => {
                // The library itself refuses answers of members it no longer knows.
                assert!(reason.contains("peer not found") || reason.contains("does not lead"), "{reason}");
            }
        }
        self.work(to);
        if is_snapshot && let Some(sender) = self.members.get_mut(&from) {
            sender.node.snapshot_sent(to, true);
            self.work(from);
        }
    }

    /// Delivers everything, in order, until nobody has anything to say.
    fn settle(&mut self) {
        for id in self.members.keys().copied().collect::<Vec<_>>() {
            self.work(id);
        }
        while !self.network.is_empty() {
            let message = self.network.remove(0);
            self.deliver(message);
        }
    }

    fn tick_all(&mut self) {
        for member in self.members.values_mut() {
            member.node.tick();
        }
        self.settle();
    }

    /// Ticks until there is one leader that everybody follows.
    fn elect(&mut self) -> u64 {
        for _ in 0..20 * ELECTION_TICKS {
            self.tick_all();
            let leaders: Vec<_> = self.members.values().map(|member| member.node.leader()).collect();
            if leaders[0] != 0 && leaders.iter().all(|leader| *leader == leaders[0]) {
                return leaders[0];
            }
        }
        panic!("no leader was elected");
    }

    fn propose(&mut self, id: u64, value: &str) -> Result<(), Rejected> {
        let result = self.member(id).node.propose([Bytes::copy_from_slice(value.as_bytes())]);
        self.settle();
        result
    }
}
