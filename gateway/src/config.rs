//! What a gateway is told: plain values, validated where they are parsed.

use std::{fmt, time::Duration};

use forebay_policies::Policy;
use rand::Rng as _;

use crate::{
    admission::AdminToken,
    mirror::{Credentials, MirrorConfig},
};

/// The configuration of a gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// The client URLs of this gateway. If set, MemberList answers with them in place of the
    /// members' own, so that clients that follow the member list stay behind the gateway.
    pub advertise_client_urls: Vec<String>,
    /// Largest request message. It must not be below the upstream's limit, or the gateway refuses
    /// what the upstream would take.
    pub max_message_bytes: usize,
    /// How many gateways a call may pass. A small number cuts a loop early; it must be at least the
    /// number of gateways that are stacked on purpose.
    pub max_hops: usize,
    /// Who this gateway is, among gateways that forward to each other.
    pub id: GatewayId,
    /// The upstream's user as which the gateway writes keys of its own, and says which quotas are to be held. No request
    /// of a client goes out as this user.
    pub user: Option<Credentials>,
    /// What of the upstream is mirrored; nothing without it.
    pub mirror: Option<MirrorConfig>,
    /// Who may do how much, and how much is held for all.
    pub admission: AdmissionConfig,
}

/// What admission begins with.
#[derive(Clone, Debug)]
pub struct AdmissionConfig {
    /// The policy until another is loaded.
    pub policy: Policy,
    /// Bytes of requests and answers that are held at the same time. Too small a number makes large
    /// lists and many slow clients wait for each other; the process needs some more than it.
    pub memory_bytes: usize,
    /// Whether large lists are read in pages, which spares an upstream that would make all of one at once. Ours does not.
    pub lists_in_pages: bool,
    /// From how long on the log tells of a request.
    pub slow_request: Duration,
    /// Who brings it is the operator: answered from everywhere, and let past every limit.
    pub admin_token: Option<AdminToken>,
}

impl Default for AdmissionConfig {
    fn default() -> AdmissionConfig {
        AdmissionConfig {
            policy: Policy::builtin(),
            memory_bytes: 1 << 30,
            lists_in_pages: true,
            slow_request: Duration::from_secs(1),
            admin_token: None,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            advertise_client_urls: Vec::new(),
            max_message_bytes: MAX_MESSAGE_BYTES,
            max_hops: 4,
            id: GatewayId::random(),
            user: None,
            mirror: None,
            admission: AdmissionConfig::default(),
        }
    }
}

/// etcd's default `--max-request-bytes` and what it grants gRPC on top.
pub const MAX_MESSAGE_BYTES: usize = (1536 << 10) + (512 << 10);

/// How the gateway connects to its endpoints.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// HTTP/2 connections to each endpoint. More spread the work over cores, on both sides.
    pub connections: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How often a connection with open streams is pinged. Never below [`KEEPALIVE_MIN`].
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered before the connection is given up.
    pub keepalive_timeout: Duration,
    /// How often an endpoint's health is asked for.
    pub probe_interval: Duration,
    /// How long that answer may take before other endpoints are preferred.
    pub probe_timeout: Duration,
    /// How long a call may wait for an endpoint, if its deadline does not say less.
    pub hold: Duration,
}

/// etcd ends connections that ping more often than every 5 s; the rest is for a jittery clock.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(6);

impl Default for PoolConfig {
    fn default() -> PoolConfig {
        PoolConfig {
            connections: 2,
            connect_timeout: Duration::from_secs(2),
            keepalive_interval: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
            probe_timeout: Duration::from_secs(2),
            hold: Duration::from_secs(2),
        }
    }
}

/// The random name of one gateway process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayId(pub u64);

impl GatewayId {
    /// A name that no other gateway has.
    pub fn random() -> GatewayId {
        GatewayId(rand::rng().random())
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
