//! What admission knows of a request before it is forwarded.

use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        Compare, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op,
    },
};

use crate::{Client, Rpc};

/// The attributes of one request. Whoever fills it reads no more of the message than these need.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub client: &'a Client,
    pub rpc: Rpc,
    /// Every key the request names, those of compares and of both branches of a txn included. None for methods
    /// without keys.
    pub keys: &'a [KeyRange],
    /// The size of the encoded request.
    pub bytes: u64,
    /// The operations of a txn, nested ones included; 1 otherwise.
    pub ops: u32,
    /// Of these, how many write. For a txn the larger branch.
    pub writes: u32,
    /// The limit of a range, 0 for none.
    pub limit: u64,
    /// What of the objects a range answers with.
    pub answer: Answer,
    /// Whether it writes nothing but the key of a lock or an election: a key under a lease that has the lease's id for
    /// its last segment, as the concurrency packages of etcd's clients name it.
    pub elects: bool,
    /// How many open watches hear of what it writes; see [`Watched`](crate::Watched).
    pub watchers: u32,
}

impl<'a> Request<'a> {
    /// A request that names nothing but its method, to be filled in.
    pub fn new(client: &'a Client, rpc: Rpc) -> Request<'a> {
        Request {
            client,
            rpc,
            keys: &[],
            bytes: 0,
            ops: 1,
            writes: 0,
            limit: 0,
            answer: Answer::Objects,
            elects: false,
            watchers: 0,
        }
    }

    /// The first key that is named, which decides where the request is accounted.
    pub fn key(&self) -> &'a [u8] {
        self.keys.first().map_or(&[], |range| range.start())
    }
}

/// What a range answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Objects,
    Keys,
    Count,
}

/// The one shape of a Kubernetes API server's writes:
/// `Txn If(ModRevision(key) = revision) Then(Put or DeleteRange key) Else(Get key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubernetesWrite<'a> {
    /// The revision is 0: succeeds only if the key does not exist.
    Create {
        key: &'a [u8],
        lease: i64,
    },
    /// Succeeds only on this revision of the object.
    Update {
        key: &'a [u8],
        mod_revision: i64,
    },
    Delete {
        key: &'a [u8],
        mod_revision: i64,
    },
}

impl<'a> KubernetesWrite<'a> {
    /// Recognises the shape; anything else about the txn makes it an ordinary one.
    pub fn of(txn: &'a TxnRequest) -> Option<KubernetesWrite<'a>> {
        let ([compare], [then]) = (&txn.compare[..], &txn.success[..]) else { return None };
        let mod_revision = compared_mod_revision(compare)?;
        let key = &compare.key[..];
        match &txn.failure[..] {
            [] => {}
            [otherwise] => match otherwise.request.as_ref()? {
                request_op::Request::RequestRange(get) if get.key == compare.key && get.range_end.is_empty() => {}
                _ => return None,
            },
            _ => return None,
        }
        match op(then)? {
            request_op::Request::RequestPut(put) if put.key == compare.key => Some(match mod_revision {
                0 => KubernetesWrite::Create { key, lease: put.lease },
                _ => KubernetesWrite::Update { key, mod_revision },
            }),
            request_op::Request::RequestDeleteRange(delete)
                if delete.key == compare.key && delete.range_end.is_empty() =>
            {
                Some(KubernetesWrite::Delete { key, mod_revision })
            }
            _ => None,
        }
    }
}

fn op(op: &RequestOp) -> Option<&request_op::Request> {
    op.request.as_ref()
}

fn compared_mod_revision(compare: &Compare) -> Option<i64> {
    let plain = compare.result() == CompareResult::Equal
        && compare.target() == CompareTarget::Mod
        && compare.range_end.is_empty();
    match compare.target_union {
        Some(TargetUnion::ModRevision(revision)) if plain => Some(revision),
        // Zero is the default, and a default may be left out.
        None if plain => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

    use super::*;

    fn txn(mod_revision: i64, then: request_op::Request) -> TxnRequest {
        let key = Bytes::from_static(b"/registry/pods/default/web-0");
        let get = request_op::Request::RequestRange(RangeRequest { key: key.clone(), ..RangeRequest::default() });
        TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key,
                range_end: Bytes::new(),
                target_union: Some(TargetUnion::ModRevision(mod_revision)),
            }],
            success: vec![RequestOp { request: Some(then) }],
            failure: vec![RequestOp { request: Some(get) }],
        }
    }

    fn put(key: &'static str) -> request_op::Request {
        request_op::Request::RequestPut(PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() })
    }

    #[test]
    fn the_writes_of_an_api_server_are_recognised() {
        let key = "/registry/pods/default/web-0";
        let delete = || {
            let key = Bytes::from_static(key.as_bytes());
            request_op::Request::RequestDeleteRange(DeleteRangeRequest { key, ..DeleteRangeRequest::default() })
        };
        let created = txn(0, put(key));
        assert_eq!(KubernetesWrite::of(&created), Some(KubernetesWrite::Create { key: key.as_bytes(), lease: 0 }));
        let updated = txn(7, put(key));
        let update = KubernetesWrite::Update { key: key.as_bytes(), mod_revision: 7 };
        assert_eq!(KubernetesWrite::of(&updated), Some(update));
        let deleted = txn(7, delete());
        let delete = KubernetesWrite::Delete { key: key.as_bytes(), mod_revision: 7 };
        assert_eq!(KubernetesWrite::of(&deleted), Some(delete));
        let mut without_else = txn(7, put(key));
        without_else.failure.clear();
        assert!(KubernetesWrite::of(&without_else).is_some());
    }

    #[test]
    fn anything_else_is_an_ordinary_txn() {
        let key = "/registry/pods/default/web-0";
        assert_eq!(KubernetesWrite::of(&txn(0, put("/other"))), None);
        let mut twice = txn(0, put(key));
        twice.success.push(RequestOp { request: Some(put("/other")) });
        assert_eq!(KubernetesWrite::of(&twice), None);
        let mut ranged = txn(0, put(key));
        ranged.compare[0].range_end = Bytes::from_static(b"\0");
        assert_eq!(KubernetesWrite::of(&ranged), None);
        let mut writes_otherwise = txn(0, put(key));
        writes_otherwise.failure[0].request = Some(put(key));
        assert_eq!(KubernetesWrite::of(&writes_otherwise), None);
        assert_eq!(KubernetesWrite::of(&TxnRequest::default()), None);
    }
}
