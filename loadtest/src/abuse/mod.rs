//! The abuse catalogue: what one client can do to a control plane, and what the others notice of it.
//!
//! Each entry is one client, from an address of its own, that does one thing as fast as it can. Beside it bystanders at
//! four other addresses do what a control plane lives by: 200 puts a second together, at moments that do not depend on
//! the answers, and leases of five seconds that are kept alive. They are measured alone, beside the abuse, and after it.

mod bystanders;
mod catalogue;
mod floods;
pub mod frames;
mod unread;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;
use tokio::{runtime::Handle, sync::watch, time};

use self::bystanders::Bystanders;
pub use self::bystanders::Felt;
pub use self::catalogue::{Did, abuse, preload};
pub use self::floods::{Flood, is_borne};
pub use self::unread::unread;
use crate::{client::Target, elsewhere::Elsewhere};

/// One entry of the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Abuse {
    /// Everything under a prefix, without a limit, again and again, by many at once.
    ListAll,
    /// Thousands of watches from the first revision on.
    WatchFlood,
    /// Txns of 128 puts of 8 KiB.
    HugeTxn,
    /// Values of a megabyte.
    BigValues,
    /// Leases that are granted, attached and revoked.
    LeaseChurn,
    /// Keys that nobody has seen before.
    KeySpray,
    /// Lists whose answers nobody reads.
    SlowReaders,
    /// Connections that say nothing, and connections that come and go.
    ConnectionFlood,
    /// Calls that are opened without end on one connection, and neither go on nor end.
    OpenStreams,
    /// Calls that are opened and taken back at once.
    RapidReset,
    /// Frames that say nothing, of one kind after the other.
    FrameFlood,
}

impl Abuse {
    /// All of them, in the order in which they are run.
    pub const ALL: [Abuse; 11] = [
        Abuse::ListAll,
        Abuse::WatchFlood,
        Abuse::HugeTxn,
        Abuse::BigValues,
        Abuse::LeaseChurn,
        Abuse::KeySpray,
        Abuse::SlowReaders,
        Abuse::ConnectionFlood,
        Abuse::OpenStreams,
        Abuse::RapidReset,
        Abuse::FrameFlood,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Abuse::ListAll => "list-all",
            Abuse::WatchFlood => "watch-flood",
            Abuse::HugeTxn => "huge-txn",
            Abuse::BigValues => "big-values",
            Abuse::LeaseChurn => "lease-churn",
            Abuse::KeySpray => "key-spray",
            Abuse::SlowReaders => "slow-readers",
            Abuse::ConnectionFlood => "connection-flood",
            Abuse::OpenStreams => "open-streams",
            Abuse::RapidReset => "rapid-reset",
            Abuse::FrameFlood => "frame-flood",
        }
    }

    /// The one with a name.
    pub fn named(name: &str) -> Option<Abuse> {
        Abuse::ALL.into_iter().find(|abuse| abuse.name() == name)
    }
}

/// How much of it, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// 1 is what the talk tells of, scaled to one machine: 20,000 objects of a KiB, 10,000 watches, 2,000 connections.
    pub size: f64,
    /// How long the abuse goes on.
    pub lasts: Duration,
    /// How long the bystanders are measured alone, and after.
    pub around: Duration,
    /// Puts a second of the bystanders.
    pub puts: u32,
    /// Whether the abuser's threads run when neither server nor bystanders want to. In earnest it has a machine of its own;
    /// here, what it costs to send takes CPU time from those that are measured.
    pub gives_way: bool,
}

impl Default for Plan {
    fn default() -> Plan {
        let (lasts, around) = (Duration::from_secs(10), Duration::from_secs(3));
        Plan { size: 1.0, lasts, around, puts: 200, gives_way: true }
    }
}

/// What came of one entry against one server.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub abuse: Abuse,
    /// What the bystanders noticed of the server before.
    pub alone: Felt,
    /// And meanwhile.
    pub beside: Felt,
    /// And afterwards.
    pub after: Felt,
    /// Leases of the bystanders that were lost.
    pub leases_lost: u64,
    pub did: Did,
    /// The memory that the server had resident before, and the most that it had meanwhile, in bytes.
    pub rss_before: u64,
    pub rss_max: u64,
    /// Whether the server was still there at the end.
    pub survived: bool,
}

/// Runs one entry against a server. `rss` tells its memory, none if it is gone.
pub async fn run(
    abuse: Abuse,
    address: SocketAddr,
    plan: Plan,
    rss: impl Fn() -> Option<u64> + Send + Sync + 'static,
) -> anyhow::Result<Report> {
    let bystanders = Bystanders::start(address, plan.puts).await.context("the bystanders")?;
    time::sleep(plan.around).await;
    bystanders.turn();

    let rss_before = rss().unwrap_or_default();
    let most = Arc::new(AtomicU64::new(0));
    let (rss, noting) = (Arc::new(rss), Arc::clone(&most));
    let watching = tokio::spawn({
        let rss = Arc::clone(&rss);
        async move {
            while let Some(now) = rss() {
                noting.fetch_max(now, Ordering::Relaxed);
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let (stop, stopped) = watch::channel(false);
    let elsewhere = plan.gives_way.then(Elsewhere::new).transpose()?;
    let begin = elsewhere.as_ref().map_or_else(Handle::current, |elsewhere| elsewhere.handle().clone());
    let abusing = begin.spawn(async move { self::abuse(abuse, &Target::at(address), plan.size, stopped).await });
    time::sleep(plan.lasts).await;
    bystanders.turn();
    stop.send_replace(true);
    let did = match time::timeout(Duration::from_secs(10), abusing).await {
        Ok(did) => did.context("the abuse panicked")?.unwrap_or_default(),
        // Its calls are never answered.
        Err(_elapsed) => Did::default(),
    };
    time::sleep(plan.around).await;
    let [alone, beside, after] = bystanders.felt()[..] else { unreachable!("invariant: two turns make three spans") };
    watching.abort();
    let leases_lost = bystanders.stop().await;
    let (rss_max, survived) = (most.load(Ordering::Relaxed), rss().is_some());
    Ok(Report { abuse, alone, beside, after, leases_lost, did, rss_before, rss_max, survived })
}
