//! What a member is told at start. Resolved and validated by the command line; every value is in
//! force as it stands here.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use crate::{AutoCompaction, auth::TokenKind, lease::Rules};

/// Whether the cluster of a member without a log runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// All members start with nothing.
    New,
    /// This one joins the others.
    Existing,
}

/// The configuration of a member. Names and defaults are etcd's.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member's name, unique in the cluster.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the WAL is kept instead of below `data_dir`.
    pub wal_dir: Option<PathBuf>,
    /// The client URLs that other members and clients are told.
    pub advertise_client_urls: Vec<String>,
    /// The peer URLs that other members are told; part of the member's identity.
    pub advertise_peer_urls: Vec<String>,
    /// The members of the cluster by name, with their peer URLs, this one included; looked at only while there is no
    /// log. Empty for this member alone.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// Whether that cluster is new or runs already.
    pub initial_state: InitialState,
    /// Makes a cluster of this member alone out of its files. The others must be gone for good: what they acknowledged
    /// and this one lacks is lost.
    pub force_new_cluster: bool,
    /// Refuses membership changes after which the members that work would be no quorum.
    pub strict_reconfig_check: bool,
    /// Learners that a cluster may have at once. Each costs the leader what a voter costs, and adds no safety.
    pub max_learners: usize,
    /// Sets clusters apart that otherwise start alike.
    pub initial_cluster_token: String,
    /// The leader's heartbeat. Small values notice a lost leader sooner and cost messages.
    pub heartbeat_interval: Duration,
    /// How long a member waits for a leader before it stands for election.
    pub election_timeout: Duration,
    /// Whether a member asks for votes before it disturbs the cluster with a new term.
    pub pre_vote: bool,
    /// Applied entries between two raft snapshots. A large value keeps more WAL, a small one
    /// interrupts more often.
    pub snapshot_count: u64,
    /// Entries that stay in memory behind a snapshot for followers that lag.
    pub snapshot_catchup_entries: u64,
    /// WAL segments that are kept.
    pub max_wals: usize,
    /// Raft snapshot files that are kept.
    pub max_snapshots: usize,
    /// The largest proposal in bytes. Requests may be [`GRPC_OVERHEAD_BYTES`] larger.
    pub max_request_bytes: usize,
    /// Operations of one txn.
    pub max_txn_ops: usize,
    /// The size of the db file at which writes are refused, in bytes; `None` for no quota.
    pub quota_backend_bytes: Option<u64>,
    /// How long writes to the db file are collected.
    pub backend_batch_interval: Duration,
    /// How many writes to the db file are collected.
    pub backend_batch_limit: usize,
    /// Revisions that one step of a compaction looks at.
    pub compaction_batch_limit: usize,
    /// The pause between two steps of a compaction.
    pub compaction_sleep_interval: Duration,
    /// What to compact unasked.
    pub auto_compaction: Option<AutoCompaction>,
    /// At start the db file is defragmented if that frees this many bytes.
    pub bootstrap_defrag_threshold_bytes: Option<u64>,
    /// Requests are logged that take longer to apply or, of those that only read, to answer.
    pub warning_apply_duration: Duration,
    /// Unary calls are logged that take longer.
    pub warning_unary_request_duration: Duration,
    /// Whether the health service says NOT_SERVING while the db file is defragmented.
    pub stop_grpc_service_on_defrag: bool,
    /// The feature gates, for the metrics page.
    pub features: Vec<Feature>,
    /// How often an idle watcher that asked for it is told the revision.
    pub watch_progress_notify_interval: Duration,
    /// How often the leader looks whether a downgrade is done; zero for never.
    pub downgrade_check_time: Duration,
    /// Whether the version of a cluster that has one is never raised: a release of etcd does not start on the data of
    /// a cluster above its own version.
    pub hold_cluster_version: bool,
    /// Whether a member compares its keys with the others' before it serves.
    pub initial_corrupt_check: bool,
    /// How often the leader compares the members' keys; zero for never. It hashes all of them on every member.
    pub corrupt_check_time: Duration,
    /// How often the leader compares the hashes of compactions; zero for never.
    pub compact_hash_check_time: Duration,
    /// What clients are given when they log in.
    pub auth_token: TokenKind,
    /// How slow a password is to try; bcrypt's, 4 to 31. Each step doubles the time, for us and for whoever guesses.
    pub bcrypt_cost: u32,
    /// Characters that a new password has at least. Passwords that are there stay good, whatever their length.
    pub password_min_length: usize,
    /// Whether the common name of a client's certificate is its user, if it shows no token.
    pub client_cert_auth: bool,
    /// How often the log is told what is left of long leases, so that a new leader does not begin them anew; `None` for
    /// never.
    pub lease_checkpoint_interval: Option<Duration>,
    /// Whether that is kept in the file of a cluster of a version before 3.6 as well.
    pub lease_checkpoint_persist: bool,
    /// Whether leases are still revoked when applying lags so far that other requests are refused.
    pub priority_request: bool,
    /// Silence after which a stream of another member is given up.
    pub peer_read_timeout: Duration,
    /// How long another member may leave unacknowledged what it was sent before the connection is given up.
    pub peer_write_timeout: Duration,
    /// Whether a member that reaches the others waits hardly any longer for a leader of theirs before it stands for
    /// election the first time.
    pub advance_first_election: bool,
    /// Whether connections to other members come from the address that this one advertises to them.
    pub set_local_address: bool,
    /// Skips fsync. Loses acknowledged writes in a power cut; for tests alone.
    pub unsafe_no_fsync: bool,
}

/// A feature gate of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// `ALPHA` or `BETA`.
    pub stage: &'static str,
    /// Whether it is on.
    pub enabled: bool,
}

/// What a gRPC message may hold beyond the request it carries.
pub const GRPC_OVERHEAD_BYTES: usize = 512 << 10;

impl Config {
    /// Where connections to other members come from, if that is to be set: the first address that is advertised to them
    /// and can be elsewhere than on this machine.
    pub(crate) fn local_address(&self) -> Option<IpAddr> {
        let addresses = self.advertise_peer_urls.iter().filter_map(|url| {
            let url: http::Uri = url.parse().ok()?;
            let address: IpAddr = url.host()?.trim_matches(['[', ']']).parse().ok()?;
            Some(address).filter(|address| !address.is_loopback() && !address.is_unspecified())
        });
        self.set_local_address.then_some(addresses).into_iter().flatten().next()
    }

    /// The largest gRPC message that is read.
    pub fn max_message_bytes(&self) -> usize {
        self.max_request_bytes + GRPC_OVERHEAD_BYTES
    }

    /// The election timeout in heartbeats.
    pub(crate) fn election_ticks(&self) -> usize {
        (self.election_timeout.as_millis() / self.heartbeat_interval.as_millis().max(1)) as usize
    }

    /// How long a request may wait for raft.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// How long a new member asks the others whether the cluster is really new.
    pub(crate) fn bootstrap_timeout(&self) -> Duration {
        Duration::from_secs(1) + self.election_timeout
    }

    /// The shortest lease in seconds: it must outlive an election.
    pub fn min_lease_ttl(&self) -> i64 {
        let seconds = (3 * self.election_timeout.as_millis() as i64).div_euclid(2);
        // Rounded up to whole seconds.
        (seconds + 999) / 1000
    }

    /// What the lease table is told.
    pub(crate) fn lease_rules(&self) -> Rules {
        Rules {
            min_ttl: self.min_lease_ttl(),
            checkpoint_interval: self.lease_checkpoint_interval,
            persist_checkpoints: self.lease_checkpoint_persist,
        }
    }

    /// Where the WAL is kept.
    pub fn wal_path(&self) -> PathBuf {
        self.wal_dir.clone().unwrap_or_else(|| self.data_dir.join("member").join("wal"))
    }

    /// Where the db file and the raft snapshots are kept.
    pub fn snap_path(&self) -> PathBuf {
        self.data_dir.join("member").join("snap")
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            name: "default".into(),
            data_dir: "default.etcd".into(),
            wal_dir: None,
            advertise_client_urls: vec!["http://localhost:2379".into()],
            advertise_peer_urls: vec!["http://localhost:2380".into()],
            initial_cluster: Vec::new(),
            initial_state: InitialState::New,
            force_new_cluster: false,
            strict_reconfig_check: true,
            max_learners: 1,
            initial_cluster_token: "etcd-cluster".into(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            max_wals: 5,
            max_snapshots: 5,
            max_request_bytes: 1_572_864,
            max_txn_ops: 128,
            quota_backend_bytes: Some(2 << 30),
            backend_batch_interval: Duration::from_millis(100),
            backend_batch_limit: 10_000,
            compaction_batch_limit: 1000,
            compaction_sleep_interval: Duration::from_millis(10),
            auto_compaction: None,
            bootstrap_defrag_threshold_bytes: None,
            warning_apply_duration: Duration::from_millis(100),
            warning_unary_request_duration: Duration::from_millis(300),
            stop_grpc_service_on_defrag: false,
            features: Vec::new(),
            watch_progress_notify_interval: Duration::from_secs(600),
            downgrade_check_time: Duration::from_secs(5),
            hold_cluster_version: false,
            initial_corrupt_check: false,
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: Duration::from_secs(60),
            auth_token: TokenKind::Simple(Duration::from_secs(300)),
            bcrypt_cost: 10,
            password_min_length: 0,
            client_cert_auth: false,
            lease_checkpoint_interval: None,
            lease_checkpoint_persist: false,
            priority_request: false,
            peer_read_timeout: Duration::from_secs(5),
            peer_write_timeout: Duration::from_secs(5),
            advance_first_election: true,
            set_local_address: false,
            unsafe_no_fsync: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_limits_are_etcds() {
        let config = Config::default();
        assert_eq!(config.min_lease_ttl(), 2);
        assert_eq!(config.request_timeout(), Duration::from_secs(7));
        assert_eq!(config.max_message_bytes(), 2_097_152);
    }

    #[test]
    fn the_local_address_is_the_first_advertised_one_that_others_can_reach() {
        let urls = [
            "http://localhost:1",
            "http://127.0.0.1:1",
            "http://0.0.0.0:1",
            "https://[2001:db8::1]:1",
            "http://192.0.2.1:1",
        ];
        let mut config = Config { advertise_peer_urls: urls.map(str::to_owned).to_vec(), ..Config::default() };
        assert_eq!(config.local_address(), None, "it is set only if that is wanted");
        config.set_local_address = true;
        assert_eq!(config.local_address(), Some("2001:db8::1".parse().unwrap()));
        config.advertise_peer_urls.truncate(3);
        assert_eq!(config.local_address(), None);
    }
}
