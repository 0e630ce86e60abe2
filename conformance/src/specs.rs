//! Random ranges and watches, asked directly and through a gateway of one and the same store, and compared.
//!
//! Unlike [`programs`](crate::programs) and [`watches`](crate::watches) nothing is written meanwhile, so many questions
//! can be asked of one history, and every answer must be the same, headers included. Between two histories something
//! happens to the store, and the gateway has to live with it.

mod store;

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use forebay_proto::{
    etcdserverpb::{
        RangeRequest, RangeResponse, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
        kv_client::KvClient, watch_client::WatchClient, watch_request::RequestUnion,
    },
    mvccpb::Event,
};
use futures::{StreamExt as _, stream};
use tonic::{Status, Streaming, transport::Channel};

pub use self::store::Store;
use crate::programs::Generator;

/// Operations that are lost in a restore, and as many before and after it.
const WRITES: usize = 100;

/// Watches on one stream.
const PER_STREAM: usize = 200;

/// How many ranges are asked at once.
const AT_ONCE: usize = 32;

/// How many were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Ranges.
    pub ranges: usize,
    /// Watches, and the events that they got.
    pub watches: usize,
    /// Events.
    pub events: usize,
}

/// Writes the history of a seed, with the fault of its turn in it, and asks so many ranges and watches about it both
/// ways.
pub async fn check(store: &mut Store, seed: u64, ranges: usize, watches: usize) -> anyhow::Result<Compared> {
    // A member that ends itself is no fault of the gateway, and looks like one.
    let compared = compare(store, seed, ranges, watches).await;
    compared.with_context(|| format!("seed {seed}; the members' log: {}", store.log()))
}

async fn compare(store: &mut Store, seed: u64, ranges: usize, watches: usize) -> anyhow::Result<Compared> {
    let mut generator = Generator::new(seed);
    store.write(&mut generator, WRITES).await?;
    let fault = store.next_fault(seed).await?;
    store.write(&mut generator, WRITES).await?;
    store.suffer(&fault).await?;
    store.write(&mut generator, WRITES).await?;
    let (compacted, last) = store.compact().await?;
    let (direct, through) = store.connect()?;

    let requests: Vec<RangeRequest> = (0..ranges).map(|_| generator.range_at(compacted - 5, last + 3)).collect();
    let compared = stream::iter(requests).map(|request| {
        let (mut direct, mut through) = (KvClient::new(direct.clone()), KvClient::new(through.clone()));
        async move {
            let (one, other) = tokio::join!(direct.range(request.clone()), through.range(request.clone()));
            let (one, other) = (settled(&request, one), settled(&request, other));
            ensure!(one == other, "{request:?}\n  directly: {one:?}\n  through:  {other:?}");
            Ok(())
        }
    });
    let mut compared = compared.buffer_unordered(AT_ONCE);
    while let Some(same) = compared.next().await {
        same?;
    }

    let mut found = Compared { ranges, watches, events: 0 };
    // None begins in the future: etcd tells no progress on a stream that has such a one.
    let creates: Vec<WatchCreateRequest> = (0..watches).map(|_| generator.watch_from(compacted - 3, last)).collect();
    for creates in creates.chunks(PER_STREAM) {
        let (one, other) = tokio::join!(watched(&direct, creates, last), watched(&through, creates, last));
        let (one, other) = (one.context("directly")?, other.context("through the gateway")?);
        for (id, (create, (one, other))) in creates.iter().zip(one.iter().zip(&other)).enumerate() {
            ensure!(one == other, "watch {id} {create:?}\n  directly: {one:?}\n  through:  {other:?}");
            found.events += one.events.len();
        }
    }
    store.is_mirrored().await?;
    Ok(found)
}

/// Takes out what says which member answered.
fn forget_who(response: &mut RangeResponse) {
    if let Some(header) = &mut response.header {
        (header.member_id, header.raft_term) = (0, 0);
    }
}

/// An answer, with what is nobody's promise taken out.
fn settled(
    request: &RangeRequest,
    answer: Result<tonic::Response<RangeResponse>, Status>,
) -> Result<RangeResponse, String> {
    let mut response = match answer {
        Ok(response) => crate::programs::settle(request, response.into_inner()),
        Err(status) => return Err(format!("{:?}: {}", status.code(), status.message())),
    };
    forget_who(&mut response);
    Ok(response)
}

/// What one watch was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    events: Vec<Event>,
    /// The compaction that ended it, and the reason that was given.
    ended: Option<(i64, String)>,
}

/// Creates watches on one stream and returns what each was told of everything up to a revision.
async fn watched(channel: &Channel, creates: &[WatchCreateRequest], last: i64) -> anyhow::Result<Vec<Told>> {
    let (requests, receiver) = tokio::sync::mpsc::channel(creates.len() + 64);
    for (id, create) in creates.iter().enumerate() {
        let watch_id = i64::try_from(id).expect("an id fits");
        let create = WatchCreateRequest { watch_id, ..create.clone() };
        requests.send(request(RequestUnion::CreateRequest(create))).await?;
    }
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut messages: Streaming<_> =
        WatchClient::new(channel.clone()).max_decoding_message_size(usize::MAX).watch(receiver).await?.into_inner();
    let mut told: BTreeMap<i64, Told> = BTreeMap::new();
    let mut asked_at = 0;
    loop {
        let wait = tokio::time::timeout(std::time::Duration::from_millis(200), messages.message());
        let Ok(message) = wait.await else {
            // Quiet: everything may be there. One watch that is not synced keeps progress from being told.
            asked_at += 1;
            ensure!(asked_at < 150, "no progress in 30 s");
            requests.send(request(RequestUnion::ProgressRequest(WatchProgressRequest {}))).await?;
            continue;
        };
        let message = message?.context("the stream goes on")?;
        let told = told.entry(message.watch_id).or_default();
        let is_progress = message.events.is_empty() && !message.created && !message.canceled;
        if message.canceled {
            told.ended = Some((message.compact_revision, message.cancel_reason));
            // One that a compaction has ended keeps etcd from telling progress, until its client ends it too.
            let cancel = WatchCancelRequest { watch_id: message.watch_id };
            requests.send(request(RequestUnion::CancelRequest(cancel))).await?;
        }
        told.events.extend(message.events);
        if is_progress && message.header.is_some_and(|header| header.revision >= last) {
            break;
        }
    }
    Ok((0..creates.len() as i64).map(|id| told.remove(&id).unwrap_or_default()).collect())
}

fn request(union: RequestUnion) -> WatchRequest {
    WatchRequest { request_union: Some(union) }
}
