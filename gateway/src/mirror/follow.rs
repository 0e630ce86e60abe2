//! The protocol of the upstream's watch, as a machine that takes its messages and says what to do.
//!
//! It trusts nothing: an upstream that skips a revision, repeats one, goes back, or answers for another cluster is found
//! out here, and the mirror is built anew. What it lets pass is a sequence of whole revisions, each once, ascending.

use std::collections::BTreeMap;

use forebay_proto::{etcdserverpb::WatchResponse, mvccpb::Event};

/// What to do with the mirror.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// All changes of one revision in the mirrored ranges, in order.
    Apply(i64, Vec<Event>),
    /// Nothing else happened in the mirrored ranges up to this revision.
    Advance(i64),
}

/// Why a watch cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Break {
    /// The upstream has compacted what is needed to go on; the mirror is built anew.
    #[error("compacted at {0}")]
    Compacted(i64),
    /// The upstream ended the watch; another may go on.
    #[error("cancelled: {0}")]
    Canceled(String),
    /// What the upstream said cannot be true; the mirror is built anew.
    #[error("{0}")]
    Fault(Fault),
}

/// What cannot be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("another cluster answers")]
    Cluster,
    #[error("the watch of all keys skipped a revision")]
    Gap,
    #[error("revisions are not in order")]
    Order,
    #[error("the changes of one revision came in two responses")]
    Split,
    #[error("an event is beyond the response's own revision")]
    Future,
    #[error("a message is malformed")]
    Malformed,
}

impl Fault {
    /// For metrics.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Fault::Cluster => "cluster",
            Fault::Gap => "gap",
            Fault::Order => "order",
            Fault::Split => "split",
            Fault::Future => "future",
            Fault::Malformed => "malformed",
        }
    }
}

/// One upstream watch stream, with a watcher for each mirrored range.
#[derive(Debug)]
pub(super) struct Follower {
    cluster_id: u64,
    /// Watchers on the stream, with the ids 0, 1, …
    watchers: usize,
    /// Whether the one watcher watches all keys, so that every revision must show.
    whole: bool,
    /// The first revision that has not been handed out.
    next: i64,
    /// Whether this stream has delivered `next - 1`, and not one before it.
    delivered: bool,
    /// What a response told so far of its last revision, which may go on in the next fragment, and whose it is.
    fragments: Option<(i64, Vec<Event>)>,
    /// With several watchers: the events that wait until all watchers are known to have passed their revision.
    parked: BTreeMap<i64, Vec<Event>>,
}

impl Follower {
    /// A stream whose watchers were created to start at `next`.
    pub(super) fn new(cluster_id: u64, watchers: usize, whole: bool, next: i64) -> Follower {
        assert!(watchers > 0 && (!whole || watchers == 1), "all keys are watched by one watcher");
        let (fragments, parked) = (None, BTreeMap::new());
        Follower { cluster_id, watchers, whole, next, delivered: false, fragments, parked }
    }

    /// Whether events wait for a progress notice.
    pub(super) fn is_parking(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Takes the stream's next message.
    pub(super) fn receive(&mut self, response: WatchResponse) -> Result<Vec<Step>, Break> {
        let header = response.header.as_ref().ok_or(Break::Fault(Fault::Malformed))?;
        // etcd's cancel for a compacted start has an incomplete header.
        if header.cluster_id != self.cluster_id && !(response.canceled && header.cluster_id == 0) {
            return Err(Break::Fault(Fault::Cluster));
        }
        if response.canceled {
            return Err(match response.compact_revision {
                0 => Break::Canceled(response.cancel_reason),
                revision => Break::Compacted(revision),
            });
        }
        if response.created {
            return Ok(Vec::new());
        }
        let revision = header.revision;
        if response.events.is_empty() && !response.fragment && self.fragments.is_none() {
            return Ok(self.progress(response.watch_id, revision));
        }
        let (id, mut events) = self.fragments.take().unwrap_or((response.watch_id, Vec::new()));
        if id != response.watch_id {
            return Err(Break::Fault(Fault::Malformed));
        }
        events.extend(response.events);
        if response.fragment {
            // The last revision may go on in the next one; those before it are whole.
            let last = events.last().map_or(0, mod_revision);
            let whole = events.iter().rposition(|event| mod_revision(event) != last).map_or(0, |before| before + 1);
            self.fragments = Some((id, events.split_off(whole)));
        }
        self.events(revision, events).map_err(Break::Fault)
    }

    fn progress(&mut self, watch_id: i64, revision: i64) -> Vec<Step> {
        // One watcher's progress says nothing of the others.
        let speaks_for_all = watch_id < 0 || self.watchers == 1;
        if !speaks_for_all || revision < self.next {
            return Vec::new();
        }
        // A watch of all keys would have shown these revisions as events.
        if self.whole {
            return Vec::new();
        }
        let later = self.parked.split_off(&(revision + 1));
        let due = std::mem::replace(&mut self.parked, later);
        self.next = revision + 1;
        self.delivered = true;
        due.into_iter().map(|(at, events)| Step::Apply(at, events)).chain([Step::Advance(revision)]).collect()
    }

    fn events(&mut self, header_revision: i64, events: Vec<Event>) -> Result<Vec<Step>, Fault> {
        let mut revisions: Vec<(i64, Vec<Event>)> = Vec::new();
        for event in events {
            let at = mod_revision(&event);
            if at > header_revision {
                return Err(Fault::Future);
            }
            match revisions.last_mut() {
                Some((last, _)) if at < *last => return Err(Fault::Order),
                Some((last, same)) if at == *last => same.push(event),
                _ if at <= 0 => return Err(Fault::Malformed),
                _ => revisions.push((at, vec![event])),
            }
        }
        let mut steps = Vec::new();
        for (at, events) in revisions {
            if self.delivered && at == self.next - 1 && self.watchers == 1 {
                return Err(Fault::Split);
            }
            // A stream that was opened anew may begin with what the one before it delivered.
            if at < self.next {
                if self.delivered {
                    return Err(Fault::Order);
                }
                continue;
            }
            if self.watchers > 1 {
                self.parked.entry(at).or_default().extend(events);
                continue;
            }
            if self.whole && at != self.next {
                return Err(Fault::Gap);
            }
            self.next = at + 1;
            self.delivered = true;
            steps.push(Step::Apply(at, events));
        }
        Ok(steps)
    }
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use forebay_proto::{etcdserverpb::ResponseHeader, mvccpb::KeyValue};

    use super::*;

    fn event(key: &'static str, mod_revision: i64) -> Event {
        let kv = KeyValue { key: key.into(), mod_revision, ..Default::default() };
        Event { kv: Some(kv), ..Default::default() }
    }

    fn response(watch_id: i64, revision: i64, events: &[Event]) -> WatchResponse {
        let header = ResponseHeader { cluster_id: 7, revision, ..Default::default() };
        WatchResponse { header: Some(header), watch_id, events: events.to_vec(), ..Default::default() }
    }

    fn whole(next: i64) -> Follower {
        Follower::new(7, 1, true, next)
    }

    #[test]
    fn whole_revisions_come_out_ascending_and_once() {
        let mut follower = whole(5);
        let events = [event("a", 5), event("b", 5), event("a", 6)];
        let steps = follower.receive(response(0, 8, &events)).unwrap();
        assert_eq!(steps, [Step::Apply(5, events[..2].to_vec()), Step::Apply(6, events[2..].to_vec())]);
        let steps = follower.receive(response(0, 7, &[event("c", 7)])).unwrap();
        assert_eq!(steps, [Step::Apply(7, vec![event("c", 7)])]);
    }

    #[test]
    fn b10_fragments_are_joined_before_anything_is_applied() {
        let mut follower = whole(5);
        for key in ["a", "b"] {
            let fragment = WatchResponse { fragment: true, ..response(0, 5, &[event(key, 5)]) };
            assert_eq!(follower.receive(fragment), Ok(vec![]));
        }
        let steps = follower.receive(response(0, 5, &[event("c", 5)])).unwrap();
        assert_eq!(steps, [Step::Apply(5, vec![event("a", 5), event("b", 5), event("c", 5)])]);
        let fragment = WatchResponse { fragment: true, ..response(0, 6, &[event("a", 6)]) };
        follower.receive(fragment).unwrap();
        assert_eq!(follower.receive(response(1, 6, &[event("a", 6)])), Err(Break::Fault(Fault::Malformed)));
    }

    #[test]
    fn b10_of_a_long_response_what_is_whole_is_applied_while_the_rest_is_on_its_way() {
        let mut follower = whole(5);
        let fragment = |events: &[Event]| WatchResponse { fragment: true, ..response(0, 9, events) };
        let [a5, b5, a6, b6, a7] = [event("a", 5), event("b", 5), event("a", 6), event("b", 6), event("a", 7)];
        assert_eq!(follower.receive(fragment(std::slice::from_ref(&a5))), Ok(vec![]));
        let whole = Step::Apply(5, vec![a5, b5.clone()]);
        assert_eq!(follower.receive(fragment(&[b5, a6.clone()])), Ok(vec![whole]));
        let rest = [Step::Apply(6, vec![a6, b6.clone()]), Step::Apply(7, vec![a7.clone()])];
        assert_eq!(follower.receive(response(0, 9, &[b6, a7])).unwrap(), rest);
    }

    #[test]
    fn b32_a_skipped_revision_of_the_whole_keyspace_is_a_fault_and_of_a_part_is_none() {
        assert_eq!(whole(5).receive(response(0, 6, &[event("a", 6)])), Err(Break::Fault(Fault::Gap)));
        let mut part = Follower::new(7, 1, false, 5);
        assert_eq!(part.receive(response(0, 9, &[event("a", 9)])), Ok(vec![Step::Apply(9, vec![event("a", 9)])]));
    }

    #[test]
    fn b39_what_was_delivered_before_a_stream_was_opened_anew_is_dropped() {
        let mut follower = whole(5);
        let steps = follower.receive(response(0, 6, &[event("a", 3), event("b", 4), event("a", 5)])).unwrap();
        assert_eq!(steps, [Step::Apply(5, vec![event("a", 5)])]);
        assert_eq!(follower.receive(response(0, 9, &[event("a", 4)])), Err(Break::Fault(Fault::Order)));
    }

    #[test]
    fn b09_a_revision_in_two_responses_is_a_fault() {
        let mut follower = whole(5);
        follower.receive(response(0, 5, &[event("a", 5)])).unwrap();
        assert_eq!(follower.receive(response(0, 5, &[event("b", 5)])), Err(Break::Fault(Fault::Split)));
    }

    #[test]
    fn an_upstream_that_lies_is_found_out() {
        let fault = |response| whole(5).receive(response).unwrap_err();
        assert_eq!(fault(response(0, 6, &[event("a", 6), event("a", 5)])), Break::Fault(Fault::Order));
        assert_eq!(fault(response(0, 4, &[event("a", 5)])), Break::Fault(Fault::Future));
        assert_eq!(fault(response(0, 5, &[event("a", 0)])), Break::Fault(Fault::Malformed));
        assert_eq!(fault(WatchResponse::default()), Break::Fault(Fault::Malformed));
        let mut other = response(0, 5, &[event("a", 5)]);
        other.header.as_mut().unwrap().cluster_id = 8;
        assert_eq!(fault(other), Break::Fault(Fault::Cluster));
    }

    #[test]
    fn b16_a_compacted_start_ends_the_watch_with_the_compactions_revision() {
        let header = Some(ResponseHeader { cluster_id: 7, ..Default::default() });
        let canceled = WatchResponse { header, canceled: true, compact_revision: 40, ..Default::default() };
        assert_eq!(whole(5).receive(canceled), Err(Break::Compacted(40)));
        let canceled = WatchResponse { canceled: true, cancel_reason: "why".into(), ..response(0, 5, &[]) };
        assert_eq!(whole(5).receive(canceled), Err(Break::Canceled("why".into())));
    }

    #[test]
    fn b12_progress_counts_for_a_part_of_the_keyspace_and_never_goes_back() {
        let mut part = Follower::new(7, 1, false, 5);
        assert_eq!(part.receive(response(-1, 9, &[])), Ok(vec![Step::Advance(9)]));
        assert_eq!(part.receive(response(0, 7, &[])), Ok(vec![]));
        assert_eq!(part.receive(response(0, 12, &[event("a", 12)])), Ok(vec![Step::Apply(12, vec![event("a", 12)])]));
        assert_eq!(whole(5).receive(response(-1, 9, &[])), Ok(vec![]), "the events themselves tell");
    }

    #[test]
    fn events_of_several_watchers_wait_until_all_have_passed_their_revision() {
        let mut several = Follower::new(7, 2, false, 5);
        assert_eq!(several.receive(response(0, 6, &[event("a", 6)])), Ok(vec![]));
        assert_eq!(several.receive(response(1, 5, &[event("n", 5)])), Ok(vec![]));
        assert_eq!(several.receive(response(1, 6, &[event("m", 6)])), Ok(vec![]));
        assert_eq!(several.receive(response(0, 8, &[event("a", 8)])), Ok(vec![]));
        assert_eq!(several.receive(response(0, 9, &[])), Ok(vec![]), "it speaks for one of them");
        assert!(several.is_parking());
        let steps = several.receive(response(-1, 7, &[])).unwrap();
        let expected =
            [Step::Apply(5, vec![event("n", 5)]), Step::Apply(6, vec![event("a", 6), event("m", 6)]), Step::Advance(7)];
        assert_eq!(steps, expected);
        assert!(several.is_parking(), "what is at 8 waits on");
    }
}
