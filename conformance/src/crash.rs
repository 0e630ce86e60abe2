//! What is acknowledged survives a `kill -9` and a power cut, and what is not is there as a whole or not at all.
//!
//! Writers put and remember what was acknowledged; a reader remembers what it saw. At a random moment the process is
//! killed, or the power of its disk is cut, and it is started again on what is left. Then every acknowledged write must
//! be there with its revision, nothing that was seen may be gone, a transaction that nobody answered is there with both
//! of its keys or with none, and revisions must not go back. Every few kills what was checked is deleted and compacted,
//! right before the writers go on: a kill also meets a compaction, and a run of any length keeps its size. Every few
//! kills, too, one compaction after the other is under way, or one defragmentation.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::{
        CompactionRequest, DefragmentRequest, RangeRequest, kv_client::KvClient, maintenance_client::MaintenanceClient,
        response_op::Response,
    },
    mvccpb::KeyValue,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tonic::transport::Channel;

use crate::{
    cases::requests::{Operation as _, always, del_range, get, put, range},
    session,
    target::{Kind, Target},
};

/// How many writers there are. Each has keys of its own and one request in flight.
const WRITERS: usize = 8;

/// After how many kills everything is deleted and compacted.
const CLEARED_EVERY: usize = 10;

/// Of so many cycles one meets a compaction under way, and one a defragmentation.
const MAINTAINED_EVERY: usize = 4;

/// How a target ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With SIGKILL: what it wrote is there, synced or not.
    Kill,
    /// With the power of its disk: what it wrote and did not sync is gone.
    PowerCut,
}

/// What all writers and the reader know.
#[derive(Debug, Default)]
struct Known {
    /// Acknowledged transactions: key, value and revision.
    acknowledged: Mutex<Vec<(Bytes, Bytes, i64)>>,
    /// The last transaction of each writer that nobody answered, or too late.
    open: Mutex<Vec<(Bytes, Bytes)>>,
    /// The highest revision in any answer.
    revision: AtomicI64,
    /// The last acknowledged compaction.
    compacted: AtomicI64,
    /// Set before the kill, so that writers take the failure for what it is.
    ending: AtomicBool,
    /// Set right before the power goes: no client of a machine without power sees what is answered from then on.
    is_over: AtomicBool,
}

/// How many writes were checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survived {
    /// Acknowledged ones.
    pub acknowledged: usize,
    /// Unanswered ones that are there.
    pub open_and_there: usize,
    /// Unanswered ones that are not.
    pub open_and_gone: usize,
}

/// Ends and restarts a target `cycles` times. `args` go to it.
pub async fn run(kind: Kind, ending: Ending, args: &[&str], seed: u64, cycles: usize) -> anyhow::Result<Survived> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut target = match ending {
        Ending::Kill => Target::start(kind, args).await?,
        Ending::PowerCut => Target::on_cut_disk(kind, args).await?,
    };
    let known = Arc::new(Known::default());
    let mut survived = Survived::default();
    for cycle in 0..cycles {
        let channel = session::connect(&target).await?;
        known.ending.store(false, Ordering::SeqCst);
        known.is_over.store(false, Ordering::SeqCst);
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            tasks.spawn(write(channel.clone(), Arc::clone(&known), cycle, writer, rng.random()));
        }
        tasks.spawn(read(channel.clone(), Arc::clone(&known)));
        match cycle % MAINTAINED_EVERY {
            1 => drop(tasks.spawn(compact(channel, Arc::clone(&known)))),
            3 => drop(tasks.spawn(defragment(channel, Arc::clone(&known)))),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..600))).await;
        known.ending.store(true, Ordering::SeqCst);
        match ending {
            Ending::Kill => target.kill(),
            Ending::PowerCut => target.cut_power(|| known.is_over.store(true, Ordering::SeqCst)).await?,
        }
        while let Some(ended) = tasks.join_next().await {
            ended?.with_context(|| format!("cycle {cycle} of seed {seed}, before the end"))?;
        }
        target.restart().await.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
        if ending == Ending::PowerCut {
            target.was_cut()?;
        }
        let channel = session::connect(&target).await?;
        check(channel.clone(), &known, &mut survived).await.with_context(|| format!("cycle {cycle} of seed {seed}"))?;
        if cycle % CLEARED_EVERY == CLEARED_EVERY - 1 {
            let cleared = clear(channel, &known).await;
            survived.acknowledged += cleared.with_context(|| format!("cycle {cycle} of seed {seed}, clearing"))?;
        }
    }
    survived.acknowledged += known.acknowledged.lock().expect("no writer panics").len();
    Ok(survived)
}

/// Deletes all keys and compacts their history away; the compaction may still be under way when this returns.
/// Returns how many acknowledged writes that were.
async fn clear(channel: Channel, known: &Known) -> anyhow::Result<usize> {
    let mut client = KvClient::new(channel);
    let both = always([del_range("a/", "a0").op(), del_range("b/", "b0").op()]);
    let revision = client.txn(both).await?.into_inner().header.context("a txn answers with a header")?.revision;
    client.compact(CompactionRequest { revision, physical: false }).await?;
    known.revision.fetch_max(revision, Ordering::SeqCst);
    known.compacted.store(revision, Ordering::SeqCst);
    Ok(std::mem::take(&mut *known.acknowledged.lock().expect("no writer panics")).len())
}

/// The two keys that one transaction writes.
fn pair(key: &Bytes) -> [Bytes; 2] {
    ["a/", "b/"].map(|prefix| [prefix.as_bytes(), key].concat().into())
}

/// Writes pairs of keys until the target is gone.
async fn write(channel: Channel, known: Arc<Known>, cycle: usize, writer: usize, seed: u64) -> anyhow::Result<()> {
    let mut client = KvClient::new(channel);
    let mut rng = StdRng::seed_from_u64(seed);
    for number in 0.. {
        let key = Bytes::from(format!("{cycle}/{writer}/{number}"));
        let value: Bytes = vec![rng.random::<u8>(); rng.random_range(1..2000)].into();
        let [a, b] = pair(&key);
        match client.txn(always([put(a, value.clone()).op(), put(b, value.clone()).op()])).await {
            Ok(_) if known.is_over.load(Ordering::SeqCst) => {
                known.open.lock().expect("no writer panics").push((key, value));
                return Ok(());
            }
            Ok(response) => {
                let revision = response.into_inner().header.context("a txn answers with a header")?.revision;
                known.revision.fetch_max(revision, Ordering::SeqCst);
                known.acknowledged.lock().expect("no writer panics").push((key, value, revision));
            }
            Err(_) if known.ending.load(Ordering::SeqCst) => {
                known.open.lock().expect("no writer panics").push((key, value));
                return Ok(());
            }
            Err(status) => return Err(status).context("a write failed on a running target"),
        }
    }
    Ok(())
}

/// Reads until the target is gone: what a client has seen may not be undone.
async fn read(channel: Channel, known: Arc<Known>) -> anyhow::Result<()> {
    let mut client = KvClient::new(channel);
    loop {
        match client.range(get("nothing")).await {
            Ok(_) if known.is_over.load(Ordering::SeqCst) => return Ok(()),
            Ok(response) => {
                let revision = response.into_inner().header.context("a range answers with a header")?.revision;
                known.revision.fetch_max(revision, Ordering::SeqCst);
            }
            Err(_) if known.ending.load(Ordering::SeqCst) => return Ok(()),
            Err(status) => return Err(status).context("a read failed on a running target"),
        }
    }
}

/// Compacts until the target is gone, at the latest revision each time. No key has two, so that no key goes.
async fn compact(channel: Channel, known: Arc<Known>) -> anyhow::Result<()> {
    let mut client = KvClient::new(channel);
    loop {
        let revision = known.revision.load(Ordering::SeqCst);
        if revision == known.compacted.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        match client.compact(CompactionRequest { revision, physical: true }).await {
            Ok(_) if known.is_over.load(Ordering::SeqCst) => return Ok(()),
            Ok(_) => known.compacted.store(revision, Ordering::SeqCst),
            // One that nobody answered before the last end was carried out.
            Err(status) if status.code() == tonic::Code::OutOfRange => {}
            Err(_) if known.ending.load(Ordering::SeqCst) => return Ok(()),
            Err(status) => return Err(status).context("a compaction failed on a running target"),
        }
    }
}

/// Defragments until the target is gone.
async fn defragment(channel: Channel, known: Arc<Known>) -> anyhow::Result<()> {
    let mut client = MaintenanceClient::new(channel);
    loop {
        match client.defragment(DefragmentRequest {}).await {
            Ok(_) => {}
            Err(_) if known.ending.load(Ordering::SeqCst) => return Ok(()),
            Err(status) => return Err(status).context("a defragmentation failed on a running target"),
        }
    }
}

async fn check(channel: Channel, known: &Known, survived: &mut Survived) -> anyhow::Result<()> {
    let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
    let both = always([range("a/", "a0").op(), range("b/", "b0").op()]);
    let response = client.txn(both).await?.into_inner();
    let revision = response.header.context("a txn answers with a header")?.revision;
    let seen = known.revision.load(Ordering::SeqCst);
    ensure!(revision >= seen, "revision {seen} was seen before, and now it is {revision}");
    let compacted = known.compacted.load(Ordering::SeqCst);
    if compacted > 1 {
        let old = client.range(RangeRequest { revision: compacted - 1, ..get("nothing") }).await;
        ensure!(
            old.is_err_and(|status| status.code() == tonic::Code::OutOfRange),
            "the acknowledged compaction at {compacted} is undone"
        );
    }
    let [mut a, mut b]: [Vec<KeyValue>; 2] = response
        .responses
        .into_iter()
        .filter_map(|op| match op.response {
            Some(Response::ResponseRange(range)) => Some(range.kvs),
            _ => None,
        })
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("two ranges have two answers"))?;
    for kvs in [&mut a, &mut b] {
        kvs.sort_by(|one, other| one.key.cmp(&other.key));
    }
    ensure!(a.len() == b.len(), "{} first and {} second keys: a txn is there in part", a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        ensure!(a.key[2..] == b.key[2..], "{:?} without {:?}: a txn is there in part", a.key, b.key);
        ensure!(a.mod_revision == b.mod_revision && a.value == b.value, "{:?} is there in part", a.key);
    }
    let find = |key: &Bytes| {
        let [first, _] = pair(key);
        a.binary_search_by(|kv| kv.key.cmp(&first)).ok().map(|at| &a[at])
    };
    for (key, value, revision) in known.acknowledged.lock().expect("no writer panics").iter() {
        let kv = find(key).with_context(|| format!("acknowledged {key:?} of revision {revision} is gone"))?;
        ensure!(kv.mod_revision == *revision, "{key:?} was acknowledged at {revision} and is at {}", kv.mod_revision);
        ensure!(kv.value == *value, "{key:?} has another value than the acknowledged one");
    }
    let mut there = Vec::new();
    for (key, value) in known.open.lock().expect("no writer panics").drain(..) {
        match find(&key) {
            Some(kv) => {
                ensure!(kv.value == value, "{key:?} was not answered and has a value that nobody wrote");
                there.push((key, value, kv.mod_revision));
            }
            None => survived.open_and_gone += 1,
        }
    }
    // From here on they are as good as acknowledged: a client has seen them.
    survived.open_and_there += there.len();
    let mut acknowledged = known.acknowledged.lock().expect("no writer panics");
    acknowledged.extend(there);
    ensure!(a.len() == acknowledged.len(), "{} pairs are there and {} were written", a.len(), acknowledged.len());
    Ok(())
}
