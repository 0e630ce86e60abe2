//! Clusters on a network that works.

use super::*;

fn values(cluster: &Cluster, id: u64) -> Vec<Bytes> {
    cluster.members[&id].values()
}

fn change(kind: ConfChangeType, node_id: u64) -> ConfChange {
    ConfChange { id: Some(1), r#type: Some(kind as i32), node_id: Some(node_id), context: None }
}

fn propose_change(cluster: &mut Cluster, leader: u64, kind: ConfChangeType, id: u64) {
    cluster.member(leader).node.propose_conf_change(&change(kind, id)).unwrap();
    cluster.settle();
}

#[test]
fn a_cluster_of_one_leads_at_once_and_answers_reads_at_once() {
    let mut cluster = Cluster::new(&[1], 0);
    assert_eq!(cluster.propose(1, "too early"), Err(Rejected::ProposalDropped));
    cluster.member(1).node.campaign();
    cluster.settle();
    cluster.propose(1, "a").unwrap();
    assert_eq!(values(&cluster, 1), ["a"]);
    let member = cluster.member(1);
    assert!(member.node.is_settled_leader() && member.node.is_only_voter());
    member.node.read_index(7);
    cluster.settle();
    assert_eq!(cluster.member(1).reads, [(7, 2)]);
}

#[test]
fn one_batch_is_one_append_and_keeps_its_order() {
    let mut cluster = Cluster::new(&[1], 0);
    cluster.member(1).node.campaign();
    cluster.settle();
    let member = cluster.member(1);
    member.node.propose((0..100u8).map(|value| Bytes::copy_from_slice(&[value]))).unwrap();
    let ready = member.node.ready().unwrap();
    assert_eq!(ready.entries.len(), 100);
    assert!(ready.sync);
    let persisted = member.node.persisted(ready);
    let applied: Vec<_> = persisted.apply.iter().map(|entry| entry.data.clone().unwrap()[0]).collect();
    assert_eq!(applied, (0..100).collect::<Vec<_>>());
}

#[test]
fn what_the_leader_commits_all_members_apply() {
    let mut cluster = Cluster::new(&[1, 2, 3], 5);
    let leader = cluster.elect();
    for value in ["a", "b", "c"] {
        cluster.propose(leader, value).unwrap();
    }
    cluster.tick_all();
    for id in [1, 2, 3] {
        assert_eq!(values(&cluster, id), ["a", "b", "c"]);
        assert_eq!(cluster.members[&id].hard_state.commit(), 4);
    }
}

#[test]
fn a_follower_hands_proposals_and_reads_to_the_leader() {
    let mut cluster = Cluster::new(&[1, 2, 3], 6);
    let leader = cluster.elect();
    let follower = if leader == 1 { 2 } else { 1 };
    cluster.propose(follower, "a").unwrap();
    cluster.tick_all();
    assert_eq!(values(&cluster, follower), ["a"]);
    cluster.member(follower).node.read_index(9);
    cluster.settle();
    assert_eq!(cluster.member(follower).reads, [(9, 2)]);
}

#[test]
fn a_leader_cut_off_confirms_no_reads_and_steps_down() {
    let mut cluster = Cluster::new(&[1, 2, 3], 7);
    let leader = cluster.elect();
    cluster.propose(leader, "a").unwrap();
    cluster.member(leader).node.read_index(1);
    let _lost = cluster.member(leader).work();
    for _ in 0..2 * ELECTION_TICKS {
        cluster.member(leader).node.tick();
        let _lost = cluster.member(leader).work();
    }
    assert_eq!(cluster.member(leader).reads, []);
    assert!(!cluster.member(leader).leads(), "check-quorum");
}

#[test]
fn nobody_waits_an_election_timeout_for_a_leader_that_is_known_to_be_gone() {
    let is_soon = |seed: &u64| {
        let mut cluster = Cluster::new(&[1, 2, 3], *seed);
        let leader = cluster.elect();
        cluster.members.remove(&leader);
        cluster.members.values_mut().for_each(|member| member.node.gone(leader));
        (1..ELECTION_TICKS).any(|_| {
            cluster.tick_all();
            cluster.members.values().any(Member::leads)
        })
    };
    let soon = (0..20).filter(is_soon).count();
    // Here all tick at once, and two that stand in the same moment stand again.
    assert!(soon >= 15, "{soon} of 20");
}

#[test]
fn a_leader_that_is_taken_for_gone_leads_on() {
    for seed in 0..20 {
        let mut cluster = Cluster::new(&[1, 2, 3], seed);
        let leader = cluster.elect();
        let term = cluster.members[&leader].node.term();
        let follower = leader % 3 + 1;
        for _ in 0..3 * ELECTION_TICKS {
            cluster.member(follower).node.gone(leader);
            cluster.tick_all();
        }
        assert!(cluster.members[&leader].leads(), "seed {seed}");
        assert_eq!(cluster.members[&follower].node.term(), term, "seed {seed}");
        assert_eq!(cluster.members[&follower].node.leader(), leader, "seed {seed}");
    }
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut cluster = Cluster::new(&[1, 2, 3], 8);
    let leader = cluster.elect();
    let next = leader % 3 + 1;
    // Asked of another member than the leader, it is passed on.
    let asked = next % 3 + 1;
    cluster.member(asked).node.transfer_leader(next);
    cluster.settle();
    cluster.tick_all();
    assert!(cluster.members[&next].leads(), "{leader} to {next}");
    assert!(!cluster.members[&leader].leads());
}

#[test]
fn a_learner_catches_up_by_a_snapshot_is_promoted_and_removed() {
    let mut cluster = Cluster::new(&[1], 9);
    cluster.member(1).node.campaign();
    cluster.settle();
    for value in 0..50 {
        cluster.propose(1, &format!("v{value}")).unwrap();
    }
    cluster.member(1).node.compact(10, usize::MAX);
    propose_change(&mut cluster, 1, ConfChangeType::ConfChangeAddLearnerNode, 2);
    assert_eq!(cluster.members[&1].conf_state.learners, [2]);

    // A new member knows nobody: the leader's snapshot tells it.
    cluster.members.insert(2, Member::new(2, &[], 9));
    for _ in 0..3 {
        cluster.tick_all();
    }
    assert_eq!(values(&cluster, 2), values(&cluster, 1));
    assert!(cluster.members[&2].base.0 >= 40, "it came by a snapshot");
    assert!(cluster.members[&2].node.is_learner());
    assert!(!cluster.members[&1].node.is_learner());

    propose_change(&mut cluster, 1, ConfChangeType::ConfChangeAddNode, 2);
    cluster.tick_all();
    assert_eq!(cluster.members[&2].conf_state.voters, [1, 2]);
    assert!(!cluster.members[&1].node.is_only_voter());
    cluster.propose(1, "with two").unwrap();
    cluster.tick_all();
    assert_eq!(values(&cluster, 2).last().unwrap(), "with two");

    propose_change(&mut cluster, 1, ConfChangeType::ConfChangeRemoveNode, 2);
    assert_eq!(cluster.members[&1].conf_state.voters, [1]);
    cluster.propose(1, "alone again").unwrap();
    assert_eq!(values(&cluster, 1).last().unwrap(), "alone again");
}

#[test]
fn an_update_of_a_member_changes_no_configuration() {
    let mut cluster = Cluster::new(&[1, 2, 3], 10);
    let leader = cluster.elect();
    for _ in 0..3 {
        propose_change(&mut cluster, leader, ConfChangeType::ConfChangeUpdateNode, 2);
        cluster.tick_all();
    }
    for member in cluster.members.values() {
        assert_eq!((&member.conf_state.voters[..], &member.conf_state.learners[..]), (&[1, 2, 3][..], &[][..]));
        // All three went through: none was left waiting for another.
        assert_eq!(member.applied_index, 4);
        assert_eq!(member.applied.len(), 1);
    }
}

#[test]
fn a_restarted_member_applies_what_its_db_lacks_and_nothing_twice() {
    let mut cluster = Cluster::new(&[1], 11);
    cluster.member(1).node.campaign();
    cluster.settle();
    for value in 0..20 {
        cluster.propose(1, &format!("v{value}")).unwrap();
    }
    let before = values(&cluster, 1);
    for keep in [0, 5, 20, 100] {
        cluster.member(1).restart(keep as u64, keep);
        cluster.settle();
        cluster.member(1).node.campaign();
        cluster.settle();
        assert_eq!(values(&cluster, 1), before);
        assert!(cluster.members[&1].leads());
    }
}

#[test]
fn a_leader_that_removed_itself_bears_the_answers_that_still_come() {
    let mut cluster = Cluster::new(&[1, 2, 3], 5);
    let leader = cluster.elect();
    cluster.propose(leader, "before").unwrap();
    // Answers to these come after the removal is applied.
    cluster.member(leader).node.propose_conf_change(&change(ConfChangeType::ConfChangeRemoveNode, leader)).unwrap();
    cluster.member(leader).node.propose([Bytes::from_static(b"behind")]).unwrap();
    cluster.settle();
    for _ in 0..3 {
        cluster.tick_all();
    }
    let other = 1 + leader % 3;
    assert!(!cluster.members[&other].conf_state.voters.contains(&leader), "the others know of the removal");
}
