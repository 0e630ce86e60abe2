//! What a watch promises: everything, once, in order, whole revisions at a time, and no progress that is not made.

use forebay_proto::{
    KeyRange,
    etcdserverpb::{WatchCreateRequest, WatchResponse, watch_create_request::FilterType},
    mvccpb::{Event, event::EventType},
};

use super::{
    Kind, Report,
    history::{History, Time, Watch},
    realtime::compactions,
    timeline::Timeline,
};

/// Whether a watch asked for an event.
pub fn passes(request: &WatchCreateRequest, range: &KeyRange, event: &Event) -> bool {
    let filter = if event.r#type == EventType::Delete as i32 { FilterType::Nodelete } else { FilterType::Noput };
    !request.filters.contains(&(filter as i32)) && event.kv.as_ref().is_some_and(|kv| range.contains(&kv.key))
}

/// The first and the last revision that a watch speaks for: where an event was not in what it got, there was none.
/// Nothing if it was never created.
pub fn reach(watch: &Watch) -> Option<(i64, i64)> {
    let created = watch.messages.first().filter(|message| message.response.created)?;
    let first = first_revision(watch, &created.response);
    let last = watch.messages.iter().map(|message| {
        let events = message.response.events.iter().filter_map(|event| event.kv.as_ref());
        let last = events.map(|kv| kv.mod_revision).max().unwrap_or_default();
        if is_progress(&message.response) { header_revision(&message.response) } else { last }
    });
    last.max().map(|last| (first, last.max(watch.settled)))
}

fn first_revision(watch: &Watch, created: &WatchResponse) -> i64 {
    if watch.request.start_revision > 0 { watch.request.start_revision } else { header_revision(created) + 1 }
}

fn header_revision(response: &WatchResponse) -> i64 {
    response.header.map_or(0, |header| header.revision)
}

fn is_progress(response: &WatchResponse) -> bool {
    response.events.is_empty() && !response.created && !response.canceled && !response.fragment
}

/// Checks every watch.
pub fn check(history: &History, timeline: &Timeline, report: &mut Report) {
    let compactions = compactions(history);
    for (index, watch) in history.watches.iter().enumerate() {
        let Some(created) = watch.messages.first() else { continue };
        let mut follower = Follower {
            index,
            watch,
            range: KeyRange::new(watch.request.key.clone(), watch.request.range_end.clone()),
            timeline,
            compactions: &compactions,
            exclusive: history.exclusive,
            next: first_revision(watch, &created.response),
            report,
        };
        follower.follow();
    }
}

struct Follower<'a> {
    index: usize,
    watch: &'a Watch,
    range: KeyRange,
    timeline: &'a Timeline,
    compactions: &'a [(i64, Time, Time)],
    exclusive: bool,
    /// The first revision of which it has nothing yet.
    next: i64,
    report: &'a mut Report,
}

impl Follower<'_> {
    fn wrong(&mut self, kind: Kind, text: &str) {
        self.report.add(kind, format!("watch {}: {text}", self.index));
    }

    fn follow(&mut self) {
        let first = self.next;
        // The parts so far of a message that comes in fragments.
        let mut parts: Vec<Event> = Vec::new();
        let mut is_torn = false;
        for (place, message) in self.watch.messages.iter().enumerate() {
            let response = &message.response;
            if response.created != (place == 0) {
                self.wrong(Kind::WrongEvent, &format!("message {place} says created: {}", response.created));
            }
            if response.canceled {
                self.cancelled(response, message.at);
                if place + 1 < self.watch.messages.len() {
                    self.wrong(Kind::WrongEvent, "there is more after its end");
                }
                return;
            }
            if is_progress(response) {
                is_torn |= !parts.is_empty();
                self.progress(header_revision(response), first);
            } else if !response.events.is_empty() || response.fragment {
                parts.extend_from_slice(&response.events);
                if !response.fragment {
                    let following = self.watch.messages.get(place + 1);
                    self.events(&std::mem::take(&mut parts), following.map(|message| &message.response), message.at);
                }
            }
        }
        if is_torn {
            self.wrong(Kind::Torn, "something came between two fragments");
        }
        let missing = self.expected(self.next, self.watch.settled).next().cloned();
        if let Some(event) = missing {
            let settled = self.watch.settled;
            self.wrong(Kind::Lost, &format!("it never got {event:?}, though it had time until {settled}"));
        }
    }

    /// What it must get of some revisions.
    fn expected(&self, first: i64, last: i64) -> impl Iterator<Item = &Event> {
        let revisions = first.max(self.timeline.base + 1)..=last.min(self.timeline.last());
        revisions
            .flat_map(|revision| self.timeline.events(revision))
            .filter(|event| passes(&self.watch.request, &self.range, event))
    }

    fn progress(&mut self, to: i64, first: i64) {
        let missing = self.expected(self.next, to).next().cloned();
        if let Some(event) = missing {
            self.wrong(Kind::FalseProgress, &format!("progress at {to}, but {event:?} had not come"));
        }
        if to < first - 1 {
            self.wrong(Kind::FalseProgress, &format!("progress at {to}, but it begins at {first}"));
        } else if to < self.next - 1 {
            self.wrong(Kind::Disordered, &format!("progress at {to} after {}", self.next - 1));
        }
        self.next = self.next.max(to + 1);
    }

    fn cancelled(&mut self, response: &WatchResponse, at: Time) {
        let to = response.compact_revision;
        if to == 0 {
            return;
        }
        let has_cause = self.compactions.iter().any(|(compacted, asked, _)| *compacted >= to && *asked <= at);
        if self.next >= to && self.timeline.base < self.next {
            self.wrong(Kind::WrongCancel, &format!("ended as compacted at {to}, but it was at {}", self.next));
        } else if self.exclusive && !has_cause && to > self.timeline.base {
            self.wrong(Kind::WrongCancel, &format!("ended as compacted at {to}, but nothing was compacted"));
        }
    }

    fn events(&mut self, got: &[Event], following: Option<&WatchResponse>, at: Time) {
        let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let mut top = 0;
        for event in got {
            if revision(event) < self.next.max(top) {
                let text = format!("revision {} after {}", revision(event), top.max(self.next - 1));
                return self.wrong(Kind::Disordered, &text);
            }
            top = revision(event);
        }
        let next = std::mem::replace(&mut self.next, top + 1);
        // What is from before the history cannot be compared.
        let got: Vec<&Event> = got.iter().filter(|event| revision(event) > self.timeline.base).collect();
        let expected: Vec<Event> = self.expected(next, top).cloned().collect();
        let mut expected = expected.iter();
        for event in got {
            let Some(right) = expected.next() else {
                return self.wrong(Kind::WrongEvent, &format!("{event:?} is more than there was"));
            };
            if (&event.kv, event.r#type) != (&right.kv, right.r#type) {
                let is_loss = revision(event) > revision(right) || expected.any(|later| later.kv == event.kv);
                let kind = if is_loss { Kind::Lost } else { Kind::WrongEvent };
                return self.wrong(kind, &format!("it got {event:?} where there was {right:?}"));
            }
            self.previous(event, right, at);
            self.report.events += 1;
        }
        if let Some(missing) = expected.next() {
            let continues = following.and_then(|response| response.events.first()).is_some_and(|e| revision(e) == top);
            let kind = if continues { Kind::Torn } else { Kind::Lost };
            self.wrong(kind, &format!("{missing:?} did not come with the others of its revision"));
        }
    }

    fn previous(&mut self, got: &Event, right: &Event, at: Time) {
        let revision = right.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        let expected = right.prev_kv.as_ref().filter(|_| self.watch.request.prev_kv);
        // What it was is not told once the revision before is compacted.
        let may_be_gone = !self.exclusive
            || revision - 1 <= self.timeline.base
            || self.compactions.iter().any(|(to, asked, _)| *asked <= at && revision - 1 < *to);
        if got.prev_kv.as_ref() != expected && !(got.prev_kv.is_none() && may_be_gone) {
            let text = format!("revision {revision} came with {:?} before it, which was {expected:?}", got.prev_kv);
            self.wrong(Kind::WrongEvent, &text);
        }
    }
}
