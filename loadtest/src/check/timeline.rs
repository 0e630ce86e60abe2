//! The history replayed in the order of its revisions.

use std::collections::HashSet;

use forebay_proto::{
    etcdserverpb::{request_op, response_op},
    mvccpb::{Event, KeyValue, event::EventType},
};

use super::{
    Kind, Report,
    answers::{header, is_same},
    history::{Answer, History, Outcome, Request},
    known::{Known, Seen},
    model::{Model, Past},
};

/// How many revisions are replayed beyond those that there are, and beyond a few times as many, before the search for
/// a course of things that fits is given up.
const SEARCH: usize = 200_000;

/// What happened at each revision after the base.
pub struct Timeline {
    /// The revision of the base.
    pub base: i64,
    /// Which operation wrote a revision, if one did; by revision, from the one after the base.
    pub writers: Vec<Option<usize>>,
    /// Its events, in the same way.
    events: Vec<Vec<Event>>,
    /// When a revision, or a later one, was first seen by anybody; in the same way.
    pub seen: Vec<Seen>,
}

impl Timeline {
    /// The last revision that anybody saw.
    pub fn last(&self) -> i64 {
        self.base + i64::try_from(self.events.len()).expect("a count fits")
    }

    /// The events of a revision; none of one that nobody has seen, or from before.
    pub fn events(&self, revision: i64) -> &[Event] {
        usize::try_from(revision - self.base - 1).ok().and_then(|at| self.events.get(at)).map_or(&[], Vec::as_slice)
    }

    /// Replays a history; what does not fit goes into the report.
    pub fn build(history: &History, report: &mut Report) -> Timeline {
        let known = Known::gather(history, report);
        let mut replay = Replay::new(history, &known, Trust::Watches);
        let mut ended = replay.search();
        if ended != Search::Fits && !history.watches.is_empty() {
            // A watch that was told wrong must not make answers look wrong.
            replay = Replay::new(history, &known, Trust::Answers);
            ended = replay.search();
        }
        if ended != Search::Fits {
            replay = Replay::new(history, &known, Trust::Nobody);
            replay.search();
            if ended == Search::GivenUp {
                report.add(Kind::WrongAnswer, "no course of things was found that fits, and not all were tried".into());
            }
            for (kind, text) in replay.found.drain(..) {
                report.add(kind, text);
            }
        }
        report.operations += replay.compared;
        report.uncompared += replay.uncompared;
        report.placed += known.unanswered.iter().filter(|op| replay.placed.contains(op)).count();
        Timeline { base: history.base.revision, writers: replay.writers, events: replay.events, seen: known.seen }
    }
}

/// One attempt to explain a history.
struct Replay<'a> {
    history: &'a History,
    known: &'a Known,
    model: Model,
    writers: Vec<Option<usize>>,
    /// The same operations, to be found fast.
    placed: HashSet<usize>,
    events: Vec<Vec<Event>>,
    compared: usize,
    uncompared: usize,
    found: Vec<(Kind, String)>,
    trust: Trust,
}

/// What a course of things has to fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// All answers, and what every watch was told.
    Watches,
    /// All answers.
    Answers,
    /// Nothing: the likeliest one is taken, to tell what is wrong with it.
    Nobody,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Fits,
    NothingFits,
    GivenUp,
}

/// A revision that more than one operation could have.
struct Choice {
    revision: i64,
    /// What else it could be; nobody, where others write too.
    rest: Vec<Option<usize>>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History, known: &'a Known, trust: Trust) -> Replay<'a> {
        Replay {
            history,
            known,
            model: Model::new(history.base.revision, &history.base.kvs),
            writers: Vec::new(),
            placed: HashSet::new(),
            events: Vec::new(),
            compared: 0,
            uncompared: 0,
            found: Vec::new(),
            trust,
        }
    }

    /// Replays, and goes back to the last choice where something does not fit.
    fn search(&mut self) -> Search {
        let mut choices: Vec<Choice> = Vec::new();
        let mut left = SEARCH + 4 * self.known.seen.len();
        self.check_reads(self.history.base.revision);
        while self.model.revision() < self.known.last {
            let revision = self.model.revision() + 1;
            let writer = match self.known.written.get(&revision) {
                Some(writer) => Some(*writer),
                None => {
                    let mut rest = self.candidates(revision);
                    // Whoever could be it comes last to first.
                    let first = rest.pop().unwrap_or_default();
                    if !rest.is_empty() {
                        choices.push(Choice { revision, rest });
                    }
                    first
                }
            };
            self.step(revision, writer);
            while !self.found.is_empty() && self.trust != Trust::Nobody {
                let Some(choice) = choices.last_mut() else { return Search::NothingFits };
                let (revision, next) = (choice.revision, choice.rest.pop().expect("a choice has something left"));
                if choice.rest.is_empty() {
                    choices.pop();
                }
                self.back_to(revision);
                self.step(revision, next);
            }
            left -= 1;
            if left == 0 {
                return Search::GivenUp;
            }
        }
        if self.found.is_empty() { Search::Fits } else { Search::NothingFits }
    }

    /// Who may have written a revision that nobody was told is theirs; the likeliest last.
    fn candidates(&mut self, revision: i64) -> Vec<Option<usize>> {
        let known = self.known;
        let seen = known.seen[self.writers.len()].at;
        let mut candidates = Vec::new();
        for &index in &known.unanswered {
            if self.history.operations[index].called > seen || self.placed.contains(&index) {
                continue;
            }
            let Some(events) = self.try_out(index) else { continue };
            let was_seen = |kv: &KeyValue| events.iter().any(|event| event.kv.as_ref() == Some(kv));
            if !known.sightings.get(&revision).is_none_or(|kvs| kvs.iter().all(was_seen)) {
                continue;
            }
            if known.fits_watches(self.history, revision, &events) {
                candidates.push(Some(index));
            } else {
                candidates.insert(0, Some(index));
            }
        }
        if !self.history.exclusive
            && !known.sightings.contains_key(&revision)
            && known.fits_watches(self.history, revision, &[])
        {
            candidates.push(None);
        }
        candidates
    }

    /// What an operation would change now, if anything.
    fn try_out(&mut self, index: usize) -> Option<Vec<Event>> {
        let events = match &self.history.operations[index].request {
            Request::Kv(request) => self.model.execute(request).ok()?.1,
            Request::Revoke(lease) => self.model.revoke(*lease),
            Request::Compact(_) => return None,
        };
        if events.is_empty() {
            return None;
        }
        self.model.undo(&events);
        Some(events)
    }

    fn step(&mut self, revision: i64, writer: Option<usize>) {
        let events = match writer {
            None => self.step_unwritten(revision),
            Some(index) => match &self.history.operations[index].request {
                Request::Kv(request) => match self.model.execute(request) {
                    Ok((response, events)) => {
                        self.compare(index, request, &response);
                        events
                    }
                    Err(past) => {
                        let text = format!("operation {index} was done at revision {revision}, but is {past:?}");
                        self.found.push((Kind::WrongAnswer, text));
                        Vec::new()
                    }
                },
                Request::Revoke(lease) => self.model.revoke(*lease),
                Request::Compact(_) => Vec::new(),
            },
        };
        if self.model.revision() < revision {
            // Whatever was answered, there is a revision.
            self.model.follow(&[]);
        }
        if self.trust == Trust::Watches && !self.known.fits_watches(self.history, revision, &events) {
            // Nobody reads its text: the search goes on, and the watches are checked by themselves at last.
            self.found.push((Kind::WrongEvent, String::new()));
        }
        self.writers.push(writer);
        self.placed.extend(writer);
        self.events.push(events);
        self.check_reads(revision);
    }

    fn step_unwritten(&mut self, revision: i64) -> Vec<Event> {
        let known = self.known;
        let watched = known.watched.iter().filter_map(|watched| watched.events.get(&revision)).max_by_key(|e| e.len());
        let events = match (watched, known.sightings.get(&revision)) {
            (Some(events), _) => events.clone(),
            (None, Some(kvs)) => kvs
                .iter()
                .map(|kv| Event { r#type: EventType::Put as i32, kv: Some(kv.clone()), prev_kv: None })
                .collect(),
            (None, None) => Vec::new(),
        };
        if self.history.exclusive || !events.is_empty() {
            let Seen { at, by } = known.seen[self.writers.len()];
            let text =
                format!("revision {revision} is nobody's; first seen, or a later one, by {by:?} at {at}; {events:?}");
            self.found.push((Kind::Unwritten, text));
        }
        self.model.follow(&events);
        events
    }

    fn back_to(&mut self, revision: i64) {
        while self.model.revision() >= revision {
            let events = self.events.pop().expect("every revision has its events");
            if let Some(Some(writer)) = self.writers.pop() {
                self.placed.remove(&writer);
            }
            self.model.undo(&events);
        }
        // Counted again on the way forth.
        self.found.clear();
    }

    /// Everything that was answered at this revision without changing anything.
    fn check_reads(&mut self, revision: i64) {
        for &index in self.known.read.get(&revision).map_or(&[][..], Vec::as_slice) {
            let Request::Kv(request) = &self.history.operations[index].request else { continue };
            match self.model.execute(request) {
                Ok((response, events)) => {
                    if !events.is_empty() {
                        self.model.undo(&events);
                    }
                    self.compare(index, request, &response);
                }
                Err(Past::Unknown) => self.uncompared += 1,
                Err(Past::Refused) => {
                    let text = format!("operation {index} was answered at revision {revision}, where it is refused");
                    self.found.push((Kind::WrongAnswer, text));
                }
            }
        }
    }

    fn compare(&mut self, index: usize, request: &request_op::Request, expected: &response_op::Response) {
        let Outcome::Answered { answer: Answer::Kv(got), .. } = &self.history.operations[index].outcome else { return };
        self.compared += 1;
        if !is_same(request, got, expected) {
            let revision = header(got).map_or(0, |header| header.revision);
            let text = format!(
                "operation {index} at revision {revision}: {request:?}\n    was answered {got:?}\n    but gives    {expected:?}"
            );
            self.found.push((Kind::WrongAnswer, text));
        }
    }
}
