//! What the upstream has shown of itself, and whether what it shows next can be true.
//!
//! An answer to a quorum read is from the present: its revision cannot be below one that was known when the read began,
//! and the cluster is the same. If not, the upstream was restored from a snapshot or is another one, and everything that
//! was learnt from it is void. Terms prove nothing: a member that was cut off may have told one that no leader had.

use forebay_keyspace::watch::HeaderBase;
use forebay_proto::etcdserverpb::ResponseHeader;
use parking_lot::Mutex;

/// How the present contradicts the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Setback {
    /// Another cluster answers.
    #[error("another cluster answers at the upstream's address")]
    Cluster,
    /// The revision of a quorum read is below one that was seen before it began.
    #[error("the upstream's revision went back")]
    Revision,
}

/// What is known of the upstream.
#[derive(Debug, Default)]
pub(super) struct Sight(Mutex<Seen>);

/// The best of what was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) cluster_id: u64,
    pub(super) member_id: u64,
    pub(super) term: u64,
    pub(super) revision: i64,
    /// How often everything before was forgotten.
    epoch: u64,
}

impl Sight {
    /// What is known now; taken before a quorum read begins, and given to [`Sight::quorum`] when it was answered.
    pub(super) fn now(&self) -> Seen {
        *self.0.lock()
    }

    /// The header of an answer to a quorum read that began when `before` was all that was known.
    pub(super) fn quorum(&self, header: &ResponseHeader, before: &Seen) -> Result<(), Setback> {
        if self.now().epoch != before.epoch {
            // What was known then is void by now, and so is what it says about it. Whoever asked finds the mirror gone.
            return Ok(());
        }
        if before.cluster_id != 0 && header.cluster_id != before.cluster_id {
            return Err(Setback::Cluster);
        }
        if header.revision < before.revision {
            return Err(Setback::Revision);
        }
        self.note(header);
        Ok(())
    }

    /// The header of any other answer, which may be from a member that lags.
    pub(super) fn member(&self, header: &ResponseHeader, before: &Seen) -> Result<(), Setback> {
        let seen = self.now();
        if seen.epoch != before.epoch {
            return Ok(());
        }
        if seen.cluster_id != 0 && header.cluster_id != seen.cluster_id {
            return Err(Setback::Cluster);
        }
        self.note(header);
        Ok(())
    }

    /// The upstream's watch tells, or is about to, of this revision.
    pub(super) fn watched(&self, revision: i64) {
        let mut seen = self.0.lock();
        seen.revision = seen.revision.max(revision);
    }

    fn note(&self, header: &ResponseHeader) {
        let mut seen = self.0.lock();
        if seen.cluster_id == 0 {
            (seen.cluster_id, seen.member_id) = (header.cluster_id, header.member_id);
        }
        seen.term = seen.term.max(header.raft_term);
        seen.revision = seen.revision.max(header.revision);
    }

    /// Believes nothing of what was seen any more.
    pub(super) fn forget(&self) {
        let mut seen = self.0.lock();
        *seen = Seen { epoch: seen.epoch + 1, ..Seen::default() };
    }

    /// Who answers what comes from the mirror: the member that was seen first, so that clients see one, at the highest
    /// term.
    pub(super) fn header(&self) -> HeaderBase {
        let Seen { cluster_id, member_id, term, .. } = self.now();
        HeaderBase { cluster_id, member_id, raft_term: term }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(cluster_id: u64, revision: i64, raft_term: u64) -> ResponseHeader {
        ResponseHeader { cluster_id, member_id: 1, revision, raft_term }
    }

    #[test]
    fn b40_a_quorum_read_below_what_was_known_before_it_is_a_setback() {
        let sight = Sight::default();
        let nothing = sight.now();
        assert_eq!(sight.quorum(&header(7, 10, 3), &nothing), Ok(()));
        let before = sight.now();
        assert_eq!(sight.quorum(&header(7, 9, 3), &before), Err(Setback::Revision));
        assert_eq!(sight.quorum(&header(8, 11, 3), &before), Err(Setback::Cluster));
        assert_eq!(sight.quorum(&header(7, 10, 3), &before), Ok(()));
    }

    #[test]
    fn b40_a_quorum_read_below_what_a_watch_told_before_it_is_a_setback() {
        let sight = Sight::default();
        sight.quorum(&header(7, 10, 3), &sight.now()).unwrap();
        let before = sight.now();
        sight.watched(15);
        assert_eq!(sight.quorum(&header(7, 12, 3), &before), Ok(()), "it may have been decided before the event");
        assert_eq!(sight.quorum(&header(7, 12, 3), &sight.now()), Err(Setback::Revision));
    }

    #[test]
    fn an_answer_that_was_overtaken_is_no_setback() {
        let sight = Sight::default();
        sight.quorum(&header(7, 10, 3), &sight.now()).unwrap();
        let before = sight.now();
        sight.quorum(&header(7, 12, 4), &before).unwrap();
        assert_eq!(sight.quorum(&header(7, 11, 3), &before), Ok(()), "it began when 10 was known");
        assert_eq!(sight.now().revision, 12);
    }

    #[test]
    fn an_answer_from_before_everything_was_forgotten_proves_nothing() {
        let sight = Sight::default();
        sight.quorum(&header(7, 10, 3), &sight.now()).unwrap();
        let before = sight.now();
        sight.forget();
        assert_eq!(sight.quorum(&header(8, 1, 3), &before), Ok(()));
        assert_eq!(sight.member(&header(7, 10, 3), &before), Ok(()));
        assert_eq!(sight.now().revision, 0, "and it is not noted");
    }

    #[test]
    fn b39_a_member_that_lags_is_no_setback() {
        let sight = Sight::default();
        sight.quorum(&header(7, 10, 3), &sight.now()).unwrap();
        assert_eq!(sight.member(&header(7, 4, 2), &sight.now()), Ok(()));
        assert_eq!(sight.member(&header(8, 40, 2), &sight.now()), Err(Setback::Cluster));
        assert_eq!((sight.now().revision, sight.header().raft_term), (10, 3));
    }

    #[test]
    fn b03_who_answers_stays_the_same_and_its_term_never_falls() {
        let sight = Sight::default();
        for (member_id, raft_term) in [(1, 4), (2, 3)] {
            let header = ResponseHeader { cluster_id: 7, member_id, revision: 5, raft_term };
            sight.member(&header, &sight.now()).unwrap();
        }
        assert_eq!(sight.header(), HeaderBase { cluster_id: 7, member_id: 1, raft_term: 4 });
    }
}
