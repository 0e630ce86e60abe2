//! Lies planted into honest histories, one at a time.

use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::{WatchResponse, request_op::Request::RequestRange, response_op::Response},
    mvccpb::Event,
};
use rand::{SeedableRng as _, rngs::StdRng, seq::IteratorRandom as _};

use super::{
    super::{
        Answer, History, Kind, Outcome, Received, Refusal, Request,
        answers::{header, tells_change},
        check,
    },
    honest::{self, Fault, set_header},
};

/// Changes a history so that it must break this promise; nothing if the history has no place for it.
type Plant = fn(&mut History, &mut StdRng) -> Option<()>;

/// Plants into many histories: every one that was planted into is found out, and for the right reason.
fn is_found(plant: Plant, kind: Kind) {
    is_found_as(plant, &[kind]);
}

/// The same where the reason may be one of several.
fn is_found_as(plant: Plant, kinds: &[Kind]) {
    let mut planted = 0;
    for seed in 0..40 {
        let mut history = honest::history(seed, 400, Fault::None);
        if plant(&mut history, &mut StdRng::seed_from_u64(seed)).is_none() {
            continue;
        }
        planted += 1;
        let report = check(&history);
        let found = report.violations.iter().any(|violation| kinds.contains(&violation.kind));
        assert!(found, "seed {seed}: {kinds:?} was planted, found: {}", report.summary());
    }
    assert!(planted >= 15, "planted only {planted} times");
}

fn answered(history: &History) -> impl Iterator<Item = (usize, u64, &Response)> {
    history.operations.iter().enumerate().filter_map(|(index, operation)| match &operation.outcome {
        Outcome::Answered { at, answer: Answer::Kv(response) } => Some((index, *at, response)),
        _ => None,
    })
}

fn response_mut(history: &mut History, index: usize) -> &mut Response {
    match &mut history.operations[index].outcome {
        Outcome::Answered { answer: Answer::Kv(response), .. } => response,
        outcome => panic!("operation {index} was chosen as answered, and is {outcome:?}"),
    }
}

fn revision(response: &Response) -> i64 {
    header(response).expect("an answer has a header").revision
}

fn is_linearizable_read(history: &History, index: usize) -> bool {
    matches!(&history.operations[index].request, Request::Kv(RequestRange(range)) if !range.serializable)
}

/// Messages with events, of watches, by their places.
fn with_events(history: &History, test: impl Fn(&[Event]) -> bool) -> Vec<(usize, usize)> {
    let all = history.watches.iter().enumerate().flat_map(|(watch, w)| (0..w.messages.len()).map(move |m| (watch, m)));
    all.filter(|(watch, message)| {
        let events = &history.watches[*watch].messages[*message].response.events;
        let base = history.base.revision;
        !events.is_empty() && mod_revision(&events[0]) > base && test(events)
    })
    .collect()
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().expect("an event has a key").mod_revision
}

#[test]
fn a_read_of_the_past_is_stale() {
    is_found(
        |history, rng| {
            let (index, before) = answered(history)
                .filter(|(index, ..)| is_linearizable_read(history, *index))
                .filter_map(|(index, ..)| {
                    let called = history.operations[index].called;
                    let seen = answered(history).filter(|(_, at, _)| *at < called).map(|(.., r)| revision(r)).max()?;
                    (seen > history.base.revision).then_some((index, seen))
                })
                .choose(rng)?;
            set_header(response_mut(history, index), before - 1);
            Some(())
        },
        Kind::Stale,
    );
}

#[test]
fn a_value_that_was_never_written_is_a_wrong_answer() {
    is_found(
        |history, rng| {
            let has_value = |r: &Response| matches!(r, Response::ResponseRange(r) if !r.kvs.is_empty());
            let (index, ..) = answered(history).filter(|(.., response)| has_value(response)).choose(rng)?;
            let Response::ResponseRange(response) = response_mut(history, index) else { return None };
            response.kvs[0].value = Bytes::from("never written");
            Some(())
        },
        Kind::WrongAnswer,
    );
}

#[test]
fn a_count_and_a_branch_can_be_wrong() {
    is_found(
        |history, rng| {
            let is_range = |r: &Response| matches!(r, Response::ResponseRange(_));
            let (index, ..) = answered(history).filter(|(.., response)| is_range(response)).choose(rng)?;
            let Response::ResponseRange(response) = response_mut(history, index) else { return None };
            response.count += 1;
            Some(())
        },
        Kind::WrongAnswer,
    );
    is_found(
        |history, rng| {
            let is_txn = |r: &Response| matches!(r, Response::ResponseTxn(_));
            let (index, ..) = answered(history).filter(|(.., response)| is_txn(response)).choose(rng)?;
            let Response::ResponseTxn(response) = response_mut(history, index) else { return None };
            response.succeeded = !response.succeeded;
            Some(())
        },
        Kind::WrongAnswer,
    );
}

#[test]
fn a_previous_value_can_be_wrong() {
    is_found(
        |history, rng| {
            let has_previous = |r: &Response| matches!(r, Response::ResponsePut(r) if r.prev_kv.is_some());
            let (index, ..) = answered(history).filter(|(.., response)| has_previous(response)).choose(rng)?;
            let Response::ResponsePut(response) = response_mut(history, index) else { return None };
            response.prev_kv = None;
            Some(())
        },
        Kind::WrongAnswer,
    );
}

#[test]
fn two_writes_cannot_share_a_revision() {
    is_found(
        |history, rng| {
            let writes = answered(history).filter(|(.., response)| tells_change(response));
            let chosen: Vec<usize> = writes.map(|(index, ..)| index).choose_multiple(rng, 2);
            let [a, b] = chosen[..] else { return None };
            let taken = revision(response_mut(history, a));
            set_header(response_mut(history, b), taken);
            Some(())
        },
        Kind::SharedRevision,
    );
}

#[test]
fn what_was_refused_must_not_have_happened() {
    is_found(
        |history, rng| {
            // A put: its value is nobody else's, where a delete could be another's.
            let puts = answered(history).filter(|(.., response)| matches!(response, Response::ResponsePut(_)));
            let (index, at, _) = puts.choose(rng)?;
            history.operations[index].outcome = Outcome::Refused { at, refusal: Refusal::Other };
            Some(())
        },
        Kind::Unwritten,
    );
}

#[test]
fn nothing_is_seen_before_it_is_sent() {
    is_found(
        |history, rng| {
            let (index, at) = answered(history)
                .filter(|(.., response)| tells_change(response))
                .filter_map(|(index, own, response)| {
                    let written = revision(response);
                    let seen = answered(history).filter(|(.., r)| revision(r) > written).map(|(_, at, _)| at).min()?;
                    (seen < own).then_some((index, seen))
                })
                .choose(rng)?;
            history.operations[index].called = at + 1;
            Some(())
        },
        Kind::Premature,
    );
}

#[test]
fn a_refusal_needs_a_cause() {
    is_found(
        |history, rng| {
            let of_revision = |index: &usize| match &history.operations[*index].request {
                Request::Kv(RequestRange(range)) => range.revision >= history.base.revision,
                _ => false,
            };
            let reads = answered(history).filter(|(index, ..)| is_linearizable_read(history, *index));
            let (index, at, _) = reads.filter(|(index, ..)| of_revision(index)).choose(rng)?;
            for operation in &mut history.operations {
                if matches!(operation.request, Request::Compact(_)) {
                    operation.outcome = Outcome::Refused { at: 0, refusal: Refusal::Other };
                }
            }
            history.operations[index].outcome = Outcome::Refused { at, refusal: Refusal::Compacted };
            Some(())
        },
        Kind::WrongRefusal,
    );
}

#[test]
fn an_event_that_is_left_out_is_lost() {
    is_found_as(
        |history, rng| {
            let (watch, message) = with_events(history, |_| true).into_iter().choose(rng)?;
            history.watches[watch].messages[message].response.events.remove(0);
            if history.watches[watch].messages[message].response.events.is_empty() {
                history.watches[watch].messages.remove(message);
            }
            Some(())
        },
        &[Kind::Lost, Kind::FalseProgress],
    );
}

#[test]
fn a_watch_that_stops_coming_has_lost_something() {
    is_found(
        |history, rng| {
            let (watch, message) = with_events(history, |_| true).into_iter().choose(rng)?;
            history.watches[watch].messages.truncate(message);
            Some(())
        },
        Kind::Lost,
    );
}

#[test]
fn a_message_that_comes_twice_or_late_is_disordered() {
    is_found(
        |history, rng| {
            let (watch, message) = with_events(history, |_| true).into_iter().choose(rng)?;
            let again = history.watches[watch].messages[message].clone();
            history.watches[watch].messages.insert(message + 1, again);
            Some(())
        },
        Kind::Disordered,
    );
    is_found(
        |history, rng| {
            let all = with_events(history, |_| true);
            let (watch, message) =
                all.iter().copied().filter(|(watch, message)| all.contains(&(*watch, message + 1))).choose(rng)?;
            history.watches[watch].messages.swap(message, message + 1);
            Some(())
        },
        Kind::Disordered,
    );
}

#[test]
fn a_revision_in_two_messages_is_torn() {
    is_found(
        |history, rng| {
            let shares = |e: &[Event]| e.len() > 1 && mod_revision(&e[e.len() - 1]) == mod_revision(&e[e.len() - 2]);
            let (watch, message) = with_events(history, shares).into_iter().choose(rng)?;
            let messages = &mut history.watches[watch].messages;
            let mut rest = messages[message].clone();
            let last = messages[message].response.events.pop()?;
            rest.response.events = vec![last];
            messages.insert(message + 1, rest);
            Some(())
        },
        Kind::Torn,
    );
}

#[test]
fn progress_before_the_events_is_false() {
    is_found(
        |history, rng| {
            let (watch, message) = with_events(history, |_| true).into_iter().choose(rng)?;
            let messages = &mut history.watches[watch].messages;
            let mut header = messages[message].response.header?;
            header.revision = mod_revision(&messages[message].response.events[0]);
            let response = WatchResponse { header: Some(header), ..Default::default() };
            let at = messages[message].at;
            messages.insert(message, Received { at, response });
            Some(())
        },
        Kind::FalseProgress,
    );
}

#[test]
fn an_event_that_did_not_happen_so_is_wrong() {
    is_found(
        |history, rng| {
            let (watch, message) = with_events(history, |_| true).into_iter().choose(rng)?;
            let event = &mut history.watches[watch].messages[message].response.events[0];
            event.kv.as_mut()?.value = Bytes::from("never written");
            Some(())
        },
        Kind::WrongEvent,
    );
}

#[test]
fn an_end_as_compacted_needs_a_compaction() {
    is_found(
        |history, rng| {
            let (watch, message) = with_events(history, |_| true).into_iter().choose(rng)?;
            let compact_revision = history.watches[watch].settled + 1;
            let messages = &mut history.watches[watch].messages;
            messages.truncate(message);
            let header = messages[0].response.header;
            let response = WatchResponse { header, canceled: true, compact_revision, ..Default::default() };
            let at = messages[message - 1].at;
            messages.push(Received { at, response });
            Some(())
        },
        Kind::WrongCancel,
    );
}
