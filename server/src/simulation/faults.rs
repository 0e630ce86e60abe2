//! What goes wrong.

use std::time::Duration;

use bytes::Bytes;
use forebay_proto::raftpb::{ConfChange, ConfChangeType};
use forebay_storage::snap::member_json;
use rand::{Rng as _, seq::IndexedRandom as _};

use super::{
    failpoints::unless_trapped,
    member::{CLUSTER, record},
    plan::Fault,
    world::{Cuts, Event, World},
};
use crate::raft::Bootstrap;

impl World {
    pub(super) fn fault(&mut self) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults.choose_weighted(&mut self.rng, |(_, weight)| *weight).map(|(fault, _)| *fault);
        let fault = fault.expect("a plan has faults");
        let running = self.running();
        if let Some(id) = running.choose(&mut self.rng).copied() {
            self.note(("fault", fault as u8, id));
            self.strike(fault, id);
        }
        let calm = self.around(self.plan.calm);
        self.after(calm, Event::Fault);
    }

    fn strike(&mut self, fault: Fault, id: u64) {
        let long = self.around(Duration::from_secs(8)).min(Duration::from_secs(60));
        match fault {
            Fault::Kill => self.crash(id),
            Fault::PowerLoss => self.lose_power(id),
            Fault::Blackout => self.running().into_iter().for_each(|id| self.lose_power(id)),
            Fault::TornWrite => {
                let after = self.rng.random_range(0..30);
                self.seats[&id].disk.fail_after(after, std::io::ErrorKind::Other);
            }
            Fault::Pause => {
                let until = self.now + long;
                let seat = self.seats.get_mut(&id).expect("it runs");
                seat.busy_until = seat.busy_until.max(until);
                // The turn that was due is put off by that.
                seat.turn_at = None;
                self.wake(id);
            }
            Fault::Partition => {
                let (seats, rng) = (&self.seats, &mut self.rng);
                let sides: Vec<_> = seats.keys().map(|id| (*id, rng.random_bool(0.5))).collect();
                self.cuts = Cuts::default();
                for (from, side) in &sides {
                    for (to, other) in &sides {
                        if side != other {
                            self.cuts.cut(*from, *to);
                        }
                    }
                }
                self.after(long, Event::Rejoin);
            }
            Fault::OneWay => {
                let speaks = self.rng.random_bool(0.5);
                let others: Vec<_> = self.seats.keys().copied().filter(|other| *other != id).collect();
                for other in others {
                    if speaks { self.cuts.cut(other, id) } else { self.cuts.cut(id, other) }
                }
                self.after(long, Event::Rejoin);
            }
            Fault::LossySpell => {
                self.loss = self.rng.random_range(0.2..0.8);
                self.after(long, Event::Calm);
            }
            Fault::SlowDisk => self.seats.get_mut(&id).expect("it runs").slow_until = self.now + long,
            Fault::Transfer => {
                if let Some(leader) = self.leader() {
                    let raft = &self.seats[&leader].running.as_ref().expect("it leads").raft;
                    let _ = raft.transfer_leader(id);
                    self.wake(leader);
                }
            }
            Fault::Membership => self.change_membership(id),
            Fault::Defragment => {
                let running = self.seats[&id].running.as_ref().expect("it runs");
                let defragmented = unless_trapped(|| running.backend.defragment());
                if !matches!(defragmented, Some(Ok(()))) {
                    self.end(id);
                }
            }
            Fault::Failpoint => {
                let point = *self.plan.points.choose(&mut self.rng).expect("a plan has places");
                let after = self.rng.random_range(0..4);
                self.trap.set(point, after);
            }
            Fault::Damage => self.begin_damage(id),
        }
    }

    /// A member ends at a bad moment: its process, or with the whole machine.
    pub(super) fn end(&mut self, id: u64) {
        if self.rng.random_bool(0.5) { self.crash(id) } else { self.lose_power(id) }
    }

    pub(super) fn lose_power(&mut self, id: u64) {
        let chance = [0.0, 0.5, 0.9, 1.0][self.rng.random_range(0..4)];
        let seat = self.seats.get_mut(&id).expect("it runs");
        let rng = &mut self.rng;
        seat.disk = seat.disk.crash(|| rng.random_bool(chance));
        self.crash(id);
    }

    /// Keeps the cluster at its size, give or take one: a member joins, is promoted if it came as a learner, and later
    /// another one leaves.
    fn change_membership(&mut self, id: u64) {
        let Some(leader) = self.leader() else { return };
        let shown = self.seats[&leader].running.as_ref().expect("it leads").cluster.shown();
        if let Some(learner) = shown.members.iter().find(|member| member.is_learner) {
            let json = member_json(learner);
            let promotion = format!("{},\"isPromote\":true}}", json.trim_end_matches('}'));
            self.propose_change(leader, ConfChangeType::ConfChangeAddNode, learner.id, Some(promotion));
        } else if shown.members.len() as u64 > self.plan.members {
            self.remove_member(leader, id);
        } else {
            let is_learner = self.rng.random_bool(0.5);
            self.add_member(leader, is_learner);
        }
    }

    pub(super) fn remove_member(&mut self, leader: u64, id: u64) {
        self.propose_change(leader, ConfChangeType::ConfChangeRemoveNode, id, None);
    }

    /// Adds a member that has never been one, and starts it.
    pub(super) fn add_member(&mut self, leader: u64, is_learner: bool) {
        let kind = match is_learner {
            true => ConfChangeType::ConfChangeAddLearnerNode,
            false => ConfChangeType::ConfChangeAddNode,
        };
        let id = self.next_member;
        self.next_member += 1;
        self.propose_change(leader, kind, id, Some(member_json(&record(id, is_learner))));
        self.place(id, Bootstrap { member_id: id, cluster_id: CLUSTER, members: Vec::new() });
        self.after(Duration::from_secs(1), Event::Restart(id));
    }

    fn propose_change(&mut self, leader: u64, kind: ConfChangeType, id: u64, context: Option<String>) {
        let running = self.seats[&leader].running.as_ref().expect("it leads");
        let change = ConfChange {
            id: Some(running.ids.next()),
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: context.map(Bytes::from),
        };
        let _ = running.raft.propose_conf_change(change);
        self.wake(leader);
    }

    /// Everything works from now on.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.trap.clear();
        self.cuts = Cuts::default();
        self.loss = 0.0;
        self.plan.loss = 0.0;
        let ids: Vec<_> = self.seats.keys().copied().collect();
        for id in ids {
            let seat = self.seats.get_mut(&id).expect("it was listed");
            seat.slow_until = Duration::ZERO;
            seat.busy_until = seat.busy_until.min(self.now);
            seat.disk.fail_never();
            seat.turn_at = None;
            self.wake(id);
            self.after(Duration::from_secs(1), Event::Restart(id));
        }
    }
}
