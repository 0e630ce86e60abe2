//! Requests as etcd writes them into its log: with the sizes of values in place of what they hold.

use std::fmt::{Display, Formatter, Result};

use bytes::Bytes;
use forebay_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    compare::TargetUnion, request_op::Request,
};

/// A request of the log.
pub struct Entry<'r>(pub &'r InternalRaftRequest);

impl Display for Entry<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let request = self.0;
        write!(f, "header:<ID:{} > ", request.header.as_ref().map_or(request.id, |header| header.id))?;
        if let Some(put) = &request.put {
            write!(f, "put:<{}>", Put(put))
        } else if let Some(txn) = &request.txn {
            write!(f, "txn:<{}>", Txn(txn))
        } else if let Some(delete) = &request.delete_range {
            write!(f, "delete_range:<{}>", Delete(delete))
        } else if let Some(compaction) = &request.compaction {
            write!(f, "compaction:<revision:{} physical:{}>", compaction.revision, compaction.physical)
        } else if let Some(grant) = &request.lease_grant {
            write!(f, "lease_grant:<ttl:{}-second id:{:016x}>", grant.ttl, grant.id)
        } else if let Some(revoke) = &request.lease_revoke {
            write!(f, "lease_revoke:<id:{:016x}>", revoke.id)
        } else {
            // Of the rest only those of auth hold anything that a log must not.
            f.write_str("other:<>")
        }
    }
}

/// A put.
struct Put<'r>(&'r PutRequest);

impl Display for Put<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let put = self.0;
        write!(f, "key:\"{}\" value_size:{} ", put.key.escape_ascii(), put.value.len())?;
        if put.lease != 0 {
            write!(f, "lease:{} ", put.lease)?;
        }
        flags(f, &[("prev_kv", put.prev_kv), ("ignore_value", put.ignore_value), ("ignore_lease", put.ignore_lease)])
    }
}

/// A deletion.
struct Delete<'r>(&'r DeleteRangeRequest);

impl Display for Delete<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        keys(f, &self.0.key, &self.0.range_end)?;
        flags(f, &[("prev_kv", self.0.prev_kv)])
    }
}

/// A range.
pub struct Range<'r>(pub &'r RangeRequest);

impl Display for Range<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let range = self.0;
        keys(f, &range.key, &range.range_end)?;
        for (name, number) in [
            ("limit", range.limit),
            ("revision", range.revision),
            ("sort_order", range.sort_order.into()),
            ("sort_target", range.sort_target.into()),
            ("min_mod_revision", range.min_mod_revision),
            ("max_mod_revision", range.max_mod_revision),
            ("min_create_revision", range.min_create_revision),
            ("max_create_revision", range.max_create_revision),
        ] {
            if number != 0 {
                write!(f, "{name}:{number} ")?;
            }
        }
        let switches =
            [("serializable", range.serializable), ("keys_only", range.keys_only), ("count_only", range.count_only)];
        flags(f, &switches)
    }
}

/// A txn with everything in it.
pub struct Txn<'r>(pub &'r TxnRequest);

impl Display for Txn<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("compare:<")?;
        for compare in &self.0.compare {
            write!(f, "{}", Condition(compare))?;
        }
        for (name, ops) in [("success", &self.0.success), ("failure", &self.0.failure)] {
            write!(f, "> {name}:<")?;
            for op in ops {
                write!(f, "{}", Op(op))?;
            }
        }
        f.write_str(">")
    }
}

struct Condition<'r>(&'r Compare);

impl Display for Condition<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let compare = self.0;
        write!(f, "result:{} target:{} ", compare.result().as_str_name(), compare.target().as_str_name())?;
        keys(f, &compare.key, &compare.range_end)?;
        match &compare.target_union {
            Some(TargetUnion::Value(value)) => write!(f, "value_size:{} ", value.len()),
            Some(TargetUnion::Version(version)) => write!(f, "version:{version} "),
            Some(TargetUnion::CreateRevision(revision)) => write!(f, "create_revision:{revision} "),
            Some(TargetUnion::ModRevision(revision)) => write!(f, "mod_revision:{revision} "),
            Some(TargetUnion::Lease(lease)) => write!(f, "lease:{lease} "),
            None => Ok(()),
        }
    }
}

struct Op<'r>(&'r RequestOp);

impl Display for Op<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.0.request {
            Some(Request::RequestRange(range)) => write!(f, "request_range:<{}> ", Range(range)),
            Some(Request::RequestPut(put)) => write!(f, "request_put:<{}> ", Put(put)),
            Some(Request::RequestDeleteRange(delete)) => write!(f, "request_delete_range:<{}> ", Delete(delete)),
            Some(Request::RequestTxn(txn)) => write!(f, "request_txn:<{}> ", Txn(txn)),
            None => Ok(()),
        }
    }
}

fn keys(f: &mut Formatter<'_>, key: &Bytes, range_end: &Bytes) -> Result {
    write!(f, "key:\"{}\" ", key.escape_ascii())?;
    match range_end.is_empty() {
        true => Ok(()),
        false => write!(f, "range_end:\"{}\" ", range_end.escape_ascii()),
    }
}

fn flags(f: &mut Formatter<'_>, flags: &[(&str, bool)]) -> Result {
    flags.iter().filter(|(_, on)| *on).try_for_each(|(name, _)| write!(f, "{name}:true "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_proto::etcdserverpb::RequestHeader;

    #[test]
    fn a_request_in_the_log_shows_keys_and_the_sizes_of_values() {
        let put =
            PutRequest { key: "k\n".into(), value: "secret".into(), lease: 7, prev_kv: true, ..Default::default() };
        let header = Some(RequestHeader { id: 5, ..Default::default() });
        let request = InternalRaftRequest { header: header.clone(), put: Some(put.clone()), ..Default::default() };
        let text = "header:<ID:5 > put:<key:\"k\\n\" value_size:6 lease:7 prev_kv:true >";
        assert_eq!(Entry(&request).to_string(), text);

        let value = Some(TargetUnion::Value("secret".into()));
        let inner = TxnRequest {
            compare: vec![Compare { key: "c".into(), target: 3, target_union: value, ..Default::default() }],
            success: vec![RequestOp { request: Some(Request::RequestPut(put)) }],
            failure: vec![],
        };
        let nested = RequestOp { request: Some(Request::RequestTxn(inner)) };
        let txn = TxnRequest { failure: vec![nested], ..Default::default() };
        let request = InternalRaftRequest { header, txn: Some(txn), ..Default::default() };
        let text = Entry(&request).to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains("request_txn:<compare:<result:EQUAL target:VALUE key:\"c\" value_size:6 >"), "{text}");
    }
}
