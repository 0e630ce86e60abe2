//! The watchers of a recording.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, watch_client::WatchClient, watch_request::RequestUnion,
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::Shared;
use crate::{
    bench::scenario::prefix_end,
    check::{Received, Watch},
    client::{Connection, MAX_ANSWER},
};

/// How long a stream may take to open, and its first message to come.
const OPEN: Duration = Duration::from_secs(3);

/// How long nothing comes before it is asked how far it is; and until a stream that then stays silent is given up.
const QUIET: Duration = Duration::from_millis(300);
const DEAD: u32 = 20;

/// How many messages a watcher takes before it begins a new watch, so that many begin in the past.
const MESSAGES: usize = 400;

/// One watcher: watches, resumes where it was, and now and then begins somewhere else. Ends when the recording is over
/// and it has everything.
pub async fn run(shared: Arc<Shared>, connection: Connection, number: usize) {
    let mut rng = SmallRng::seed_from_u64(shared.setup.seed ^ 0x7761_7463_6800 ^ number as u64);
    // A revision to go on from, or a new beginning.
    let mut resume: Option<(WatchCreateRequest, i64)> = None;
    loop {
        let request = match resume.take() {
            Some((request, next)) => WatchCreateRequest { start_revision: next, ..request },
            None => fresh(&shared, &mut rng, number),
        };
        let called = shared.now();
        let mut watch = Watch { called, request: request.clone(), messages: Vec::new(), settled: 0 };
        let ended = follow(&shared, &connection, &mut watch).await;
        // Of a message in fragments that broke off, nothing counts.
        while watch.messages.last().is_some_and(|message| message.response.fragment) {
            watch.messages.pop();
        }
        let next = next_revision(&watch);
        let was_created = watch.messages.first().is_some_and(|message| message.response.created);
        if ended == Ended::Settled {
            // The last revision is put in when all have ended.
            watch.settled = 1;
        }
        if was_created {
            shared.watches.lock().expect("nothing panics under this lock").push(watch);
        }
        match ended {
            Ended::Settled => return,
            Ended::Broken if was_created && next > 0 => resume = Some((request, next)),
            Ended::Broken => resume = Some((request.clone(), request.start_revision)),
            Ended::Enough | Ended::Cancelled => {}
        }
        if ended != Ended::Enough {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// How a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// The stream did, or is dead.
    Broken,
    /// The server ended it.
    Cancelled,
    /// It has seen enough, and begins a new one.
    Enough,
    /// The recording is over, and it has everything.
    Settled,
}

/// A watch that begins now, or a little in the past. The first watcher watches everything.
fn fresh(shared: &Shared, rng: &mut SmallRng, number: usize) -> WatchCreateRequest {
    let setup = &shared.setup;
    let key = match number {
        0 => setup.prefix.clone(),
        _ => format!("{}{:02}", setup.prefix, rng.random_range(0..setup.keys.max(1))),
    };
    let is_one = number > 0 && rng.random_range(0..3) == 0;
    let past = shared.revision() - rng.random_range(0..50);
    WatchCreateRequest {
        key: key.into(),
        range_end: if is_one { Bytes::new() } else { prefix_end(&setup.prefix) },
        start_revision: if rng.random() { 0 } else { past.max(1) },
        prev_kv: rng.random(),
        filters: if number > 0 && rng.random_range(0..4) == 0 { vec![rng.random_range(0..2)] } else { Vec::new() },
        fragment: rng.random_range(0..4) == 0,
        ..Default::default()
    }
}

/// The revision behind everything that a watch has got, as etcd's client counts.
fn next_revision(watch: &Watch) -> i64 {
    let mut next = watch.request.start_revision;
    for Received { response, .. } in &watch.messages {
        let header = response.header.map_or(0, |header| header.revision);
        let last = response.events.last().and_then(|event| event.kv.as_ref()).map(|kv| kv.mod_revision);
        next = match last {
            Some(last) => next.max(last + 1),
            None if response.created && watch.request.start_revision > 0 => next,
            None => next.max(header + 1),
        };
    }
    next
}

async fn follow(shared: &Shared, connection: &Connection, watch: &mut Watch) -> Ended {
    let (requests, receiver) = mpsc::channel(4);
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(watch.request.clone())) };
    if requests.try_send(create).is_err() {
        return Ended::Broken;
    }
    let mut client = WatchClient::new(connection.clone()).max_decoding_message_size(MAX_ANSWER);
    let Ok(Ok(opened)) = timeout(OPEN, client.watch(ReceiverStream::new(receiver))).await else {
        return Ended::Broken;
    };
    let mut stream = opened.into_inner();
    let mut silent = 0;
    loop {
        let Ok(message) = timeout(QUIET, stream.message()).await else {
            silent += 1;
            let progress = WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) };
            let is_created = !watch.messages.is_empty();
            if silent > DEAD || (is_created && requests.try_send(progress).is_err()) {
                return Ended::Broken;
            }
            continue;
        };
        let Ok(Some(response)) = message else { return Ended::Broken };
        let (at, is_cancelled) = (shared.now(), response.canceled);
        silent = 0;
        watch.messages.push(Received { at, response });
        if is_cancelled {
            return Ended::Cancelled;
        }
        let is_whole = watch.messages.last().is_some_and(|message| !message.response.fragment);
        if shared.is_final() && is_whole && next_revision(watch) > shared.revision() {
            return Ended::Settled;
        }
        if watch.messages.len() > MESSAGES && is_whole && !shared.is_over() {
            return Ended::Enough;
        }
    }
}
