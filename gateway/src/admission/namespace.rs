//! Clients that are confined to a prefix see it as the whole key space.
//!
//! Keys get the prefix on their way in and lose it on their way out, as behind etcd's
//! `grpc-proxy --namespace`. Unlike there, what reaches beyond keys is refused: a snapshot holds
//! everybody's keys, a compaction takes everybody's history. Leases are shared by all clients, as
//! their ids are, but the keys of a lease that lie elsewhere are not shown.

mod messages;

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::{Body, grpc};
use forebay_policies::{Rpc, prefix};
use forebay_proto::{
    Error, KeyRange,
    etcdserverpb::{
        Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseTimeToLiveResponse, PutRequest, PutResponse,
        RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse, WatchRequest,
        WatchResponse, request_op::Request, response_op::Response, watch_request::RequestUnion,
    },
    mvccpb::KeyValue,
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
    },
    v3lockpb::{LockRequest, LockResponse, UnlockRequest},
};
use prost::Message;

pub(super) use self::messages::each_message;
use crate::call::Failure;

/// The part of the key space that a client sees.
#[derive(Clone, Debug)]
pub(super) struct Confinement {
    prefix: Bytes,
}

/// The body of an answer as a client is to see it that may be confined.
pub(super) fn outward(confinement: Option<Confinement>, rpc: Rpc, body: Body) -> Body {
    match confinement {
        Some(confinement) => each_message(body, move |message| confinement.outward(rpc, message)),
        None => body,
    }
}

impl Confinement {
    pub(super) fn new(prefix: &[u8]) -> Confinement {
        Confinement { prefix: Bytes::copy_from_slice(prefix) }
    }

    /// A request as the upstream is to see it.
    pub(super) fn inward(&self, rpc: Rpc, message: Bytes) -> Result<Bytes, Failure> {
        match rpc {
            Rpc::Range | Rpc::RangeStream => self.request(message, Self::range_in),
            Rpc::Put => self.request(message, |own, put: &mut PutRequest| own.key_in(&mut put.key)),
            Rpc::DeleteRange => self.request(message, Self::delete_in),
            Rpc::Txn => self.request(message, Self::txn_in),
            Rpc::Watch => self.request(message, |own, request: &mut WatchRequest| {
                if let Some(RequestUnion::CreateRequest(create)) = &mut request.request_union {
                    own.pair_in(&mut create.key, &mut create.range_end);
                }
            }),
            Rpc::Lock => self.request(message, |own, lock: &mut LockRequest| own.key_in(&mut lock.name)),
            Rpc::Unlock => self.request(message, |own, unlock: &mut UnlockRequest| own.key_in(&mut unlock.key)),
            Rpc::Campaign => {
                self.request(message, |own, campaign: &mut CampaignRequest| own.key_in(&mut campaign.name))
            }
            Rpc::Leader | Rpc::Observe => {
                self.request(message, |own, leader: &mut LeaderRequest| own.key_in(&mut leader.name))
            }
            Rpc::Proclaim => self.request(message, |own, proclaim: &mut ProclaimRequest| {
                proclaim.leader.iter_mut().for_each(|leader| own.leader_in(leader));
            }),
            Rpc::Resign => self.request(message, |own, resign: &mut ResignRequest| {
                resign.leader.iter_mut().for_each(|leader| own.leader_in(leader));
            }),
            Rpc::LeaseGrant
            | Rpc::LeaseRevoke
            | Rpc::LeaseKeepAlive
            | Rpc::LeaseTimeToLive
            | Rpc::LeaseLeases
            | Rpc::MemberList
            | Rpc::Status
            | Rpc::AuthStatus
            | Rpc::Authenticate
            | Rpc::HealthCheck
            | Rpc::HealthWatch
            | Rpc::HealthList => Ok(message),
            _ => Err(Failure::Refused(Error::PermissionDenied.into())),
        }
    }

    /// A response as the client is to see it.
    pub(super) fn outward(&self, rpc: Rpc, message: Bytes) -> Result<Bytes, Failure> {
        match rpc {
            Rpc::Range => self.response(message, Self::range_out),
            Rpc::RangeStream => self.response(message, |own, stream: &mut RangeStreamResponse| {
                stream.range_response.iter_mut().for_each(|range| own.range_out(range));
            }),
            Rpc::Put => self.response(message, |own, put: &mut PutResponse| own.records_out(&mut put.prev_kv)),
            Rpc::DeleteRange => {
                self.response(message, |own, delete: &mut DeleteRangeResponse| own.records_out(&mut delete.prev_kvs))
            }
            Rpc::Txn => self.response(message, Self::txn_out),
            Rpc::Watch => self.response(message, |own, response: &mut WatchResponse| {
                for event in &mut response.events {
                    own.records_out(event.kv.iter_mut().chain(&mut event.prev_kv));
                }
            }),
            Rpc::LeaseTimeToLive => self.response(message, |own, lease: &mut LeaseTimeToLiveResponse| {
                lease.keys.retain(|key| key.starts_with(&own.prefix));
                lease.keys.iter_mut().for_each(|key| own.key_out(key));
            }),
            Rpc::Lock => self.response(message, |own, lock: &mut LockResponse| own.key_out(&mut lock.key)),
            Rpc::Campaign => self.response(message, |own, campaign: &mut CampaignResponse| {
                if let Some(leader) = &mut campaign.leader {
                    own.key_out(&mut leader.name);
                    own.key_out(&mut leader.key);
                }
            }),
            Rpc::Leader | Rpc::Observe => {
                self.response(message, |own, leader: &mut LeaderResponse| own.records_out(&mut leader.kv))
            }
            _ => Ok(message),
        }
    }

    fn request<M: Message + Default>(&self, message: Bytes, edit: fn(&Self, &mut M)) -> Result<Bytes, Failure> {
        // Unlike others, this cannot pass: the upstream might read what we cannot, and then it was not confined.
        let decoded = M::decode(message).map_err(|error| Failure::Refused(grpc::malformed(error)))?;
        Ok(self.edited(decoded, edit))
    }

    fn response<M: Message + Default>(&self, message: Bytes, edit: fn(&Self, &mut M)) -> Result<Bytes, Failure> {
        let decoded = M::decode(message).map_err(|error| Failure::Broken(error.into()))?;
        Ok(self.edited(decoded, edit))
    }

    fn edited<M: Message>(&self, mut message: M, edit: fn(&Self, &mut M)) -> Bytes {
        edit(self, &mut message);
        message.encode_to_vec().into()
    }

    /// An empty key is not one, and stays so.
    fn key_in(&self, key: &mut Bytes) {
        if key.is_empty() {
            return;
        }
        let mut inner = BytesMut::with_capacity(self.prefix.len() + key.len());
        inner.put_slice(&self.prefix);
        inner.put_slice(key);
        *key = inner.freeze();
    }

    fn key_out(&self, key: &mut Bytes) {
        if key.starts_with(&self.prefix) {
            *key = key.slice(self.prefix.len()..);
        }
    }

    /// A key and the end of a range. "No end" is the end of the prefix.
    fn pair_in(&self, key: &mut Bytes, end: &mut Bytes) {
        match &end[..] {
            [] => {}
            [0] => {
                *end = match prefix::range(&self.prefix) {
                    KeyRange::Range(_, end) => end,
                    _ => Bytes::from_static(b"\0"),
                };
                if key.is_empty() {
                    *key = self.prefix.clone();
                    return;
                }
            }
            _ => self.key_in(end),
        }
        self.key_in(key);
    }

    fn range_in(&self, range: &mut RangeRequest) {
        self.pair_in(&mut range.key, &mut range.range_end);
    }

    fn delete_in(&self, delete: &mut DeleteRangeRequest) {
        self.pair_in(&mut delete.key, &mut delete.range_end);
    }

    fn txn_in(&self, txn: &mut TxnRequest) {
        for Compare { key, range_end, .. } in &mut txn.compare {
            self.pair_in(key, range_end);
        }
        for RequestOp { request } in txn.success.iter_mut().chain(&mut txn.failure) {
            match request {
                Some(Request::RequestRange(range)) => self.range_in(range),
                Some(Request::RequestPut(put)) => self.key_in(&mut put.key),
                Some(Request::RequestDeleteRange(delete)) => self.delete_in(delete),
                Some(Request::RequestTxn(txn)) => self.txn_in(txn),
                None => {}
            }
        }
    }

    fn leader_in(&self, leader: &mut LeaderKey) {
        self.key_in(&mut leader.name);
        self.key_in(&mut leader.key);
    }

    fn records_out<'a>(&self, records: impl IntoIterator<Item = &'a mut KeyValue>) {
        records.into_iter().for_each(|record| self.key_out(&mut record.key));
    }

    fn range_out(&self, range: &mut RangeResponse) {
        self.records_out(&mut range.kvs);
    }

    fn txn_out(&self, txn: &mut TxnResponse) {
        for ResponseOp { response } in &mut txn.responses {
            match response {
                Some(Response::ResponseRange(range)) => self.range_out(range),
                Some(Response::ResponsePut(put)) => self.records_out(&mut put.prev_kv),
                Some(Response::ResponseDeleteRange(delete)) => self.records_out(&mut delete.prev_kvs),
                Some(Response::ResponseTxn(txn)) => self.txn_out(txn),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confined() -> Confinement {
        Confinement::new(b"/t1/")
    }

    fn range_in(key: &'static [u8], end: &'static [u8]) -> (Bytes, Bytes) {
        let asked =
            RangeRequest { key: Bytes::from_static(key), range_end: Bytes::from_static(end), ..Default::default() };
        let inward = confined().inward(Rpc::Range, asked.encode_to_vec().into()).unwrap();
        let asked = RangeRequest::decode(inward).unwrap();
        (asked.key, asked.range_end)
    }

    #[test]
    fn no_range_reaches_beyond_the_prefix() {
        let pair = |key: &'static str, end: &'static str| (Bytes::from(key), Bytes::from(end));
        assert_eq!(range_in(b"a", b""), pair("/t1/a", ""));
        assert_eq!(range_in(b"a", b"b"), pair("/t1/a", "/t1/b"));
        assert_eq!(range_in(b"a", b"\0"), pair("/t1/a", "/t10"));
        assert_eq!(range_in(b"\0", b"\0"), pair("/t1/\0", "/t10"));
        assert_eq!(range_in(b"", b"\0"), pair("/t1/", "/t10"));
        assert_eq!(range_in(b"", b""), pair("", ""), "an empty key is the upstream's to refuse");
    }

    #[test]
    fn a_txn_is_confined_however_deep() {
        let op = |request| RequestOp { request: Some(request) };
        let put = PutRequest { key: "k".into(), ..Default::default() };
        let delete = DeleteRangeRequest { key: "a".into(), range_end: "\0".into(), ..Default::default() };
        let inner = TxnRequest { success: vec![op(Request::RequestDeleteRange(delete))], ..Default::default() };
        let txn = TxnRequest {
            compare: vec![Compare { key: "c".into(), range_end: "d".into(), ..Default::default() }],
            success: vec![op(Request::RequestPut(put))],
            failure: vec![op(Request::RequestTxn(inner))],
        };
        let inward = TxnRequest::decode(confined().inward(Rpc::Txn, txn.encode_to_vec().into()).unwrap()).unwrap();
        assert_eq!((&inward.compare[0].key[..], &inward.compare[0].range_end[..]), (&b"/t1/c"[..], &b"/t1/d"[..]));
        let Some(Request::RequestPut(put)) = &inward.success[0].request else { panic!("{inward:?}") };
        assert_eq!(put.key, "/t1/k");
        let Some(Request::RequestTxn(inner)) = &inward.failure[0].request else { panic!("{inward:?}") };
        let Some(Request::RequestDeleteRange(delete)) = &inner.success[0].request else { panic!("{inner:?}") };
        assert_eq!((&delete.key[..], &delete.range_end[..]), (&b"/t1/a"[..], &b"/t10"[..]));
    }

    #[test]
    fn answers_show_keys_without_the_prefix_and_leases_none_of_others() {
        let record = KeyValue { key: "/t1/k".into(), value: "/t1/v".into(), ..Default::default() };
        let range = RangeResponse { kvs: vec![record], count: 1, ..Default::default() };
        let outward = confined().outward(Rpc::Range, range.encode_to_vec().into()).unwrap();
        let outward = RangeResponse::decode(outward).unwrap();
        assert_eq!((&outward.kvs[0].key[..], &outward.kvs[0].value[..], outward.count), (&b"k"[..], &b"/t1/v"[..], 1));
        let lease = LeaseTimeToLiveResponse { keys: vec!["/t1/a".into(), "/t2/b".into()], ..Default::default() };
        let outward = confined().outward(Rpc::LeaseTimeToLive, lease.encode_to_vec().into()).unwrap();
        assert_eq!(LeaseTimeToLiveResponse::decode(outward).unwrap().keys, ["a"]);
    }

    #[test]
    fn what_reaches_beyond_keys_or_cannot_be_read_is_refused() {
        for rpc in
            [Rpc::Snapshot, Rpc::Compact, Rpc::Defragment, Rpc::UserAdd, Rpc::MemberRemove, Rpc::HashKV, Rpc::Other]
        {
            let Err(Failure::Refused(status)) = confined().inward(rpc, Bytes::new()) else { panic!("{rpc} passed") };
            assert_eq!(status.message(), Error::PermissionDenied.message());
        }
        assert!(confined().inward(Rpc::Put, Bytes::from_static(b"\x0a\x7f")).is_err());
    }
}
