//! Records a history for [`check`](crate::check): clients that read and write a few keys of their own, and watchers.
//!
//! They live through everything that happens to the servers meanwhile: what is not answered is recorded as that, and a
//! watch that breaks is resumed where it was, as etcd's client does.

mod clients;
mod watchers;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use forebay_proto::etcdserverpb::{RangeRequest, kv_client::KvClient};
use tokio::task::JoinSet;

use crate::{
    bench::scenario::prefix_end,
    check::{Base, History, Operation, Time, Watch},
    client::{Connection, MAX_ANSWER},
};

/// What is recorded.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What all keys begin with. Nobody else writes under it.
    pub prefix: String,
    /// How many keys: the fewer, the more often clients meet.
    pub keys: u32,
    /// How many clients read and write.
    pub clients: usize,
    /// How many watchers watch.
    pub watchers: usize,
    /// The least time between two requests of a client.
    pub pause: Duration,
    /// How long an answer may take, before it is taken for lost.
    pub timeout: Duration,
    /// Whether nobody else writes at all. See [`History::exclusive`].
    pub exclusive: bool,
    /// Whether compactions are among the requests.
    pub compacts: bool,
    /// Where chance begins.
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            prefix: "check/".to_owned(),
            keys: 8,
            clients: 8,
            watchers: 6,
            pause: Duration::from_millis(5),
            timeout: Duration::from_secs(3),
            exclusive: false,
            compacts: false,
            seed: 1,
        }
    }
}

/// What everybody shares.
#[derive(Debug)]
struct Shared {
    setup: Setup,
    began: Instant,
    is_over: AtomicBool,
    /// All clients have ended: there is nothing more to come.
    is_final: AtomicBool,
    /// The highest revision that anybody saw.
    revision: AtomicI64,
    /// What is compacted, as far as it was asked for.
    compacted: AtomicI64,
    operations: Mutex<Vec<Operation>>,
    watches: Mutex<Vec<Watch>>,
}

impl Shared {
    fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_nanos()).expect("nobody records for centuries")
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn is_final(&self) -> bool {
        self.is_final.load(Ordering::SeqCst)
    }

    fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::SeqCst);
    }

    fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }
}

/// A recording that goes on until it is ended.
#[derive(Debug)]
pub struct Recording {
    base: Base,
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    watchers: JoinSet<()>,
}

/// How long watchers may take to get what was written at last.
const SETTLE: Duration = Duration::from_secs(20);

impl Recording {
    /// Reads what there is by the first connection, and begins. Clients and watchers take connections in turns.
    pub async fn begin(setup: Setup, connections: &[Connection]) -> anyhow::Result<Recording> {
        let mut client = KvClient::new(connections[0].clone()).max_decoding_message_size(MAX_ANSWER);
        let (key, range_end) = (setup.prefix.clone().into(), prefix_end(&setup.prefix));
        let answer = client.range(RangeRequest { key, range_end, ..Default::default() }).await;
        let answer = answer.context("what there is cannot be read")?.into_inner();
        let revision = answer.header.context("an answer has a header")?.revision;
        let shared = Arc::new(Shared {
            setup,
            began: Instant::now(),
            is_over: AtomicBool::new(false),
            is_final: AtomicBool::new(false),
            revision: AtomicI64::new(revision),
            compacted: AtomicI64::new(0),
            operations: Mutex::default(),
            watches: Mutex::default(),
        });
        let (mut clients, mut watchers) = (JoinSet::new(), JoinSet::new());
        for number in 0..shared.setup.clients {
            let connection = connections[number % connections.len()].clone();
            clients.spawn(clients::run(Arc::clone(&shared), connection, number));
        }
        for number in 0..shared.setup.watchers {
            let connection = connections[number % connections.len()].clone();
            watchers.spawn(watchers::run(Arc::clone(&shared), connection, number));
        }
        Ok(Recording { base: Base { revision, kvs: answer.kvs }, shared, clients, watchers })
    }

    /// How many operations were recorded so far.
    pub fn operations(&self) -> usize {
        self.shared.operations.lock().expect("nothing panics under this lock").len()
    }

    /// Lets the clients finish, gives the watchers time to get everything, and hands over what was recorded.
    pub async fn end(mut self) -> History {
        self.shared.is_over.store(true, Ordering::SeqCst);
        while self.clients.join_next().await.is_some() {}
        self.shared.is_final.store(true, Ordering::SeqCst);
        let settle = async { while self.watchers.join_next().await.is_some() {} };
        // Whoever has not got everything by then has lost it: the check will say so.
        let _ = tokio::time::timeout(SETTLE, settle).await;
        self.watchers.shutdown().await;
        let operations = std::mem::take(&mut *self.shared.operations.lock().expect("nothing panics under this lock"));
        let mut watches = std::mem::take(&mut *self.shared.watches.lock().expect("nothing panics under this lock"));
        let last = self.shared.revision();
        for watch in watches.iter_mut().filter(|watch| watch.settled > 0) {
            watch.settled = last;
        }
        History { base: self.base, operations, watches, exclusive: self.shared.setup.exclusive }
    }
}
