//! Clusters on a network that drops, repeats and reorders, with members that crash.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

/// What must hold at every moment, whatever happened.
#[derive(Default)]
struct Judge {
    /// What was applied at each index, by whoever was first.
    applied: BTreeMap<u64, Bytes>,
    /// Who led in each term.
    leaders: HashMap<u64, u64>,
    /// Highest commit index any member ever reported.
    commit: u64,
    /// Reads that were asked for, with what had been applied, hence acknowledged, somewhere by then.
    reads: HashMap<u64, u64>,
    reads_answered: usize,
}

impl Judge {
    fn look(&mut self, cluster: &mut Cluster, seed: u64) {
        for (id, member) in &mut cluster.members {
            for (context, index) in member.reads.drain(..) {
                let floor = self.reads[&context];
                assert!(index >= floor, "seed {seed}: a read at {index} misses what was acknowledged at {floor}");
                self.reads_answered += 1;
            }
            for (index, data) in member.applied.iter().rev().take(8) {
                let first = self.applied.entry(*index).or_insert_with(|| data.clone());
                assert_eq!(first, data, "seed {seed}: two members applied different entries at {index}");
            }
            if member.leads() {
                let leader = *self.leaders.entry(member.node.term()).or_insert(*id);
                assert_eq!(leader, *id, "seed {seed}: two leaders in term {}", member.node.term());
            }
            self.commit = self.commit.max(member.node.commit());
        }
    }
}

/// One run: `steps` random events, then a working network must bring everybody to the same state.
fn run(seed: u64, steps: usize) -> (usize, u64, usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    let ids: &[u64] = if rng.random_bool(0.5) { &[1, 2, 3] } else { &[1, 2, 3, 4, 5] };
    let mut cluster = Cluster::new(ids, seed);
    let mut judge = Judge::default();
    let (loss, repeat) = (rng.random_range(0.0..0.3), rng.random_range(0.0..0.2));
    let compacts = rng.random_bool(0.5);
    let mut cut_off: Option<u64> = None;
    for step in 0..steps {
        let id = ids[rng.random_range(0..ids.len())];
        match rng.random_range(0..100) {
            0..28 => {
                cluster.member(id).node.tick();
                cluster.work(id);
            }
            32..85 if !cluster.network.is_empty() => {
                let at = rng.random_range(0..cluster.network.len().min(20));
                let message = cluster.network.remove(at);
                let ends = [message.from(), message.to()];
                if rng.random_bool(repeat) && message.r#type() != MessageType::MsgSnap {
                    cluster.network.push(message.clone());
                }
                let lost = rng.random_bool(loss) || cut_off.is_some_and(|id| ends.contains(&id));
                if !lost {
                    cluster.deliver(message);
                } else if message.r#type() == MessageType::MsgSnap {
                    cluster.member(ends[0]).node.snapshot_sent(ends[1], false);
                    cluster.work(ends[0]);
                }
            }
            85..93 => {
                // Dropped for want of a leader, or lost on the way: both are allowed.
                let batch: Vec<_> = (0..rng.random_range(1..4)).map(|n| Bytes::from(format!("{step}.{n}"))).collect();
                let _ = cluster.member(id).node.propose(batch);
                cluster.work(id);
            }
            93..95 => {
                let keep = rng.random_range(0..100);
                cluster.member(id).restart(seed ^ step as u64, keep);
                cluster.work(id);
            }
            95..96 => cut_off = if cut_off.is_some() { None } else { Some(id) },
            96..97 => {
                cluster.member(id).node.transfer_leader(ids[rng.random_range(0..ids.len())]);
                cluster.work(id);
            }
            97..98 if compacts => {
                let member = cluster.member(id);
                member.node.compact(rng.random_range(0..5), usize::MAX);
            }
            28..32 => {
                let acknowledged = cluster.members.values().map(|member| member.applied_index).max().unwrap();
                judge.reads.insert(step as u64, acknowledged);
                cluster.member(id).node.read_index(step as u64);
                cluster.work(id);
            }
            98..99 => {
                // Whether it is or not.
                cluster.member(id).node.gone(ids[rng.random_range(0..ids.len())]);
                cluster.work(id);
            }
            _ => {
                cluster.member(id).node.unreachable(ids[rng.random_range(0..ids.len())]);
                cluster.work(id);
            }
        }
        judge.look(&mut cluster, seed);
    }
    // What is still under way arrives late, then the network works.
    cluster.settle();
    judge.look(&mut cluster, seed);
    let mut leader = cluster.elect();
    let mut tries = 0;
    // A transfer asked for last may be under way; it ends within an election timeout, one way or the other.
    while cluster.propose(leader, "healed").is_err() {
        tries += 1;
        assert!(tries < 5 * ELECTION_TICKS, "seed {seed}: the leader takes no proposals");
        leader = cluster.elect();
    }
    for _ in 0..5 * ELECTION_TICKS {
        cluster.tick_all();
    }
    judge.look(&mut cluster, seed);
    let expected = cluster.members[&leader].applied.clone();
    assert!(expected.iter().any(|(_, data)| data == "healed"), "seed {seed}: no progress");
    for (id, member) in &cluster.members {
        assert!(member.applied == expected, "seed {seed}: member {id} differs from the leader after healing");
        assert!(member.applied_index >= judge.commit, "seed {seed}: a committed entry was lost");
    }
    (expected.len(), cluster.members[&leader].node.term(), judge.reads_answered)
}

#[test]
fn members_agree_whatever_the_network_and_the_crashes_do() {
    let (mut entries, mut terms, mut reads) = (0, 0, 0);
    for seed in 0..120 {
        let (applied, term, answered) = run(seed, 1500);
        entries += applied;
        terms += term;
        reads += answered;
    }
    // The runs must not be so hostile, or so tame, that they prove nothing.
    assert!(entries > 120 * 20, "{entries} entries were applied");
    assert!(terms > 120 * 2, "leaders changed up to term {terms} in all");
    assert!(reads > 120 * 2, "{reads} reads were answered");
}

#[test]
fn a_run_is_decided_by_its_seed() {
    assert_eq!(run(4711, 2000), run(4711, 2000));
}
