//! Counts operations on the keyspace as etcd's metrics do.

use forebay_keyspace::eval::{OpResult, TxnResult};
use forebay_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest, request_op::Request};

use crate::metrics::ApplyMetrics;

/// The operations of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    ranges: u64,
    puts: u64,
    put_bytes: i64,
    deletes: u64,
}

impl Tally {
    /// A range.
    pub fn range() -> Tally {
        Tally { ranges: 1, ..Tally::default() }
    }

    /// A deletion, which looks first if it is to say what was there.
    pub fn deletion(looks: bool) -> Tally {
        Tally { deletes: 1, ranges: looks.into(), ..Tally::default() }
    }

    /// A put, which looks first if it is to keep or say what was there.
    pub fn put(request: &PutRequest) -> Tally {
        let looks = request.prev_kv || request.ignore_value || request.ignore_lease;
        let put_bytes = (request.key.len() + request.value.len()) as i64;
        Tally { puts: 1, put_bytes, ranges: looks.into(), deletes: 0 }
    }

    /// What a txn carried out.
    pub fn txn(request: &TxnRequest, result: &TxnResult) -> Tally {
        let mut tally = Tally::default();
        tally.add_txn(request, result);
        tally
    }

    fn add_txn(&mut self, request: &TxnRequest, result: &TxnResult) {
        let ops = if result.succeeded { &request.success } else { &request.failure };
        for (op, result) in ops.iter().zip(&result.responses) {
            self.add_op(op, result);
        }
    }

    fn add_op(&mut self, op: &RequestOp, result: &OpResult) {
        match (&op.request, result) {
            (Some(Request::RequestTxn(txn)), OpResult::Txn(result)) => self.add_txn(txn, result),
            (Some(Request::RequestRange(_)), _) => self.add(Tally::range()),
            (Some(Request::RequestPut(put)), _) => self.add(Tally::put(put)),
            (Some(Request::RequestDeleteRange(delete)), _) => self.add(Tally::deletion(delete.prev_kv)),
            (Some(Request::RequestTxn(_)) | None, _) => {}
        }
    }

    fn add(&mut self, other: Tally) {
        self.ranges += other.ranges;
        self.puts += other.puts;
        self.put_bytes += other.put_bytes;
        self.deletes += other.deletes;
    }

    /// Adds it to the metrics.
    pub fn count(self, metrics: &ApplyMetrics) {
        let Tally { ranges, puts, put_bytes, deletes } = self;
        if ranges + puts + deletes > 1 {
            metrics.txns.inc();
        }
        for (counter, count) in [(&metrics.ranges, ranges), (&metrics.puts, puts), (&metrics.deletes, deletes)] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
        if put_bytes > 0 {
            metrics.put_bytes.add(put_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_keyspace::{Keyspace, eval};
    use forebay_proto::etcdserverpb::{DeleteRangeRequest, RangeRequest};

    #[test]
    fn a_txn_counts_what_it_carried_out_at_every_depth() {
        let op = |request| RequestOp { request: Some(request) };
        let put = |key: &'static str| {
            op(Request::RequestPut(PutRequest { key: key.into(), value: "12".into(), ..Default::default() }))
        };
        let range = op(Request::RequestRange(RangeRequest { key: "a".into(), ..Default::default() }));
        let delete = DeleteRangeRequest { key: "d".into(), prev_kv: true, ..Default::default() };
        let inner = TxnRequest { success: vec![put("b"), range], failure: vec![put("no")], ..Default::default() };
        let ops = vec![put("a"), op(Request::RequestTxn(inner)), op(Request::RequestDeleteRange(delete))];
        let request = TxnRequest { success: ops, ..Default::default() };
        let mut keyspace = Keyspace::new();
        let result = eval::txn(&mut keyspace.write(), &|_| true, &request).unwrap();
        assert_eq!(Tally::txn(&request, &result), Tally { ranges: 2, puts: 2, put_bytes: 6, deletes: 1 });
    }
}
