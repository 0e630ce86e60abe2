//! Whether the order of revisions is one that whoever asked can believe.

use forebay_proto::etcdserverpb::request_op;

use super::{
    Kind, Report,
    answers::{header, tells_change},
    history::{Answer, History, Outcome, Refusal, Request, Time},
    timeline::Timeline,
};

/// Where something stands in the one order: a write is its revision, a read is behind the write of its own.
fn place(revision: i64, is_write: bool) -> i64 {
    2 * revision + i64::from(!is_write)
}

/// Checks everything that has to do with times.
pub fn check(history: &History, timeline: &Timeline, report: &mut Report) {
    let first_seen = timeline.writers.iter().zip(&timeline.seen).zip(timeline.base + 1..);
    for ((writer, seen), revision) in first_seen {
        if let Some(index) = writer
            && history.operations[*index].called > seen.at
        {
            let by = seen.by;
            let text = format!("{by:?} saw revision {revision} before operation {index}, which wrote it, was sent");
            report.add(Kind::Premature, text);
        }
    }
    let reached = Reached::of(history);
    let compactions = compactions(history);
    for (index, operation) in history.operations.iter().enumerate() {
        let Request::Kv(request) = &operation.request else { continue };
        if is_serializable(request) {
            continue;
        }
        let before = reached.before(operation.called);
        let asked = asked_revision(request);
        match &operation.outcome {
            Outcome::Answered { answer: Answer::Kv(response), .. } => {
                let revision = header(response).map_or(0, |header| header.revision);
                if place(revision, tells_change(response)) < before {
                    let text = format!(
                        "operation {index} was answered at revision {revision}, but sent after revision {} was seen",
                        before / 2
                    );
                    report.add(Kind::Stale, text);
                }
                let compacted = |(to, _, done): &(i64, Time, Time)| *done < operation.called && asked < *to;
                if asked > 0 && compactions.iter().any(compacted) {
                    let text = format!("operation {index} read at revision {asked}, which had been compacted");
                    report.add(Kind::Stale, text);
                }
            }
            Outcome::Refused { at, refusal: Refusal::Compacted }
                // What was compacted before the history begins, nobody knows.
                if history.exclusive
                    && asked >= timeline.base
                    && !compactions.iter().any(|(to, asked_at, _)| asked_at <= at && asked < *to) =>
            {
                let text = format!("operation {index} at revision {asked} was refused as compacted, and it is not");
                report.add(Kind::WrongRefusal, text);
            }
            Outcome::Refused { refusal: Refusal::FutureRevision, .. } if asked <= before / 2 => {
                let text =
                    format!("operation {index} at revision {asked} was refused as future, but that had been seen");
                report.add(Kind::WrongRefusal, text);
            }
            _ => {}
        }
    }
}

/// Compactions that may have happened: to which revision, when they were asked for, when they were done.
pub fn compactions(history: &History) -> Vec<(i64, Time, Time)> {
    let compaction = |operation: &super::Operation| match (&operation.request, &operation.outcome) {
        (Request::Compact(to), Outcome::Answered { at, .. }) => Some((*to, operation.called, *at)),
        (Request::Compact(to), Outcome::Unknown) => Some((*to, operation.called, Time::MAX)),
        _ => None,
    };
    history.operations.iter().filter_map(compaction).collect()
}

/// How far it was known, by anybody, that the store had come.
struct Reached {
    base: i64,
    /// Times, ascending, and the highest place that was known then.
    known: Vec<(Time, i64)>,
}

impl Reached {
    fn of(history: &History) -> Reached {
        let mut known: Vec<(Time, i64)> = Vec::new();
        for operation in &history.operations {
            if let Outcome::Answered { at, answer: Answer::Kv(response) } = &operation.outcome {
                let revision = header(response).map_or(0, |header| header.revision);
                known.push((*at, place(revision, tells_change(response))));
            }
        }
        let messages = history.watches.iter().flat_map(|watch| &watch.messages);
        known.extend(messages.map(|message| {
            let events = message.response.events.iter().filter_map(|event| event.kv.as_ref());
            let revision = events.map(|kv| kv.mod_revision).max().unwrap_or_default();
            (message.at, place(revision.max(message.response.header.map_or(0, |header| header.revision)), true))
        }));
        known.sort_unstable();
        let base = place(history.base.revision, false);
        let mut highest = base;
        for (_, place) in &mut known {
            highest = highest.max(*place);
            *place = highest;
        }
        Reached { base, known }
    }

    /// What was known strictly before.
    fn before(&self, time: Time) -> i64 {
        let until = self.known.partition_point(|(at, _)| *at < time);
        self.known[..until].last().map_or(self.base, |(_, place)| *place)
    }
}

/// Whether a request takes what the member has. A txn of reads does if all of its ranges do.
fn is_serializable(request: &request_op::Request) -> bool {
    match request {
        request_op::Request::RequestRange(range) => range.serializable,
        request_op::Request::RequestTxn(txn) => {
            let ops = txn.success.iter().chain(&txn.failure);
            ops.filter_map(|op| op.request.as_ref()).all(is_serializable)
        }
        _ => false,
    }
}

/// The revision that a read asks for by name; the lowest of those of a txn. 0 if it does not.
fn asked_revision(request: &request_op::Request) -> i64 {
    match request {
        request_op::Request::RequestRange(range) => range.revision,
        request_op::Request::RequestTxn(txn) => {
            let ops = txn.success.iter().chain(&txn.failure);
            let asked = ops.filter_map(|op| op.request.as_ref()).map(asked_revision);
            asked.filter(|revision| *revision > 0).min().unwrap_or_default()
        }
        _ => 0,
    }
}
