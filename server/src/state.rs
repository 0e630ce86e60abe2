//! What a db file holds, in memory.

use std::{ops::ControlFlow, time::Instant};

use forebay_keyspace::{Keyspace, RecordError, Restore};
use forebay_proto::{KeyRange, raftpb::ConfState};
use forebay_storage::{
    db::{self, ReadTxn},
    schema,
    snap::Membership,
};

use crate::{
    alarms::Alarms,
    lease::{Lessor, Rules},
    load::Loaded,
    raft,
    version::Version,
};

/// The state that a db file holds.
pub(crate) struct State {
    pub(crate) keyspace: Keyspace,
    pub(crate) lessor: Lessor,
    pub(crate) auth: schema::Auth,
    pub(crate) alarms: Alarms,
    pub(crate) membership: Membership,
    /// The version that the cluster is on its way down to, if it is.
    pub(crate) downgrade: Option<String>,
    pub(crate) applied: raft::Applied,
    pub(crate) term: u64,
    /// A compaction that was accepted and not finished.
    pub(crate) unfinished: Option<i64>,
}

/// Why the state of a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("{0}")]
    Schema(#[from] schema::Error),
    #[error("{0}")]
    Record(#[from] RecordError),
    #[error("{0} is no revision")]
    Key(String),
    #[error("expected bucket {}, found none", .0.escape_ascii())]
    Lost(&'static [u8]),
    /// Its fields may mean what nobody here knows.
    #[error("expected a {what} of at most {}, found {found}", Version::server().minor())]
    Newer { what: &'static str, found: Version },
}

impl From<db::Error> for Unreadable {
    fn from(error: db::Error) -> Unreadable {
        Unreadable::Schema(error.into())
    }
}

/// Refuses a file that has lost a bucket, before anybody makes it anew.
pub(crate) fn must_have_all_buckets(txn: &ReadTxn) -> Result<(), Unreadable> {
    schema::lost_bucket(txn)?.map_or(Ok(()), |bucket| Err(Unreadable::Lost(bucket)))
}

impl State {
    /// Reads everything but the keys, which were loaded as the file was opened. Leases do not run: no member is a leader
    /// when it reads a file.
    pub(crate) fn read(txn: &ReadTxn, keys: Loaded, leases: Rules) -> Result<State, Unreadable> {
        must_have_all_buckets(txn)?;
        schema::check_last_written(txn)?;
        let (scheduled, finished) = schema::read_compactions(txn)?;
        let mut restore = Restore::new(finished);
        for piece in keys {
            restore.piece(piece)?;
        }
        let mut keyspace = restore.finish(scheduled.max(finished).unwrap_or(0));
        let unfinished = scheduled.filter(|revision| finished.is_none_or(|finished| finished < *revision));
        let unfinished = unfinished.filter(|revision| keyspace.compact(*revision).is_ok());
        keyspace.publish();

        let mut lessor = Lessor::new(leases);
        let now = Instant::now();
        for lease in schema::read_leases(txn)? {
            lessor.restore(&lease, now);
        }
        let snapshot = keyspace.snapshot();
        snapshot.scan(&KeyRange::all(), snapshot.revision(), &mut |version| {
            lessor.attach(version.lease(), version.key());
            ControlFlow::Continue(())
        });
        let mut alarms = Alarms::default();
        for alarm in schema::read_alarms(txn)? {
            alarms.raise(&alarm);
        }
        let (index, term) = schema::read_applied(txn)?;
        let (membership, downgrade) = (schema::read_membership(txn)?, schema::read_downgrade(txn)?);
        // etcdutl restores a snapshot for new members and leaves the configuration of the old ones: the log has the new.
        let is_of = |conf_state: &ConfState| {
            let mut ids = conf_state.voters.iter().chain(&conf_state.learners);
            ids.all(|id| membership.members.iter().any(|member| member.id == *id))
        };
        let applied = raft::Applied { index, conf_state: schema::read_conf_state(txn)?.filter(is_of) };
        let auth = schema::read_auth(txn)?;
        let versions = [
            ("storage version", &schema::read_storage_version(txn)?),
            ("cluster version", &membership.cluster_version),
        ];
        for (what, version) in versions {
            let version = version.as_deref().and_then(Version::parse);
            if let Some(found) = version.filter(|found| found.minor() > Version::server().minor()) {
                return Err(Unreadable::Newer { what, found });
            }
        }
        Ok(State { keyspace, lessor, auth, alarms, membership, downgrade, applied, term, unfinished })
    }
}
