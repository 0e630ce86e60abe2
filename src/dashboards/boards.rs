//! What the boards show. `{@}` in a query stands for the chosen jobs and instances.

/// A Grafana board.
pub(super) struct Board {
    pub(super) uid: &'static str,
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    pub(super) rows: &'static [Row],
}

/// Panels under a heading.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) panels: &'static [Panel],
}

pub(super) struct Panel {
    pub(super) look: Look,
    pub(super) title: &'static str,
    /// What it shows, and what to think when it is unusual.
    pub(super) description: &'static str,
    /// One of Grafana's units.
    pub(super) unit: &'static str,
    pub(super) queries: &'static [Query],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// One number.
    Stat,
    Lines,
    /// Lines on top of each other: parts of a whole.
    Stack,
}

pub(super) struct Query {
    pub(super) expr: &'static str,
    pub(super) legend: &'static str,
}

const fn q(expr: &'static str, legend: &'static str) -> Query {
    Query { expr, legend }
}

const fn stat(title: &'static str, unit: &'static str, queries: &'static [Query], description: &'static str) -> Panel {
    Panel { look: Look::Stat, title, description, unit, queries }
}

const fn lines(title: &'static str, unit: &'static str, queries: &'static [Query], description: &'static str) -> Panel {
    Panel { look: Look::Lines, title, description, unit, queries }
}

const fn stack(title: &'static str, unit: &'static str, queries: &'static [Query], description: &'static str) -> Panel {
    Panel { look: Look::Stack, title, description, unit, queries }
}

/// Every board, in the order in which an operator looks at them.
pub(super) const BOARDS: &[Board] = &[OVERVIEW, CLIENTS, WATCHES, POLICY, STORAGE];

#[rustfmt::skip] // read as the table it is
const OVERVIEW: Board = Board {
    uid: "forebay-overview",
    title: "Overview",
    description: "Is the cluster well, how much is asked of it, and how long do clients wait?",
    rows: &[
        Row {
            title: "Health",
            panels: &[
                stat("Members with a leader", "none", &[q("sum(etcd_server_has_leader{@})", "members")],
                    "Members that know a leader. Fewer than there are members: a part of the cluster is cut off."),
                stat("Mirrors that serve", "none", &[q("sum(forebay_mirror_serving{@})", "mirrors")],
                    "Gateways that answer from their mirror. Others pass every read on to the members."),
                stat("Answered from mirrors", "percentunit", &[q(
                    r#"sum(rate(forebay_mirror_requests_total{@,served="hit"}[$__rate_interval])) / sum(rate(forebay_mirror_requests_total{@}[$__rate_interval]))"#,
                    "share")],
                    "Share of ranges and watches that the members did not see."),
                stat("Load", "Bps", &[q("sum(rate(forebay_admission_load_bytes_total{@}[$__rate_interval]))", "load")],
                    "Request rate, objects in each answer and their size multiplied: what clients ask of the control plane."),
                stat("Refused", "reqps", &[q("sum(rate(forebay_admission_refused_total{@}[$__rate_interval]))", "refused")],
                    "Requests that the policy refused. The board on policy tells by which rule."),
                stat("Database of its quota", "percentunit", &[q(
                    "max(etcd_mvcc_db_total_size_in_bytes{@} / etcd_server_quota_backend_bytes{@})", "share")],
                    "The fullest member. At 100 % the cluster refuses all writes (alarm NOSPACE)."),
            ],
        },
        Row {
            title: "Requests",
            panels: &[
                stack("Calls", "reqps", &[q(
                    "sum by (grpc_method) (rate(grpc_server_started_total{@}[$__rate_interval])) > 0", "{{grpc_method}}")],
                    "Calls that began, by method. One method far above its usual rate is a client that misbehaves."),
                lines("Failed calls", "reqps", &[q(
                    r#"sum by (grpc_method, grpc_code) (rate(grpc_server_handled_total{@,grpc_code=~"Unknown|FailedPrecondition|ResourceExhausted|Internal|Unavailable|DataLoss|DeadlineExceeded"}[$__rate_interval]))"#,
                    "{{grpc_method}} {{grpc_code}}")],
                    "Calls that ended in an error that is not the client's business. ResourceExhausted is a policy or a quota."),
                lines("99th percentile of unary calls", "s", &[q(
                    r#"histogram_quantile(0.99, sum by (le, grpc_method) (rate(grpc_server_handling_seconds_bucket{@,grpc_type="unary"}[$__rate_interval])))"#,
                    "{{grpc_method}}")],
                    "How long all but the slowest hundredth took. Slow writes alone: look at the disk. Slow reads alone: look at large lists."),
            ],
        },
        Row {
            title: "Resources",
            panels: &[
                lines("Client traffic", "Bps", &[
                    q("sum by (instance) (rate(etcd_network_client_grpc_received_bytes_total{@}[$__rate_interval]))", "{{instance}} in"),
                    q("sum by (instance) (rate(etcd_network_client_grpc_sent_bytes_total{@}[$__rate_interval]))", "{{instance}} out")],
                    "Bytes from and to clients."),
                lines("Memory", "bytes", &[q("process_resident_memory_bytes{@}", "{{instance}}")],
                    "Resident memory of each process."),
                lines("CPU", "none", &[q("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}")],
                    "Cores that each process keeps busy."),
            ],
        },
    ],
};

#[rustfmt::skip] // read as the table it is
const CLIENTS: Board = Board {
    uid: "forebay-clients",
    title: "Clients & Load",
    description: "Who does how much: request rate × objects × size, by client and by prefix, and what reaches the members.",
    rows: &[
        Row {
            title: "Who",
            panels: &[
                stack("Load by client", "Bps", &[q("sum by (client) (forebay_client_load_bytes_per_second{@})", "{{client}}")],
                    "Bytes of requests and answers of the heaviest clients; all others together are (others)."),
                stack("Requests by client", "reqps", &[q("sum by (client) (forebay_client_requests_per_second{@})", "{{client}}")],
                    "Requests of the heaviest clients."),
                stack("Load by prefix", "Bps", &[q("sum by (prefix) (forebay_prefix_load_bytes_per_second{@})", "{{prefix}}")],
                    "Bytes of requests and answers by what they are about."),
                stack("Objects by prefix", "cps", &[q("sum by (prefix) (forebay_prefix_objects_per_second{@})", "{{prefix}}")],
                    "Objects read and written. Many under one prefix are lists without pages, again and again."),
            ],
        },
        Row {
            title: "Gateway",
            panels: &[
                stack("Calls by method", "reqps", &[q(
                    "sum by (method) (rate(forebay_gateway_requests_total{@}[$__rate_interval]))", "{{method}}")],
                    "Calls that gateways have answered."),
                stack("Calls by code", "reqps", &[q(
                    "sum by (code) (rate(forebay_gateway_requests_total{@}[$__rate_interval]))", "{{code}}")],
                    "What clients were told."),
                lines("Latency of unary calls", "s", &[
                    q("histogram_quantile(0.5, sum by (le) (rate(forebay_gateway_request_duration_seconds_bucket{@}[$__rate_interval])))", "p50"),
                    q("histogram_quantile(0.99, sum by (le) (rate(forebay_gateway_request_duration_seconds_bucket{@}[$__rate_interval])))", "p99")],
                    "From a call's arrival to its status, whoever answered it."),
                lines("In flight", "none", &[q("sum by (instance) (forebay_gateway_requests_in_flight{@})", "{{instance}}")],
                    "Calls that have begun and not ended, streams included."),
                lines("Endings that the gateway decided", "reqps", &[q(
                    "sum by (reason) (rate(forebay_gateway_remaps_total{@}[$__rate_interval]))", "{{reason}}")],
                    "Errors of the upstream that clients would react to wrongly, and were told otherwise."),
                lines("Shared lists", "reqps", &[q(
                    "sum by (instance) (rate(forebay_admission_joined_lists_total{@}[$__rate_interval]))", "{{instance}}")],
                    "Large lists that were answered with the answer to another client that asked the same."),
            ],
        },
        Row {
            title: "Upstream",
            panels: &[
                stack("Calls to members", "reqps", &[q(
                    "sum by (endpoint, outcome) (rate(forebay_gateway_upstream_requests_total{@}[$__rate_interval]))",
                    "{{endpoint}} {{outcome}}")],
                    "What gateways pass on, by member. Anything but answered is a member or a network that fails."),
                lines("Response time of members", "s", &[q(
                    "histogram_quantile(0.99, sum by (le, endpoint) (rate(forebay_gateway_upstream_response_seconds_bucket{@}[$__rate_interval])))",
                    "{{endpoint}} p99")],
                    "From opening a stream to a member to the head of its response."),
                lines("Connections to members", "none", &[q(
                    "sum by (endpoint) (forebay_gateway_upstream_connections{@})", "{{endpoint}}")],
                    "Open connections that take new calls. None: the member is not reached."),
                lines("Calls sent to another member", "reqps", &[q(
                    "sum by (reason) (rate(forebay_gateway_upstream_retries_total{@}[$__rate_interval]))", "{{reason}}")],
                    "Calls that one member could not take. A write is only sent again if it surely was not carried out."),
            ],
        },
    ],
};

#[rustfmt::skip] // read as the table it is
const WATCHES: Board = Board {
    uid: "forebay-watches",
    title: "Watches & Mirror",
    description: "How many clients share one upstream watch, how fresh the mirror is, and what upset it.",
    rows: &[
        Row {
            title: "Now",
            panels: &[
                stat("Client watches", "none", &[q("sum(forebay_mirror_watchers{@})", "watches")],
                    "Watches of clients that ride mirrors."),
                stat("Upstream watches", "none", &[q("sum(forebay_mirror_upstream_watches{@})", "watches")],
                    "Watches that the members see, private catch-ups included."),
                stat("Clients for each upstream watch", "none", &[q(
                    "sum(forebay_mirror_watchers{@}) / clamp_min(sum(forebay_mirror_upstream_watches{@}), 1)", "ratio")],
                    "How much work gateways spare the members."),
                stat("Lag", "none", &[q("max(forebay_mirror_lag_revisions{@})", "revisions")],
                    "Revisions that the mirror furthest behind lacked at its last heartbeat."),
            ],
        },
        Row {
            title: "Mirror",
            panels: &[
                stack("Reads and watches by how they were answered", "reqps", &[q(
                    "sum by (served) (rate(forebay_mirror_requests_total{@}[$__rate_interval]))", "{{served}}")],
                    "hit: by the mirror. Others were passed on: absent while there is no mirror, lagging while it is behind, window for old revisions, uncovered for keys outside of it, unvouched when the caller may not read them."),
                lines("Time behind", "s", &[q("max by (instance) (forebay_mirror_lag_seconds{@})", "{{instance}}")],
                    "How long each mirror has been behind a revision that the upstream is known to have."),
                lines("Freshness rounds", "s", &[
                    q("histogram_quantile(0.5, sum by (le) (rate(forebay_mirror_freshness_seconds_bucket{@}[$__rate_interval])))", "p50"),
                    q("histogram_quantile(0.99, sum by (le) (rate(forebay_mirror_freshness_seconds_bucket{@}[$__rate_interval])))", "p99")],
                    "One small quorum read for all who wait: the price of a linearizable read from the mirror."),
                lines("Reads for each round", "none", &[q(
                    "sum(rate(forebay_mirror_freshness_waits_total{@}[$__rate_interval])) / sum(rate(forebay_mirror_freshness_rounds_total{@}[$__rate_interval]))",
                    "reads")],
                    "How many reads share a freshness round."),
                lines("Memory of mirrors", "bytes", &[q("sum by (instance) (forebay_mirror_bytes{@})", "{{instance}}")],
                    "Records in each mirror and its window of the past; bounded by --mirror-max-bytes."),
                lines("Lease renewals", "reqps", &[
                    q("sum(rate(forebay_mirror_lease_renewals_asked_total{@}[$__rate_interval]))", "asked by clients"),
                    q("sum(rate(forebay_mirror_lease_renewals_sent_total{@}[$__rate_interval]))", "sent to members")],
                    "Clients that keep the same lease alive share its renewals."),
            ],
        },
        Row {
            title: "What upset it",
            panels: &[
                lines("Setbacks", "cps", &[
                    q("sum by (reason) (rate(forebay_mirror_reconnects_total{@}[$__rate_interval]))", "reconnected: {{reason}}"),
                    q("sum by (reason) (rate(forebay_mirror_rebuilds_total{@}[$__rate_interval]))", "built anew: {{reason}}")],
                    "Upstream watches that were opened again, and mirrors that were listed again."),
                lines("Audits", "cps", &[q(
                    "sum by (outcome) (rate(forebay_mirror_audits_total{@}[$__rate_interval]))", "{{outcome}}")],
                    "Pages of the mirror that were compared with the upstream. One that is different must never be seen."),
                lines("Catch-ups and revocations", "cps", &[
                    q("sum(rate(forebay_mirror_catch_ups_total{@}[$__rate_interval]))", "catch-ups"),
                    q("sum(rate(forebay_mirror_revoked_streams_total{@}[$__rate_interval]))", "revoked streams")],
                    "Watches that began before the window, and streams ended because a right was taken away."),
            ],
        },
        Row {
            title: "Members",
            panels: &[
                lines("Watchers at members", "none", &[
                    q("sum by (instance) (etcd_debugging_mvcc_watcher_total{@})", "{{instance}} watchers"),
                    q("sum by (instance) (etcd_debugging_mvcc_slow_watcher_total{@})", "{{instance}} slow")],
                    "Watchers of each member, and those that do not keep up."),
                lines("Pending events", "none", &[q(
                    "sum by (instance) (etcd_debugging_mvcc_pending_events_total{@})", "{{instance}}")],
                    "Events that wait to be sent to clients."),
            ],
        },
    ],
};

#[rustfmt::skip] // read as the table it is
const POLICY: Board = Board {
    uid: "forebay-policy",
    title: "Quotas & Policy",
    description: "What rules let in, hold back and refuse, and how full quotas are.",
    rows: &[
        Row {
            title: "Quotas",
            panels: &[
                lines("Used of quotas", "percentunit", &[q(
                    "max by (quota, prefix, resource) (forebay_quota_used{@}) / max by (quota, prefix, resource) (forebay_quota_hard{@})",
                    "{{quota}} {{prefix}} {{resource}}")],
                    "The fullest quotas. At 100 % creates under the prefix are refused; updates and deletes pass."),
                lines("Objects under quotas", "none", &[q(
                    r#"max by (quota, prefix) (forebay_quota_used{@,resource="objects"})"#, "{{quota}} {{prefix}}")],
                    "Objects that were counted last."),
            ],
        },
        Row {
            title: "Rules",
            panels: &[
                stack("Let in", "reqps", &[q(
                    "sum by (rule) (rate(forebay_admission_admitted_total{@}[$__rate_interval]))", "{{rule}}")],
                    "Requests that each rule let in."),
                lines("Refused", "reqps", &[q(
                    "sum by (rule, reason) (rate(forebay_admission_refused_total{@}[$__rate_interval]))", "{{rule}} {{reason}}")],
                    "Requests that each rule refused, and which limit it was."),
                lines("Would be refused", "reqps", &[q(
                    "sum by (rule, reason) (rate(forebay_admission_shadow_refused_total{@}[$__rate_interval]))", "{{rule}} {{reason}}")],
                    "What rules in Shadow mode would have refused. Quiet for a while: the rule can be enforced."),
            ],
        },
        Row {
            title: "Waiting",
            panels: &[
                lines("Waits for a rate", "s", &[q(
                    "histogram_quantile(0.99, sum by (le) (rate(forebay_admission_rate_wait_seconds_bucket{@}[$__rate_interval])))", "p99")],
                    "How long clients over their rate were held back."),
                lines("Waits for a seat", "s", &[q(
                    "histogram_quantile(0.99, sum by (le) (rate(forebay_admission_queue_wait_seconds_bucket{@}[$__rate_interval])))", "p99")],
                    "How long requests stood in fair queues before the upstream."),
                lines("Seats", "none", &[q("sum by (kind, state) (forebay_admission_seats{@})", "{{kind}} {{state}}")],
                    "How much the upstream is asked at once, and how much it is found to take."),
                lines("Memory held", "bytes", &[
                    q("sum by (instance) (forebay_admission_memory_held_bytes{@})", "{{instance}} held"),
                    q("sum by (instance) (forebay_admission_memory_limit_bytes{@})", "{{instance}} limit")],
                    "Bytes of requests and answers on their way. At the limit new ones wait, and then are refused."),
            ],
        },
        Row {
            title: "Policy file",
            panels: &[
                stat("Policy is what the file says", "bool_yes_no", &[q("min(forebay_admission_policy_is_current{@})", "current")],
                    "No: the file was changed to what cannot be used, and the last good one is in force."),
                stat("Reloads", "none", &[q(
                    "sum by (outcome) (increase(forebay_admission_policy_reloads_total{@}[$__rate_interval]))", "{{outcome}}")],
                    "Changes of the policy file lately, by outcome."),
            ],
        },
    ],
};

#[rustfmt::skip] // read as the table it is
const STORAGE: Board = Board {
    uid: "forebay-storage",
    title: "Storage & Raft",
    description: "Disks, database, proposals and peers of the members: ours or etcd's.",
    rows: &[
        Row {
            title: "Disk",
            panels: &[
                lines("WAL fsync", "s", &[q(
                    "histogram_quantile(0.99, sum by (le, instance) (rate(etcd_disk_wal_fsync_duration_seconds_bucket{@}[$__rate_interval])))",
                    "{{instance}} p99")],
                    "Every write waits for it. Above 10 ms the disk is too slow for a busy control plane."),
                lines("Backend commit", "s", &[q(
                    "histogram_quantile(0.99, sum by (le, instance) (rate(etcd_disk_backend_commit_duration_seconds_bucket{@}[$__rate_interval])))",
                    "{{instance}} p99")],
                    "Writing the database behind. Above 25 ms on SSDs something else uses the disk."),
                lines("WAL written", "Bps", &[q(
                    "sum by (instance) (rate(etcd_disk_wal_write_bytes_total{@}[$__rate_interval]))", "{{instance}}")],
                    "Bytes appended to the write-ahead log."),
            ],
        },
        Row {
            title: "Database",
            panels: &[
                lines("Size", "bytes", &[
                    q("etcd_mvcc_db_total_size_in_bytes{@}", "{{instance}} allocated"),
                    q("etcd_mvcc_db_total_size_in_use_in_bytes{@}", "{{instance}} in use"),
                    q("etcd_server_quota_backend_bytes{@}", "{{instance}} quota")],
                    "Objects × size × uncompacted revisions. Much more allocated than in use: defragment."),
                lines("Keys", "none", &[q("etcd_debugging_mvcc_keys_total{@}", "{{instance}}")],
                    "Keys that exist."),
                stack("Operations", "ops", &[
                    q("sum(rate(etcd_mvcc_put_total{@}[$__rate_interval]))", "put"),
                    q("sum(rate(etcd_mvcc_delete_total{@}[$__rate_interval]))", "delete"),
                    q("sum(rate(etcd_mvcc_range_total{@}[$__rate_interval]))", "range"),
                    q("sum(rate(etcd_mvcc_txn_total{@}[$__rate_interval]))", "txn")],
                    "What was carried out on the key space of all members."),
                lines("Compaction", "none", &[
                    q("etcd_debugging_mvcc_current_revision{@} - etcd_debugging_mvcc_compact_revision{@}", "{{instance}} revisions kept")],
                    "Revisions since the last compaction. Growing without end: nobody compacts."),
                lines("Leases", "cps", &[
                    q("sum(rate(etcd_debugging_lease_granted_total{@}[$__rate_interval]))", "granted"),
                    q("sum(rate(etcd_debugging_lease_revoked_total{@}[$__rate_interval]))", "revoked"),
                    q("sum(rate(etcd_debugging_lease_renewed_total{@}[$__rate_interval]))", "renewed")],
                    "Leases granted, revoked and renewed."),
                lines("Apply", "s", &[q(
                    "histogram_quantile(0.99, sum by (le, op) (rate(etcd_server_apply_duration_seconds_bucket{@}[$__rate_interval])))", "{{op}} p99")],
                    "How long committed entries took to apply, by operation."),
            ],
        },
        Row {
            title: "Raft",
            panels: &[
                lines("Proposals", "cps", &[
                    q("sum by (instance) (rate(etcd_server_proposals_committed_total{@}[$__rate_interval]))", "{{instance}} committed"),
                    q("sum by (instance) (rate(etcd_server_proposals_applied_total{@}[$__rate_interval]))", "{{instance}} applied"),
                    q("sum by (instance) (rate(etcd_server_proposals_failed_total{@}[$__rate_interval]))", "{{instance}} failed")],
                    "Applied that falls behind committed: the member is overloaded. Failed: there was no leader."),
                lines("Proposals waiting", "none", &[q("sum by (instance) (etcd_server_proposals_pending{@})", "{{instance}}")],
                    "Writes that wait for a majority."),
                lines("Leader changes", "none", &[q(
                    "sum by (instance) (increase(etcd_server_leader_changes_seen_total{@}[$__rate_interval]))", "{{instance}}")],
                    "Elections that ended with another leader. Several an hour: slow disks or a bad network."),
                lines("Round trips to peers", "s", &[q(
                    "histogram_quantile(0.99, sum by (le, instance, To) (rate(etcd_network_peer_round_trip_time_seconds_bucket{@}[$__rate_interval])))",
                    "{{instance}} to {{To}}")],
                    "How far members are from each other. A third of the heartbeat interval is too much."),
                lines("Peer traffic", "Bps", &[
                    q("sum by (instance) (rate(etcd_network_peer_sent_bytes_total{@}[$__rate_interval]))", "{{instance}} out"),
                    q("sum by (instance) (rate(etcd_network_peer_received_bytes_total{@}[$__rate_interval]))", "{{instance}} in")],
                    "Bytes between members."),
                lines("Slow", "cps", &[
                    q("sum by (instance) (rate(etcd_server_slow_apply_total{@}[$__rate_interval]))", "{{instance}} applies"),
                    q("sum by (instance) (rate(etcd_server_slow_read_indexes_total{@}[$__rate_interval]))", "{{instance}} read indexes")],
                    "Applies and quorum reads that took longer than they should."),
            ],
        },
    ],
};
