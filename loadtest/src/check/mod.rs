//! Whether what clients saw can have happened: linearizability, and what a watch promises.
//!
//! A [`History`] is what was asked and answered, with times, and nothing else: it may have been recorded over a
//! network, in a simulation, or written by hand. [`check`] needs no search for an order, because etcd gives every write
//! a revision of its own and every answer the revision that it was read at. What it asks is
//! - whether the answered writes, replayed in the order of their revisions, answer what was answered ([`timeline`]):
//!   values, versions, previous values, branches of txns, counts, and each read at the revision in its header;
//! - whether that order is one that the clients can believe: nothing is older than what was answered before it was
//!   asked, or younger than the question that caused it ([`realtime`]);
//! - whether each watch got every event, once, in order, whole revisions at a time, and no progress beyond what it had
//!   ([`watches`]).
//!
//! A write that nobody answered may have happened, once, at any time after it was sent. A revision that no answered
//! write has must be one of those, and where several could be it, one is sought with which everything else fits.

mod answers;
mod history;
mod known;
mod model;
mod realtime;
mod timeline;
mod watches;

#[cfg(test)]
mod tests;

use std::fmt;

use forebay_proto::etcdserverpb::response_op;

use self::timeline::Timeline;
pub use self::{
    history::{Answer, Base, History, Operation, Outcome, Received, Refusal, Request, Time, Watch},
    model::{Model, Past},
};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations whose answers were compared with what they must have been.
    pub operations: usize,
    /// Writes that nobody answered, and that were found to have happened.
    pub placed: usize,
    /// Operations that could not be compared: they read before the history begins, or sort by what is not unique.
    pub uncompared: usize,
    /// Events that watches were found to have got rightly.
    pub events: usize,
    /// What cannot have happened. Empty if all is well.
    pub violations: Vec<Violation>,
}

/// Something that cannot have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise is broken.
    pub kind: Kind,
    /// The whole story in a sentence: operations and watches by their place in the history.
    pub text: String,
}

/// The promises that can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Two writes have one revision.
    SharedRevision,
    /// A revision that nobody wrote.
    Unwritten,
    /// An answer is not what the operation gives at its revision.
    WrongAnswer,
    /// Something is older than what was answered before it was asked.
    Stale,
    /// Something was seen before it was asked for.
    Premature,
    /// A refusal that had no cause.
    WrongRefusal,
    /// An answer has no header, or one from before the history.
    NoHeader,
    /// A watch went back, or repeated a revision.
    Disordered,
    /// A watch was not told of an event that it asked for.
    Lost,
    /// A watch was told of something that did not happen so.
    WrongEvent,
    /// A watch was told of parts of a revision apart.
    Torn,
    /// A watch was told that it had everything up to a revision, and had not.
    FalseProgress,
    /// A watch was ended as compacted, and nothing was.
    WrongCancel,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

/// More are not reported: one is enough, and the rest mostly follow from it.
const VIOLATIONS: usize = 20;

impl Report {
    fn add(&mut self, kind: Kind, text: String) {
        if self.violations.len() < VIOLATIONS {
            self.violations.push(Violation { kind, text });
        }
    }

    /// One line, or one for each violation.
    pub fn summary(&self) -> String {
        let Report { operations, placed, uncompared, events, violations } = self;
        let mut text = format!(
            "{operations} operations and {events} events checked, {placed} unanswered writes found, {uncompared} not comparable: "
        );
        match violations.len() {
            0 => text += "no violation",
            found => {
                text += &format!("{found} violations");
                for violation in violations {
                    text += &format!("\n  {violation}");
                }
            }
        }
        text
    }
}

/// The revision in the header of an answer.
pub fn revision_of(response: &response_op::Response) -> Option<i64> {
    answers::header(response).map(|header| header.revision)
}

/// Checks a history.
pub fn check(history: &History) -> Report {
    let mut report = Report::default();
    let timeline = Timeline::build(history, &mut report);
    realtime::check(history, &timeline, &mut report);
    watches::check(history, &timeline, &mut report);
    report
}
