//! The hub against a store made of a list, and clients that read what gRPC would carry.

mod create;
mod events;
mod feed;
mod keyspace;
pub(crate) mod model;
mod progress;
mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use forebay_proto::etcdserverpb::{WatchCreateRequest, WatchResponse};
use forebay_proto::mvccpb;
use parking_lot::Mutex;
use prost::Message;

use super::{Events, Fed, HeaderBase, History, Hub, Order, Polled, Ticket, WatchStream};
use crate::record::{Batch, Change, Put, Revision, Version};

pub(crate) const BASE: HeaderBase = HeaderBase { cluster_id: 11, member_id: 12, raft_term: 13 };

/// One write of a txn.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(&'static str, Bytes),
    Delete(&'static str),
}

fn put(key: &'static str, value: &str) -> Op {
    Op::Put(key, Bytes::copy_from_slice(value.as_bytes()))
}

/// A history without any cleverness: batches in a list, the live versions in a map.
#[derive(Default)]
pub(crate) struct Store(pub(crate) Mutex<Content>);

#[derive(Default)]
pub(crate) struct Content {
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    retained: i64,
    live: BTreeMap<&'static str, Version>,
    batches: Vec<Arc<Batch>>,
}

impl Store {
    /// Applies txns and makes them visible as one batch.
    pub(crate) fn commit(&self, txns: &[Vec<Op>]) -> Arc<Batch> {
        let mut content = self.0.lock();
        let mut changes = Vec::new();
        for txn in txns {
            let main = content.revision + 1;
            let mut sub = 0;
            for op in txn {
                let revision = Revision { main, sub };
                let (key, version) = match op {
                    Op::Put(key, value) => {
                        let prev = content.live.get(key);
                        let (create_revision, version) =
                            prev.map_or((main, 1), |prev| (prev.create_revision(), prev.version() + 1));
                        let put = Put {
                            revision,
                            create_revision,
                            version,
                            lease: 0,
                            key: key.as_bytes(),
                            value: &value[..],
                        };
                        (*key, Version::put(put, &mut Vec::new()))
                    }
                    Op::Delete(key) if content.live.contains_key(key) => {
                        (*key, Version::tombstone(revision, key.as_bytes(), &mut Vec::new()))
                    }
                    Op::Delete(_) => continue,
                };
                let prev = content.live.remove(key);
                if !version.is_tombstone() {
                    content.live.insert(key, version.clone());
                }
                changes.push(Change { version, prev });
                sub += 1;
            }
            content.revision += i64::from(sub > 0);
        }
        let batch = Arc::new(Batch::new(changes));
        content.batches.push(batch.clone());
        batch
    }

    pub(crate) fn compact(&self, revision: i64) {
        let mut content = self.0.lock();
        content.compacted = revision;
        content.batches.retain(|batch| batch.last() >= revision);
    }
}

impl History for Store {
    fn revision(&self) -> i64 {
        self.0.lock().revision
    }

    fn compacted(&self) -> i64 {
        self.0.lock().compacted
    }

    fn retained(&self) -> i64 {
        let content = self.0.lock();
        content.retained.max(content.compacted)
    }

    fn changes(&self, from: i64, max_revisions: usize) -> Vec<Arc<Batch>> {
        let mut revisions = 0;
        let content = self.0.lock();
        let behind = content.batches.iter().filter(|batch| batch.last() >= from);
        let enough = behind.take_while(|batch| {
            let before = revisions;
            revisions += usize::try_from(batch.last() - batch.first().max(from) + 1).unwrap();
            before < max_revisions
        });
        enough.cloned().collect()
    }
}

struct World {
    store: Arc<Store>,
    hub: Hub,
}

impl World {
    /// A store at revision 1, as an empty etcd is. Responses of 512 KiB and more are fragmented.
    fn new() -> World {
        let store = Arc::new(Store::default());
        store.0.lock().revision = 1;
        let hub = Hub::new(store.clone(), 0);
        World { store, hub }
    }

    /// Applies one txn and publishes it; returns its revision.
    fn txn(&self, ops: &[Op]) -> i64 {
        let batch = self.store.commit(&[ops.to_vec()]);
        self.hub.publish(&batch);
        batch.last()
    }

    fn put(&self, key: &'static str, value: &str) -> i64 {
        self.txn(&[put(key, value)])
    }

    fn delete(&self, key: &'static str) -> i64 {
        self.txn(&[Op::Delete(key)])
    }

    fn open(&self) -> Client {
        Client::new(&self.hub)
    }
}

pub(crate) struct Client {
    pub(crate) stream: WatchStream,
    wakes: Arc<AtomicUsize>,
}

impl Client {
    pub(crate) fn new(hub: &Hub) -> Client {
        let wakes = Arc::new(AtomicUsize::new(0));
        let counter = wakes.clone();
        let waker = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        Client { stream: hub.open(waker), wakes }
    }

    pub(crate) fn create(&mut self, request: WatchCreateRequest) {
        self.stream.create(&request);
    }

    /// Creates a watcher and takes its created message.
    pub(crate) fn watch(&mut self, request: WatchCreateRequest) -> i64 {
        self.create(request);
        let mut out = BytesMut::new();
        self.stream.poll(&BASE, &mut out, 1);
        let created = decode(out).remove(0);
        assert!(created.created && !created.canceled, "{created:?}");
        created.watch_id
    }

    /// Polls. There is memory for everything.
    pub(crate) fn poll(&mut self, out: &mut BytesMut, max_bytes: usize) -> Polled {
        loop {
            match self.stream.poll(&BASE, out, max_bytes) {
                Polled::Long(_) => self.stream.allow_long(),
                polled => return polled,
            }
        }
    }

    /// Reads until the stream is idle or over.
    pub(crate) fn read(&mut self) -> Vec<WatchResponse> {
        let mut out = BytesMut::new();
        while !matches!(self.poll(&mut out, 64 * 1024), Polled::Idle | Polled::Over) {}
        decode(out)
    }

    /// Reads until the stream is idle and prints the responses one a line.
    pub(crate) fn shown(&mut self) -> Vec<String> {
        self.read().iter().map(show).collect()
    }
}

/// The event of a put or, without a value, of a deletion, as an upstream sends it.
pub(crate) fn event(key: &str, value: Option<&str>, created: i64, version: i64, main: i64) -> mvccpb::Event {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let kv = mvccpb::KeyValue { key: bytes(key), mod_revision: main, ..Default::default() };
    let Some(value) = value else {
        return mvccpb::Event { r#type: 1, kv: Some(kv), prev_kv: None };
    };
    let kv = mvccpb::KeyValue { value: bytes(value), create_revision: created, version, ..kv };
    mvccpb::Event { r#type: 0, kv: Some(kv), prev_kv: None }
}

/// Takes gRPC messages apart.
pub(crate) fn decode(mut bytes: BytesMut) -> Vec<WatchResponse> {
    let mut responses = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes.get_u8(), 0, "not compressed");
        let len = bytes.get_u32() as usize;
        let response = WatchResponse::decode(bytes.split_to(len)).unwrap();
        let header = response.header.as_ref().unwrap();
        assert_eq!((header.cluster_id, header.member_id, header.raft_term), (11, 12, 13));
        responses.push(response);
    }
    responses
}

pub(crate) fn revision_of(response: &WatchResponse) -> i64 {
    response.header.as_ref().unwrap().revision
}

/// `id@revision`, what it says, and its events as `key=value`, `-key`, each with `@mod_revision` and `(was prev)`.
pub(crate) fn show(response: &WatchResponse) -> String {
    let mut line = format!("{}@{}", response.watch_id, revision_of(response));
    for (set, word) in
        [(response.created, " created"), (response.canceled, " canceled"), (response.fragment, " fragment")]
    {
        line.push_str(if set { word } else { "" });
    }
    if response.compact_revision != 0 {
        line.push_str(&format!(" compacted={}", response.compact_revision));
    }
    if !response.cancel_reason.is_empty() {
        line.push_str(&format!(" ({})", response.cancel_reason));
    }
    for event in &response.events {
        line.push_str(&format!(" {}", show_event(event)));
    }
    line
}

fn show_event(event: &mvccpb::Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let text = |bytes: &[u8]| match bytes.len() {
        0..=20 => bytes.escape_ascii().to_string(),
        len => format!("{len}B"),
    };
    let prev = event.prev_kv.as_ref().map_or(String::new(), |prev| format!("(was {})", text(&prev.value)));
    match event.r#type {
        0 => format!("{}={}@{}{prev}", text(&kv.key), text(&kv.value), kv.mod_revision),
        _ => {
            assert_eq!(
                (kv.create_revision, kv.version, kv.lease, kv.value.len()),
                (0, 0, 0, 0),
                "only key and revision"
            );
            format!("-{}@{}{prev}", text(&kv.key), kv.mod_revision)
        }
    }
}

pub(crate) fn on_key(key: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { key: Bytes::from_static(key.as_bytes()), ..WatchCreateRequest::default() }
}

pub(crate) fn on_range(key: &'static str, range_end: &'static str) -> WatchCreateRequest {
    WatchCreateRequest { range_end: Bytes::from_static(range_end.as_bytes()), ..on_key(key) }
}

pub(crate) fn on_all() -> WatchCreateRequest {
    on_range("\0", "\0")
}
