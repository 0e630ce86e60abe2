//! Calls whose answers are counted and not read: a list of 300,000 keys is the server's work, not ours.

use std::marker::PhantomData;

use bytes::{Buf as _, Bytes};
use futures::TryStreamExt as _;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::client::{Connection, MAX_ANSWER};

/// A method of one request and one answer. Returns the size of the answer.
pub async fn unary<M>(connection: &Connection, path: &'static str, request: M) -> Result<usize, Status>
where
    M: Message + 'static,
{
    let mut grpc = ready(connection).await?;
    let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), Raw(PhantomData)).await?;
    Ok(answer.into_inner().len())
}

/// A method of one request and a stream of answers. Returns their size when all are there.
pub async fn streaming<M>(connection: &Connection, path: &'static str, request: M) -> Result<usize, Status>
where
    M: Message + 'static,
{
    let mut grpc = ready(connection).await?;
    let answer =
        grpc.server_streaming(Request::new(request), PathAndQuery::from_static(path), Raw(PhantomData)).await?;
    answer.into_inner().try_fold(0, |sum, part: Bytes| async move { Ok(sum + part.len()) }).await
}

async fn ready(connection: &Connection) -> Result<Grpc<Connection>, Status> {
    let mut grpc = Grpc::new(connection.clone()).max_decoding_message_size(MAX_ANSWER);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}

/// Encodes messages, and leaves answers as they are.
struct Raw<M>(PhantomData<M>);

impl<M: Message + 'static> Codec for Raw<M> {
    type Encode = M;
    type Decode = Bytes;
    type Encoder = Raw<M>;
    type Decoder = Raw<M>;

    fn encoder(&mut self) -> Raw<M> {
        Raw(PhantomData)
    }

    fn decoder(&mut self) -> Raw<M> {
        Raw(PhantomData)
    }
}

impl<M: Message> Encoder for Raw<M> {
    type Item = M;
    type Error = Status;

    fn encode(&mut self, message: M, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(into).expect("the buffer grows");
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl<M> Decoder for Raw<M> {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}
