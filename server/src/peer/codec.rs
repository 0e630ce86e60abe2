//! What the endless bodies of streams carry.
//!
//! A `message` stream is raft messages, each behind its length. A `msgapp` stream is smaller: an append that goes on where
//! the last one ended is only its entries and the commit index; both ends keep where that is. All integers are
//! big-endian.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_proto::raftpb::{Entry, Message, MessageType};
use http_body_util::BodyExt as _;
use prost::Message as _;

/// The largest message that is read, but for what [`super::service`] reads before a db. Entries are at most
/// `--max-request-bytes` and messages a mebibyte of them, or one entry.
pub(super) const MESSAGE_BYTES_MAX: u64 = 512 << 20;
/// Entries of one append. They may be empty, so bytes alone would not bound what they take.
const ENTRIES_MAX: u64 = 1 << 20;

/// The tags of a `msgapp` stream.
const HEARTBEAT: u8 = 0;
const ENTRIES: u8 = 1;
const WHOLE: u8 = 2;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Appends.
    MsgApp,
    /// Everything else but snapshots.
    Message,
}

impl Kind {
    /// Its name in paths.
    pub fn name(self) -> &'static str {
        match self {
            Kind::MsgApp => "msgapp",
            Kind::Message => "message",
        }
    }
}

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// It ended between two messages.
    #[error("the stream has ended")]
    Ended,
    /// The connection failed.
    #[error("{0}")]
    Connection(#[from] crate::raft::BoxError),
    /// Nothing came, not even the heartbeat of the link.
    #[error("nothing was heard for {0:?}")]
    Silent(Duration),
    /// It ended within a message.
    #[error("the stream has ended within a message")]
    Truncated,
    /// A length that no message has.
    #[error("a message of {0} bytes or entries")]
    TooLarge(u64),
    /// What came is no message.
    #[error("{0}")]
    Decode(#[from] prost::DecodeError),
    /// An unknown tag.
    #[error("unknown type {0} of a message")]
    Unknown(u8),
}

/// Writes one stream.
#[derive(Debug)]
pub struct Encoder {
    kind: Kind,
    /// Term and index of the last entry written to a `msgapp` stream.
    at: (u64, u64),
}

impl Encoder {
    /// Of a stream that begins.
    pub fn new(kind: Kind) -> Encoder {
        Encoder { kind, at: (0, 0) }
    }

    /// Appends a message.
    pub fn encode(&mut self, message: &Message, out: &mut BytesMut) {
        match self.kind {
            Kind::Message => put_message(message, out),
            Kind::MsgApp if (message.log_term(), message.index()) == self.at && message.term() == self.at.0 => {
                out.put_u8(ENTRIES);
                out.put_u64(message.entries.len() as u64);
                for entry in &message.entries {
                    out.put_u64(entry.encoded_len() as u64);
                    entry.encode_raw(out);
                }
                out.put_u64(message.commit());
                self.at.1 += message.entries.len() as u64;
            }
            Kind::MsgApp => {
                out.put_u8(WHOLE);
                put_message(message, out);
                self.at = ends_at(message);
            }
        }
    }

    /// Appends what shows that the link is alive.
    pub fn heartbeat(&self, out: &mut BytesMut) {
        match self.kind {
            Kind::MsgApp => out.put_u8(HEARTBEAT),
            Kind::Message => put_message(&link_heartbeat(), out),
        }
    }
}

pub(super) fn put_message(message: &Message, out: &mut BytesMut) {
    out.put_u64(message.encoded_len() as u64);
    message.encode_raw(out);
}

/// Term, and index of the last entry, after a whole append.
fn ends_at(message: &Message) -> (u64, u64) {
    (message.term(), message.entries.last().map_or(message.index(), Entry::index))
}

/// A heartbeat from nobody to nobody; its zeros are written out, as every etcd reads them.
fn link_heartbeat() -> Message {
    Message { r#type: Some(MessageType::MsgHeartbeat as i32), from: Some(0), to: Some(0), ..Message::default() }
}

/// Reads one stream.
#[derive(Debug)]
pub struct Decoder {
    kind: Kind,
    from: u64,
    to: u64,
    at: (u64, u64),
}

impl Decoder {
    /// Of a stream that `from` writes for `to`.
    pub fn new(kind: Kind, from: u64, to: u64) -> Decoder {
        Decoder { kind, from, to, at: (0, 0) }
    }

    /// The next message; `None` for a heartbeat of the link.
    pub async fn decode<B: Source>(&mut self, bytes: &mut Bounded<B>) -> Result<Option<Message>, StreamError> {
        match self.kind {
            Kind::Message => {
                let message = bytes.message(MESSAGE_BYTES_MAX).await?;
                let is_heartbeat = message.r#type() == MessageType::MsgHeartbeat && message.from() == 0;
                Ok((!is_heartbeat).then_some(message))
            }
            Kind::MsgApp => match bytes.first().await? {
                HEARTBEAT => Ok(None),
                ENTRIES => self.entries(bytes).await.map(Some),
                WHOLE => {
                    let message = bytes.message(MESSAGE_BYTES_MAX).await.map_err(within)?;
                    self.at = ends_at(&message);
                    Ok(Some(message))
                }
                unknown => Err(StreamError::Unknown(unknown)),
            },
        }
    }

    async fn entries<B: Source>(&mut self, bytes: &mut Bounded<B>) -> Result<Message, StreamError> {
        let count = bytes.u64().await.map_err(within)?;
        if count > ENTRIES_MAX {
            return Err(StreamError::TooLarge(count));
        }
        let (term, index) = self.at;
        let (mut entries, mut total) = (Vec::new(), 0);
        for _ in 0..count {
            let len = bytes.u64().await.map_err(within)?;
            total += len.min(MESSAGE_BYTES_MAX + 1);
            if total > MESSAGE_BYTES_MAX {
                return Err(StreamError::TooLarge(total));
            }
            entries.push(Entry::decode(bytes.take(len as usize).await.map_err(within)?)?);
        }
        let commit = bytes.u64().await.map_err(within)?;
        self.at.1 = index.wrapping_add(count);
        Ok(Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(self.from),
            to: Some(self.to),
            term: Some(term),
            log_term: Some(term),
            index: Some(index),
            entries,
            commit: Some(commit),
            ..Message::default()
        })
    }
}

/// An end that came too early.
fn within(error: StreamError) -> StreamError {
    match error {
        StreamError::Ended => StreamError::Truncated,
        error => error,
    }
}

/// The body of a request or a response.
pub trait Source: http_body::Body<Data = Bytes, Error: Into<crate::raft::BoxError>> + Unpin + Send {}

impl<B: http_body::Body<Data = Bytes, Error: Into<crate::raft::BoxError>> + Unpin + Send> Source for B {}

/// Reads pieces of known length from a body. It holds what has come and was not asked for yet, and waits for each frame
/// only so long.
pub struct Bounded<B> {
    body: B,
    buffer: BytesMut,
    patience: Duration,
}

impl<B: Source> Bounded<B> {
    /// Of which each frame is waited for so long.
    pub fn new(body: B, patience: Duration) -> Bounded<B> {
        Bounded { body, buffer: BytesMut::new(), patience }
    }

    /// The next frame of data; `None` at the end.
    pub async fn frame(&mut self) -> Result<Option<Bytes>, StreamError> {
        if !self.buffer.is_empty() {
            return Ok(Some(self.buffer.split().freeze()));
        }
        self.read().await
    }

    async fn read(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            let frame = tokio::time::timeout(self.patience, self.body.frame());
            let Some(frame) = frame.await.map_err(|_| StreamError::Silent(self.patience))? else { return Ok(None) };
            // Trailers say nothing here.
            if let Ok(data) = frame.map_err(|error| StreamError::Connection(error.into()))?.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// The next `len` bytes.
    async fn take(&mut self, len: usize) -> Result<Bytes, StreamError> {
        while self.buffer.len() < len {
            match self.read().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.is_empty() => return Err(StreamError::Ended),
                None => return Err(StreamError::Truncated),
            }
        }
        Ok(self.buffer.split_to(len).freeze())
    }

    async fn first(&mut self) -> Result<u8, StreamError> {
        Ok(self.take(1).await?[0])
    }

    async fn u64(&mut self) -> Result<u64, StreamError> {
        let bytes = self.take(8).await?;
        Ok(u64::from_be_bytes(bytes[..].try_into().expect("eight bytes were taken")))
    }

    /// A message behind its length.
    pub async fn message(&mut self, max: u64) -> Result<Message, StreamError> {
        let len = self.u64().await?;
        if len > max {
            return Err(StreamError::TooLarge(len));
        }
        Ok(Message::decode(self.take(len as usize).await.map_err(within)?)?)
    }

    /// Everything up to the end, if that is at most `max` bytes.
    pub async fn all(mut self, max: usize) -> Result<Bytes, StreamError> {
        while let Some(data) = self.read().await? {
            if self.buffer.len() + data.len() > max {
                return Err(StreamError::TooLarge((self.buffer.len() + data.len()) as u64));
            }
            self.buffer.extend_from_slice(&data);
        }
        Ok(self.buffer.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn entry(index: u64, term: u64, data: &'static str) -> Entry {
        Entry { term: Some(term), index: Some(index), r#type: Some(0), data: Some(data.into()) }
    }

    fn append(term: u64, log_term: u64, index: u64, entries: Vec<Entry>) -> Message {
        Message {
            r#type: Some(MessageType::MsgApp as i32),
            from: Some(1),
            to: Some(2),
            term: Some(term),
            log_term: Some(log_term),
            index: Some(index),
            commit: Some(index),
            entries,
            ..Message::default()
        }
    }

    async fn decode_all(kind: Kind, bytes: impl Into<Bytes>) -> Result<Vec<Option<Message>>, StreamError> {
        let mut bytes = Bounded::new(Full::new(bytes.into()), PATIENCE);
        let mut decoder = Decoder::new(kind, 1, 2);
        let mut decoded = Vec::new();
        loop {
            match decoder.decode(&mut bytes).await {
                Ok(message) => decoded.push(message),
                Err(StreamError::Ended) => return Ok(decoded),
                Err(error) => return Err(error),
            }
        }
    }

    #[tokio::test]
    async fn appends_that_follow_each_other_are_only_entries() {
        let messages = [
            append(3, 2, 10, vec![entry(11, 3, "a")]),
            append(3, 3, 11, vec![entry(12, 3, "b"), entry(13, 3, "c")]),
            append(3, 3, 13, vec![]),
            // Sent again from the start: whole.
            append(3, 2, 10, vec![entry(11, 3, "a")]),
            append(4, 3, 11, vec![entry(12, 4, "d")]),
        ];
        let mut encoder = Encoder::new(Kind::MsgApp);
        let mut out = BytesMut::new();
        let mut tags = Vec::new();
        for message in &messages {
            tags.push((out.len(), message));
            encoder.encode(message, &mut out);
        }
        encoder.heartbeat(&mut out);
        let kinds: Vec<u8> = tags.iter().map(|(at, _)| out[*at]).collect();
        assert_eq!(kinds, [WHOLE, ENTRIES, ENTRIES, WHOLE, WHOLE]);
        let decoded = decode_all(Kind::MsgApp, out.freeze()).await.unwrap();
        assert_eq!(decoded[..5], messages.map(Some));
        assert_eq!(decoded[5..], [None]);
    }

    #[tokio::test]
    async fn messages_come_back_and_heartbeats_of_the_link_are_nothing() {
        let message = append(3, 2, 10, vec![entry(11, 3, "a")]);
        let mut encoder = Encoder::new(Kind::Message);
        let mut out = BytesMut::new();
        encoder.encode(&message, &mut out);
        encoder.heartbeat(&mut out);
        encoder.encode(&message, &mut out);
        let decoded = decode_all(Kind::Message, out.freeze()).await.unwrap();
        assert_eq!(decoded, [Some(message.clone()), None, Some(message)]);
    }

    #[tokio::test]
    async fn a_stated_length_takes_no_memory_and_a_cut_is_an_error() {
        for (kind, bytes, refused) in [
            (Kind::Message, &b"\xff\xff\xff\xff\xff\xff\xff\xff"[..], "bytes or entries"),
            (Kind::MsgApp, b"\x01\xff\xff\xff\xff\xff\xff\xff\xff", "bytes or entries"),
            (Kind::MsgApp, b"\x01\0\0\0\0\0\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff", "bytes or entries"),
            (Kind::MsgApp, b"\x07", "unknown type 7"),
            (Kind::Message, b"\0\0\0\0\0\0\0\x05ab", "within a message"),
            (Kind::MsgApp, b"\x02\0\0", "within a message"),
            (Kind::Message, b"\0\0\0\0\0\0\0\x02\x08\xff", "varint"),
        ] {
            let error = decode_all(kind, bytes).await.unwrap_err().to_string();
            assert!(error.contains(refused), "{bytes:?}: {error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_given_up() {
        let silent = http_body_util::StreamBody::new(futures::stream::pending::<
            Result<http_body::Frame<Bytes>, std::io::Error>,
        >());
        let mut bytes = Bounded::new(silent, PATIENCE);
        let error = Decoder::new(Kind::MsgApp, 1, 2).decode(&mut bytes).await.unwrap_err();
        assert!(matches!(error, StreamError::Silent(_)), "{error}");
    }
}
