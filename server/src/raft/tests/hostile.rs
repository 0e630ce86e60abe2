//! Messages no correct member sends: they are refused, and nothing panics.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;

fn random_message(rng: &mut StdRng, last: u64, term: u64) -> Message {
    let near = |rng: &mut StdRng, value: u64| match rng.random_range(0..6) {
        0 => 0,
        1 => rng.random_range(0..=value + 3),
        2 => u64::MAX - rng.random_range(0..3),
        3 => rng.random(),
        _ => value,
    };
    let entries = (0..rng.random_range(0..4))
        .map(|n| Entry {
            term: Some(near(rng, term)),
            index: Some(if rng.random_bool(0.7) { last + 1 + n } else { near(rng, last) }),
            r#type: Some(if rng.random_bool(0.8) { 0 } else { rng.random_range(-1..4) }),
            data: rng.random_bool(0.5).then(|| Bytes::from_static(b"\x08\x01\x10\x03\x18\x09")),
        })
        .collect();
    let ids = |rng: &mut StdRng| (0..rng.random_range(0..4)).map(|_| rng.random_range(0..5)).collect::<Vec<u64>>();
    let conf_state = ConfState { voters: ids(rng), learners: ids(rng), ..ConfState::default() };
    let snapshot = Snapshot {
        data: Some(encode_state(&[])),
        metadata: Some(forebay_proto::raftpb::SnapshotMetadata {
            conf_state: rng.random_bool(0.9).then_some(conf_state),
            index: Some(near(rng, last + 5)),
            term: Some(near(rng, term)),
        }),
    };
    Message {
        r#type: Some(rng.random_range(-1..25)),
        to: Some(1),
        from: Some(rng.random_range(0..5)),
        // Terms beyond any real one are tried, but rarely: they would outlive the rest of the run.
        term: Some(if rng.random_bool(0.02) { near(rng, term) } else { term + rng.random_range(0..2) }),
        log_term: Some(near(rng, term)),
        index: Some(near(rng, last)),
        entries,
        commit: Some(near(rng, last)),
        vote: None,
        snapshot: rng.random_bool(0.5).then_some(snapshot),
        reject: Some(rng.random_bool(0.3)),
        reject_hint: Some(near(rng, last)),
        context: rng.random_bool(0.3).then(|| Bytes::from_static(b"CampaignTransfer")),
        responses: Vec::new(),
    }
}

#[test]
fn no_message_makes_a_member_panic() {
    for seed in 0..400 {
        let outcome = std::panic::catch_unwind(|| {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut cluster = Cluster::new(&[1, 2, 3], seed);
            cluster.elect();
            for value in 0..rng.random_range(0..10) {
                let leader = cluster.member(1).node.leader();
                let _ = cluster.propose(leader, &value.to_string());
            }
            let member = cluster.member(1);
            for _ in 0..200 {
                let last = member.applied_index;
                let message = random_message(&mut rng, last, member.node.term());
                let _ = member.node.step(message);
                if rng.random_bool(0.2) {
                    member.node.tick();
                }
                // A forged log may contradict what was applied; what counts is that the member notices by itself.
                work_leniently(member);
            }
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}

/// As [`Member::work`], but forged entries need not make sense.
fn work_leniently(member: &mut Member) {
    while let Some(mut ready) = member.node.ready() {
        if let Some(snapshot) = ready.snapshot.take() {
            member.applied_index = snapshot.metadata.unwrap().index();
        }
        for entry in member.node.persisted(ready).apply {
            if let Some(change) = entry.data.clone().filter(|_| entry.r#type() == EntryType::EntryConfChange) {
                // A state machine would not accept these.
                let _ = ConfChange::decode(change).unwrap();
            }
            member.applied_index = entry.index();
            member.node.applied(entry.index());
        }
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    let mut cluster = Cluster::new(&[1, 2, 3], 1);
    let leader = cluster.elect();
    let (id, term) = (leader % 3 + 1, cluster.members[&leader].node.term());
    let base = Message { from: Some(leader), to: Some(id), term: Some(term), ..Message::default() };
    let mut refuse = |message: Message, expected: &str| {
        let Err(Rejected::Message(reason)) = cluster.member(id).node.step(message) else { panic!("not refused") };
        assert!(reason.contains(expected), "{reason}");
    };
    let kind = |kind: MessageType| Some(kind as i32);
    refuse(Message { r#type: kind(MessageType::MsgHeartbeat), commit: Some(99), ..base.clone() }, "beyond this log");
    refuse(Message { r#type: kind(MessageType::MsgReadIndex), term: Some(0), ..base.clone() }, "not one context");
    refuse(Message { r#type: kind(MessageType::MsgHup), ..base.clone() }, "never travels");
    refuse(Message { r#type: kind(MessageType::MsgProp), term: Some(0), ..base.clone() }, "no entries");
    refuse(Message { r#type: kind(MessageType::MsgVote), term: Some(0), ..base.clone() }, "its term");
    refuse(Message { r#type: kind(MessageType::MsgApp), index: Some(9), ..base.clone() }, "its predecessor");
    refuse(Message { r#type: kind(MessageType::MsgSnap), ..base.clone() }, "its metadata");
    refuse(Message { from: Some(0), r#type: kind(MessageType::MsgHeartbeat), ..base.clone() }, "no other member");
    refuse(Message { r#type: Some(23), ..base }, "message type 23");

    // What a follower has matters to the leader alone.
    let answer =
        Message { r#type: kind(MessageType::MsgAppResp), index: Some(99), term: Some(term), ..Message::default() };
    let answer = Message { from: Some(id), to: Some(leader), ..answer };
    let refused = cluster.member(leader).node.step(answer.clone()).unwrap_err();
    assert!(refused.to_string().contains("an index beyond this log"), "{refused}");
    let other = 6 - id - leader;
    cluster.member(other).node.step(Message { to: Some(other), ..answer }).unwrap();
}
