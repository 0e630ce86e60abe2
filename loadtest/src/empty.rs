//! A gRPC server of the same stack that does nothing: the limit that no real server passes.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use forebay_proto::{
    etcdserverpb::{kv_server::Kv, *},
    mvccpb::KeyValue,
};
use tonic::{Request, Response, Status};

/// Answers every call with a canned message.
#[derive(Clone, Debug)]
pub struct Empty {
    one: RangeResponse,
    list: RangeResponse,
    /// How many calls it has answered; clones share it.
    pub answered: Arc<AtomicU64>,
}

impl Empty {
    /// Lists answer `list_len` keys with values of `value_size` bytes.
    pub fn new(list_len: usize, value_size: usize) -> Empty {
        let header = Some(ResponseHeader { cluster_id: 1 << 60, member_id: 1 << 60, revision: 100_000, raft_term: 2 });
        let kvs: Vec<KeyValue> = (0..list_len)
            .map(|n| KeyValue {
                key: Bytes::from(format!("key/{n:08}")),
                create_revision: 50_000,
                mod_revision: 100_000,
                version: 2,
                value: Bytes::from(vec![b'v'; value_size]),
                lease: 0,
            })
            .collect();
        let one = RangeResponse { header, kvs: kvs[..1].to_vec(), more: false, count: 1 };
        Empty { list: RangeResponse { kvs, more: true, count: 100_000, ..one.clone() }, one, answered: Arc::default() }
    }

    fn count(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Serves until the process ends.
    pub async fn serve(self, address: SocketAddr) -> anyhow::Result<()> {
        let service = kv_server::KvServer::new(self).max_decoding_message_size(2 << 20);
        tonic::transport::Server::builder().tcp_nodelay(true).add_service(service).serve(address).await?;
        Ok(())
    }
}

#[tonic::async_trait]
impl Kv for Empty {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.count();
        let answer = if request.get_ref().range_end.is_empty() { &self.one } else { &self.list };
        Ok(Response::new(answer.clone()))
    }

    type RangeStreamStream = tokio_stream::Empty<Result<RangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<RangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        self.count();
        Ok(Response::new(PutResponse { header: self.one.header, prev_kv: None }))
    }

    async fn delete_range(&self, _: Request<DeleteRangeRequest>) -> Result<Response<DeleteRangeResponse>, Status> {
        self.count();
        Ok(Response::new(DeleteRangeResponse { header: self.one.header, ..Default::default() }))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.count();
        Ok(Response::new(TxnResponse { header: self.one.header, succeeded: true, responses: Vec::new() }))
    }

    async fn compact(&self, _: Request<CompactionRequest>) -> Result<Response<CompactionResponse>, Status> {
        Ok(Response::new(CompactionResponse { header: self.one.header }))
    }
}
