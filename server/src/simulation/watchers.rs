//! Clients that watch, and never believe that they were told everything.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::{Buf as _, Bytes, BytesMut};
use forebay_keyspace::watch::{HeaderBase, Polled, WatchStream};
use forebay_proto::{
    etcdserverpb::{WatchCreateRequest, WatchResponse},
    mvccpb::event::EventType,
};
use prost::Message as _;

use super::{member::Running, model::Model};

pub(super) struct Watcher {
    key: Bytes,
    end: Bytes,
    /// The first revision it has not been told of; 0 before it was told of any.
    next: i64,
    connection: Option<Connection>,
    pub(super) events: u64,
}

struct Connection {
    member: u64,
    stream: WatchStream,
    woken: Arc<AtomicBool>,
}

impl Watcher {
    pub(super) fn new(key: Bytes, end: Bytes) -> Self {
        Self { key, end, next: 1, connection: None, events: 0 }
    }

    /// The member it is connected to.
    pub(super) fn member(&self) -> Option<u64> {
        self.connection.as_ref().map(|connection| connection.member)
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(super) fn connect(&mut self, member: u64, running: &Running) {
        let woken = Arc::new(AtomicBool::new(true));
        let wake = woken.clone();
        let mut stream = running.hub.open(Arc::new(move || wake.store(true, Ordering::Relaxed)));
        let request = WatchCreateRequest {
            key: self.key.clone(),
            range_end: self.end.clone(),
            start_revision: self.next,
            ..WatchCreateRequest::default()
        };
        stream.create(&request);
        stream.request_progress();
        self.connection = Some(Connection { member, stream, woken });
    }

    /// Asks how far it is.
    pub(super) fn ask_progress(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.stream.request_progress();
            connection.woken.store(true, Ordering::Relaxed);
        }
    }

    /// Reads what its member has to say. With `loses`, one event does not arrive.
    pub(super) fn poll(&mut self, model: &Model, mut loses: impl FnMut() -> bool) {
        let Some(mut connection) = self.connection.take() else { return };
        let mut over = false;
        while !over && connection.woken.swap(false, Ordering::Relaxed) {
            let mut out = BytesMut::new();
            loop {
                match connection.stream.poll(&HeaderBase::default(), &mut out, 1 << 20) {
                    Polled::Wrote { .. } | Polled::Yield => {}
                    Polled::Long(_) => connection.stream.allow_long(),
                    Polled::Idle => break,
                    Polled::Over => {
                        over = true;
                        break;
                    }
                }
            }
            while out.has_remaining() {
                out.advance(1);
                let len = out.get_u32() as usize;
                let response = WatchResponse::decode(out.split_to(len)).expect("the hub writes watch responses");
                over |= self.take(response, model, &mut loses);
            }
        }
        self.connection = (!over).then_some(connection);
    }

    /// Compares a response with what there was to tell. Returns whether the watch is over.
    fn take(&mut self, mut response: WatchResponse, model: &Model, loses: &mut impl FnMut() -> bool) -> bool {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.canceled {
            let compacted = response.compact_revision;
            assert!(0 < compacted && compacted <= model.compacted, "a watch ended as compacted at {compacted}");
            assert!(self.next <= compacted, "a watch from {} ended as compacted at {compacted}", self.next);
            self.next = compacted;
            return true;
        }
        if response.created {
            return false;
        }
        if loses() {
            response.events.pop();
        }
        let expected: Vec<_> = match response.events.last().and_then(|event| event.kv.as_ref()) {
            // A notice: nothing up to its revision is left to tell.
            None => model.changes(&self.key, &self.end, self.next).collect(),
            Some(_) => model.changes(&self.key, &self.end, self.next).take(response.events.len()).collect(),
        };
        if response.events.is_empty() {
            let untold = expected.iter().find(|event| event.version.modified <= revision);
            assert!(untold.is_none(), "a notice of {revision} came before {untold:?} (next is {})", self.next);
            self.next = self.next.max(revision + 1);
            return false;
        }
        for (event, expected) in response.events.iter().zip(&expected) {
            let kv = event.kv.as_ref().expect("an event has a key");
            let version = &expected.version;
            let is_delete = event.r#type() == EventType::Delete;
            let same = kv.key == expected.key
                && kv.mod_revision == version.modified
                && is_delete == version.value.is_none()
                && (is_delete
                    || (kv.value == version.value.clone().unwrap_or_default()
                        && (kv.create_revision, kv.version, kv.lease)
                            == (version.created, version.version, version.lease)));
            assert!(same, "a watch from {} was told {event:?} where {expected:?} is next", self.next);
        }
        let beyond = response.events.get(expected.len());
        assert!(beyond.is_none(), "a watch from {} was told {beyond:?}, which is not in the log", self.next);
        let last = expected.last().map_or(0, |event| event.version.modified);
        let cut = model.changes(&self.key, &self.end, last).filter(|event| event.version.modified == last).count();
        let told = expected.iter().filter(|event| event.version.modified == last).count();
        assert_eq!(told, cut, "revision {last} was told in parts");
        self.next = last + 1;
        self.events += expected.len() as u64;
        false
    }

    /// After everything has come to rest, nothing is left to tell.
    pub(super) fn check_current(&self, model: &Model) {
        let untold = model.changes(&self.key, &self.end, self.next).next();
        assert!(untold.is_none(), "a watcher was never told of {untold:?}");
    }
}
