//! Who wrote how much: the entries of a log by prefix and user.

use std::collections::BTreeMap;

use forebay_proto::{
    etcdserverpb::{InternalRaftRequest, RequestOp, request_op::Request},
    raftpb::Entry,
};
use serde::Serialize;

use super::filter::request;
use crate::{
    prefixes::{prefix, readable},
    table,
};

/// What was written, by prefix and user.
#[derive(Debug)]
pub struct Totals {
    depth: usize,
    rows: BTreeMap<(String, String), Sums>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Sums {
    puts: u64,
    deletes: u64,
    bytes: u64,
}

impl Totals {
    /// Puts keys down to their first `depth` names.
    #[must_use]
    pub fn new(depth: usize) -> Self {
        Self { depth, rows: BTreeMap::new() }
    }

    /// Counts an entry: keys and values of what it puts and deletes, and everything else by its kind. A txn counts with
    /// both its branches, of which the log does not say which was taken.
    pub fn count(&mut self, entry: &Entry) {
        let bytes = entry.data.as_ref().map_or(0, |data| data.len() as u64);
        let Some(request) = request(entry) else {
            return self.add("(other)".into(), "", Sums { bytes, ..Sums::default() });
        };
        let user = request.header.as_ref().map(|header| header.username.clone()).unwrap_or_default();
        match &request {
            InternalRaftRequest { put: Some(put), .. } => self.put(&put.key, &put.value, &user),
            InternalRaftRequest { delete_range: Some(delete), .. } => self.delete(&delete.key, &user),
            InternalRaftRequest { txn: Some(txn), .. } => {
                txn.success.iter().chain(&txn.failure).for_each(|op| self.op(op, &user));
            }
            request => self.add(format!("({})", kind(request)), &user, Sums { bytes, ..Sums::default() }),
        }
    }

    fn op(&mut self, op: &RequestOp, user: &str) {
        match &op.request {
            Some(Request::RequestPut(put)) => self.put(&put.key, &put.value, user),
            Some(Request::RequestDeleteRange(delete)) => self.delete(&delete.key, user),
            Some(Request::RequestTxn(txn)) => txn.success.iter().chain(&txn.failure).for_each(|op| self.op(op, user)),
            Some(Request::RequestRange(_)) | None => {}
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], user: &str) {
        let bytes = (key.len() + value.len()) as u64;
        self.add(readable(prefix(key, self.depth)), user, Sums { puts: 1, bytes, ..Sums::default() });
    }

    fn delete(&mut self, key: &[u8], user: &str) {
        self.add(
            readable(prefix(key, self.depth)),
            user,
            Sums { deletes: 1, bytes: key.len() as u64, ..Sums::default() },
        );
    }

    fn add(&mut self, name: String, user: &str, more: Sums) {
        let sums = self.rows.entry((name, user.to_owned())).or_default();
        sums.puts += more.puts;
        sums.deletes += more.deletes;
        sums.bytes += more.bytes;
    }

    fn sorted(&self) -> Vec<(&(String, String), Sums)> {
        let mut rows: Vec<_> = self.rows.iter().map(|(names, sums)| (names, *sums)).collect();
        rows.sort_by_key(|(_, sums)| std::cmp::Reverse(sums.bytes));
        rows
    }

    /// As a table, most bytes first.
    #[must_use]
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = (self.sorted().into_iter())
            .map(|((name, user), Sums { puts, deletes, bytes })| {
                vec![name.clone(), user.clone(), puts.to_string(), deletes.to_string(), bytes.to_string()]
            })
            .collect();
        table::columns(&["PREFIX", "USER", "PUTS", "DELETES", "BYTES"], &rows)
    }

    /// As JSON, an object for each row.
    #[must_use]
    pub fn json(&self) -> String {
        let rows: Vec<serde_json::Value> = (self.sorted().into_iter())
            .map(|((name, user), Sums { puts, deletes, bytes })| {
                serde_json::json!({ "prefix": name, "user": user, "puts": puts, "deletes": deletes, "bytes": bytes })
            })
            .collect();
        serde_json::Value::from(rows).to_string() + "\n"
    }
}

/// What a request is, if it is about no key.
fn kind(request: &InternalRaftRequest) -> &'static str {
    match request {
        InternalRaftRequest { lease_grant: Some(_), .. } => "lease grant",
        InternalRaftRequest { lease_revoke: Some(_), .. } => "lease revoke",
        InternalRaftRequest { lease_checkpoint: Some(_), .. } => "lease checkpoint",
        InternalRaftRequest { compaction: Some(_), .. } => "compaction",
        InternalRaftRequest { alarm: Some(_), .. } => "alarm",
        InternalRaftRequest { range: Some(_), .. } => "range",
        InternalRaftRequest { cluster_version_set: Some(_), .. }
        | InternalRaftRequest { cluster_member_attr_set: Some(_), .. }
        | InternalRaftRequest { downgrade_info_set: Some(_), .. } => "cluster",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RequestHeader, TxnRequest};
    use prost::Message as _;

    use super::*;

    fn entry(request: &InternalRaftRequest) -> Entry {
        Entry { data: Some(request.encode_to_vec().into()), ..Entry::default() }
    }

    #[test]
    fn what_a_log_holds_is_put_down_to_prefixes_and_users() {
        let put =
            |key: &str| PutRequest { key: key.to_owned().into(), value: vec![b'v'; 100].into(), ..Default::default() };
        let header = Some(RequestHeader { username: "ann".into(), ..Default::default() });
        let ops = ["/a/1", "/b/1"].map(|key| RequestOp { request: Some(Request::RequestPut(put(key))) });
        let delete = DeleteRangeRequest { key: "/a/1".into(), ..Default::default() };
        let mut totals = Totals::new(1);
        for request in [
            InternalRaftRequest { header, put: Some(put("/a/1")), ..Default::default() },
            InternalRaftRequest {
                txn: Some(TxnRequest { success: ops.to_vec(), ..Default::default() }),
                ..Default::default()
            },
            InternalRaftRequest { delete_range: Some(delete), ..Default::default() },
            InternalRaftRequest { compaction: Some(CompactionRequest::default()), ..Default::default() },
        ] {
            totals.count(&entry(&request));
        }
        let expected = "PREFIX        USER  PUTS  DELETES  BYTES\n\
                        /a/                    1        1    108\n\
                        /a/           ann      1        0    104\n\
                        /b/                    1        0    104\n\
                        (compaction)           0        0      2\n";
        assert_eq!(totals.table(), expected);
        assert!(totals.json().starts_with(r#"[{"bytes":108,"deletes":1,"prefix":"/a/","puts":1,"user":""}"#));
    }
}
