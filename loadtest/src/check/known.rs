//! What a history says about revisions before anything is replayed.

use std::collections::{BTreeMap, HashMap};

use forebay_proto::{
    KeyRange,
    mvccpb::{Event, KeyValue, event::EventType},
};

use super::{
    Kind, Report,
    answers::{header, keys_of, tells_change},
    history::{Answer, History, Outcome, Request, Time},
    watches::{passes, reach},
};

/// See the module.
pub struct Known {
    /// The last revision that anybody saw.
    pub last: i64,
    /// Answered writes by revision.
    pub written: BTreeMap<i64, usize>,
    /// Answers that changed nothing, by the revision that they were given at.
    pub read: HashMap<i64, Vec<usize>>,
    /// Operations that may have happened at any time, or never.
    pub unanswered: Vec<usize>,
    /// Keys that somebody saw as they became at a revision which no answered write has.
    pub sightings: HashMap<i64, Vec<KeyValue>>,
    /// By the history's order.
    pub watched: Vec<Watched>,
    /// When a revision, or a later one, was first seen by anybody; from the one after the base.
    pub seen: Vec<Seen>,
}

/// When something was seen, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// When.
    pub at: Time,
    /// By whom; nobody, of a revision that nobody saw.
    pub by: Witness,
}

/// Who can see a revision, by their places in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// An operation.
    Operation(usize),
    /// A watch.
    Watch(usize),
    /// Nobody.
    Nobody,
}

/// What a watch was told.
pub struct Watched {
    /// Of which keys.
    pub range: KeyRange,
    /// The first revision that it speaks for.
    pub first: i64,
    /// The last one.
    pub last: i64,
    /// Its events by revision.
    pub events: HashMap<i64, Vec<Event>>,
}

impl Known {
    /// Reads all of it.
    pub fn gather(history: &History, report: &mut Report) -> Known {
        let base = history.base.revision;
        let mut known = Known {
            last: base,
            written: BTreeMap::new(),
            read: HashMap::new(),
            unanswered: Vec::new(),
            sightings: HashMap::new(),
            watched: Vec::new(),
            seen: Vec::new(),
        };
        let mut first_seen: HashMap<i64, Seen> = HashMap::new();
        let mut saw = |revision: i64, at: Time, by: Witness| {
            let seen = Seen { at, by };
            let first = first_seen.entry(revision).or_insert(seen);
            *first = seen.min(*first);
        };
        for (index, operation) in history.operations.iter().enumerate() {
            match (&operation.request, &operation.outcome) {
                (Request::Kv(_), Outcome::Answered { at, answer: Answer::Kv(response) }) => {
                    let Some(revision) = header(response).map(|header| header.revision).filter(|at| *at > 0) else {
                        report.add(Kind::NoHeader, format!("operation {index} was answered without a revision"));
                        continue;
                    };
                    saw(revision, *at, Witness::Operation(index));
                    if revision < base {
                        report.uncompared += 1;
                    }
                    if !tells_change(response) {
                        known.read.entry(revision).or_default().push(index);
                    } else if let Some(other) = known.written.insert(revision, index) {
                        let text = format!("operations {other} and {index} are both told that they are {revision}");
                        report.add(Kind::SharedRevision, text);
                    }
                }
                (Request::Kv(_) | Request::Revoke(_), Outcome::Unknown) => known.unanswered.push(index),
                // The header of its answer is not its own revision, if it has one.
                (Request::Revoke(_), Outcome::Answered { .. }) => known.unanswered.push(index),
                _ => {}
            }
        }
        for (index, watch) in history.watches.iter().enumerate() {
            let mut events: HashMap<i64, Vec<Event>> = HashMap::new();
            for message in &watch.messages {
                let revision = message.response.header.map_or(0, |header| header.revision);
                if revision > 0 {
                    saw(revision, message.at, Witness::Watch(index));
                }
                for event in &message.response.events {
                    let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                    saw(revision, message.at, Witness::Watch(index));
                    events.entry(revision).or_default().push(event.clone());
                }
            }
            let range = KeyRange::new(watch.request.key.clone(), watch.request.range_end.clone());
            let (first, last) = reach(watch).unwrap_or((1, 0));
            known.watched.push(Watched { range, first, last, events });
        }
        known.last = first_seen.keys().copied().fold(base, i64::max);
        let mut earliest = Seen { at: Time::MAX, by: Witness::Nobody };
        known.seen = (base + 1..=known.last)
            .rev()
            .map(|revision| {
                earliest = first_seen.get(&revision).map_or(earliest, |seen| earliest.min(*seen));
                earliest
            })
            .collect();
        known.seen.reverse();
        known.gather_sightings(history);
        known
    }

    fn gather_sightings(&mut self, history: &History) {
        let mut kvs = Vec::new();
        for operation in &history.operations {
            if let (Request::Kv(request), Outcome::Answered { answer: Answer::Kv(response), .. }) =
                (&operation.request, &operation.outcome)
            {
                keys_of(request, response, &mut kvs);
            }
        }
        for event in self.watched.iter().flat_map(|watched| watched.events.values().flatten()) {
            kvs.extend(event.kv.clone().filter(|_| event.r#type == EventType::Put as i32));
            kvs.extend(event.prev_kv.clone());
        }
        for kv in kvs {
            let revision = kv.mod_revision;
            if revision > history.base.revision && !self.written.contains_key(&revision) {
                let sightings = self.sightings.entry(revision).or_default();
                if !sightings.contains(&kv) {
                    sightings.push(kv);
                }
            }
        }
    }

    /// Whether what happened at a revision is what every watch saw that speaks for it.
    pub fn fits_watches(&self, history: &History, revision: i64, events: &[Event]) -> bool {
        history.watches.iter().zip(&self.watched).all(|(watch, watched)| {
            if !(watched.first..=watched.last).contains(&revision) {
                return true;
            }
            let mut expected = events.iter().filter(|event| passes(&watch.request, &watched.range, event));
            let got = watched.events.get(&revision).map_or(&[][..], Vec::as_slice);
            let fits = |expected: &Event, got: &Event| {
                expected.kv == got.kv && (got.prev_kv.is_none() || expected.prev_kv == got.prev_kv)
            };
            let mut got = got.iter();
            expected.all(|event| got.next().is_some_and(|got| fits(event, got))) && got.next().is_none()
        })
    }
}
