//! The Maintenance service.

use std::{io::Read, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use forebay_edge::{Body, Request, Response, grpc};
use forebay_proto::{Error, etcdserverpb::*};
use futures::{StreamExt as _, stream};
use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len},
};
use sha2::{Digest as _, Sha256};
use tonic::Status;

use super::rights;
use crate::{apply::Outcome, member::Member, version};

/// The bytes of the db file in one message of a snapshot.
const SNAPSHOT_CHUNK: usize = 32 << 10;
/// Snapshot messages that are handed to the connection at once: it takes as long for one as for several.
const SNAPSHOT_BATCH: usize = 8;
/// Batches of them that are read ahead of a slow client.
const SNAPSHOT_AHEAD: usize = 2;
/// The rate in bytes per second that a client must read a snapshot at in the long run.
const SNAPSHOT_RATE_MIN: u64 = 256 << 10;
/// How far it may fall behind that.
const SNAPSHOT_GRACE: Duration = Duration::from_secs(30);
const TOO_SLOW: &str = "the snapshot is read too slowly; others wait for the place";

pub(super) async fn status(member: Member, request: Request) -> Result<Response, Status> {
    rights::unary::<StatusRequest>(&member, request).await?;
    let raft = member.raft_status();
    let mut errors = Vec::new();
    if raft.leader == 0 {
        errors.push(Error::NoLeader.message().to_owned());
    }
    errors.extend(
        member
            .alarms()
            .iter()
            .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member_id, alarm.alarm().as_str_name())),
    );
    let sizes = member.db_sizes();
    Ok(grpc::reply_message(&StatusResponse {
        header: Some(member.header()),
        version: version::SERVER.into(),
        db_size: sizes.total as i64,
        leader: raft.leader,
        raft_index: raft.commit,
        raft_term: raft.term,
        raft_applied_index: raft.applied,
        errors,
        db_size_in_use: sizes.in_use as i64,
        is_learner: member.is_learner(),
        storage_version: member.storage_version().unwrap_or_default(),
        db_size_quota: member.config().quota_backend_bytes.map_or(0, |bytes| bytes as i64),
        downgrade_info: Some(downgrade_info(&member)),
    }))
}

fn downgrade_info(member: &Member) -> DowngradeInfo {
    let target = member.downgrade_target();
    DowngradeInfo { enabled: target.is_some(), target_version: target.map_or_else(String::new, |to| to.to_string()) }
}

pub(super) async fn move_leader(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, wish) = rights::unary::<MoveLeaderRequest>(&member, request).await?;
    if member.raft_status().leader != member.id() {
        return Err(Error::NotLeader.into());
    }
    let members = member.members();
    if !members.iter().any(|other| other.id == wish.target_id && !other.is_learner) {
        return Err(Error::BadLeaderTransferee.into());
    }
    // Only the caller's patience ends it.
    let patience = grpc::deadline(&parts.headers, std::time::Instant::now())?;
    member.move_leader(wish.target_id, patience).await?;
    Ok(grpc::reply_message(&MoveLeaderResponse { header: None }))
}

pub(super) async fn downgrade(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, wish) = rights::unary::<DowngradeRequest>(&member, request).await?;
    let deadline = member.deadline(&parts.headers)?;
    let version = match downgrade_request::DowngradeAction::try_from(wish.action) {
        Ok(downgrade_request::DowngradeAction::Validate) => member.validate_downgrade(&wish.version, deadline).await?,
        Ok(downgrade_request::DowngradeAction::Enable) => member.enable_downgrade(&wish.version, deadline).await?,
        Ok(downgrade_request::DowngradeAction::Cancel) => member.cancel_downgrade(deadline).await?,
        Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
    };
    Ok(grpc::reply_message(&DowngradeResponse { header: Some(member.header()), version }))
}

pub(super) async fn alarm(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, alarm) = rights::unary::<AlarmRequest>(&member, request).await?;
    let deadline = member.deadline(&parts.headers)?;
    let caller = member.caller(&parts, deadline).await?;
    if alarm.action != alarm_request::AlarmAction::Get as i32 {
        member.auth().judge(&caller, |rights| rights.admin())?;
    }
    if alarm_request::AlarmAction::try_from(alarm.action).is_err() {
        // etcd crashes on these.
        return Err(Status::invalid_argument(format!("unknown alarm action {}", alarm.action)));
    }
    let request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
    let Outcome::Alarm(alarms) = member.propose(&caller, request, deadline).await? else {
        unreachable!("an alarm was proposed")
    };
    Ok(grpc::reply_message(&AlarmResponse { header: Some(member.header()), alarms }))
}

pub(super) async fn defragment(member: Member, request: Request) -> Result<Response, Status> {
    rights::unary::<DefragmentRequest>(&member, request).await?;
    member.maintaining(Member::defragment).await?;
    Ok(grpc::reply_message(&DefragmentResponse { header: None }))
}

pub(super) async fn hash(member: Member, request: Request) -> Result<Response, Status> {
    rights::unary::<HashRequest>(&member, request).await?;
    let hash = member.maintaining(|member| member.backend().hash()).await?;
    Ok(grpc::reply_message(&HashResponse { header: Some(member.header()), hash }))
}

pub(super) async fn hash_kv(member: Member, request: Request) -> Result<Response, Status> {
    let (_, query) = rights::unary::<HashKvRequest>(&member, request).await?;
    let (hashed, revision) = member.maintaining(move |member| Ok(member.hash_kv(query.revision)?)).await?;
    Ok(grpc::reply_message(&HashKvResponse {
        header: Some(member.header_at(revision)),
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.revision,
    }))
}

pub(super) async fn snapshot(member: Member, request: Request) -> Result<Response, Status> {
    rights::unary::<SnapshotRequest>(&member, request).await?;
    let permit = member.snapshot_permit()?;
    let version = member.storage_version().unwrap_or_default();
    let (sender, messages) = tokio::sync::mpsc::channel(SNAPSHOT_AHEAD);
    let (failed, failure) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let _timer = member.metrics().backend.snapshot_seconds.start_timer();
        let mut pace = Pace::new(tokio::time::Instant::now());
        let sent = member.backend().snapshot().and_then(|(size, db)| {
            send_snapshot(&version, size, db, |frame| {
                let deadline = pace.deadline(frame.len());
                runtime.block_on(async {
                    tokio::select! {
                        sent = sender.send(frame) => sent.map_err(|_| Status::cancelled("context canceled")),
                        () = tokio::time::sleep_until(deadline) => Err(Status::unavailable(TOO_SLOW)),
                        () = member.draining() => Err(Error::Stopped.into()),
                    }
                })
            })
        });
        if let Err(status) = sent {
            // A client that went away does not need to know.
            let _ = failed.send(status);
        }
    });
    let failure = stream::once(failure).filter_map(async |failed| failed.ok().map(Err));
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages).map(Ok).chain(failure);
    Ok(grpc::respond(Body::grpc_stream(messages)))
}

/// How slowly a client may read a snapshot. Each keeps a thread and pages of the file.
struct Pace {
    start: tokio::time::Instant,
    bytes: u64,
}

impl Pace {
    fn new(start: tokio::time::Instant) -> Pace {
        Pace { start, bytes: 0 }
    }

    /// Until when the next `len` bytes must be taken: what was taken so far may have taken as long as it takes at the
    /// lowest rate, and some time more.
    fn deadline(&mut self, len: usize) -> tokio::time::Instant {
        let deadline = self.start + SNAPSHOT_GRACE + Duration::from_secs(self.bytes / SNAPSHOT_RATE_MIN);
        self.bytes += len as u64;
        deadline
    }
}

/// The db file in pieces, then its SHA-256. Ends with the first error of `send`.
fn send_snapshot(
    version: &str,
    size: u64,
    mut db: impl Read,
    mut send: impl FnMut(Bytes) -> Result<(), Status>,
) -> Result<(), Status> {
    let mut hash = Sha256::new();
    let mut remaining = size;
    while remaining > 0 {
        let length = remaining.min((SNAPSHOT_BATCH * SNAPSHOT_CHUNK) as u64) as usize;
        let mut batch = BytesMut::with_capacity(length + SNAPSHOT_BATCH * MESSAGE_ROOM);
        for _ in 0..length.div_ceil(SNAPSHOT_CHUNK) {
            let blob_length = remaining.min(SNAPSHOT_CHUNK as u64);
            remaining -= blob_length;
            put_message(version, remaining, blob_length as usize, &mut batch, |blob| {
                db.read_exact(blob).map_err(|error| Status::unknown(format!("snapshot: {error}")))?;
                hash.update(&blob);
                Ok(())
            })?;
        }
        send(batch.freeze())?;
    }
    let blob = Bytes::copy_from_slice(&hash.finalize());
    send(grpc::encode(&SnapshotResponse { header: None, remaining_bytes: 0, blob, version: version.to_owned() }))
}

/// More than a message takes beside its blob.
const MESSAGE_ROOM: usize = 128;

/// One framed message, whose blob is read into its place and not copied there.
fn put_message(
    version: &str,
    remaining: u64,
    blob_length: usize,
    out: &mut BytesMut,
    read: impl FnOnce(&mut [u8]) -> Result<(), Status>,
) -> Result<(), Status> {
    const BLOB: u32 = 3;
    let head = SnapshotResponse { remaining_bytes: remaining, ..SnapshotResponse::default() };
    let tail = SnapshotResponse { version: version.to_owned(), ..SnapshotResponse::default() };
    let blob_field = key_len(BLOB) + encoded_len_varint(blob_length as u64) + blob_length;
    out.put_slice(&grpc::prefix(head.encoded_len() + blob_field + tail.encoded_len()));
    head.encode_raw(out);
    encode_key(BLOB, WireType::LengthDelimited, out);
    encode_varint(blob_length as u64, out);
    let at = out.len();
    out.resize(at + blob_length, 0);
    read(&mut out[at..])?;
    tail.encode_raw(out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_counts_down_and_ends_with_its_hash() {
        let db: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        let (mut messages, mut batches) = (Vec::new(), 0);
        send_snapshot("3.7.0", db.len() as u64, &db[..], |mut frames| {
            batches += 1;
            while !frames.is_empty() {
                let length = u32::from_be_bytes(frames[1..grpc::PREFIX].try_into().unwrap());
                let message = frames.split_to(grpc::PREFIX + length as usize).slice(grpc::PREFIX..);
                let parsed = SnapshotResponse::decode(message.clone()).unwrap();
                assert_eq!(parsed.encode_to_vec(), message, "as anybody would encode it");
                messages.push(parsed);
            }
            Ok(())
        })
        .unwrap();
        let (hash, parts) = messages.split_last().unwrap();
        let chunks = [[SNAPSHOT_CHUNK; 9].as_slice(), &[5088]].concat();
        assert_eq!(parts.iter().map(|part| part.blob.len()).collect::<Vec<_>>(), chunks);
        let left = |part: usize| 300_000 - chunks[..=part].iter().sum::<usize>() as u64;
        assert_eq!(
            parts.iter().map(|part| part.remaining_bytes).collect::<Vec<_>>(),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(left)
        );
        assert_eq!(batches, 3);
        assert_eq!(parts.iter().flat_map(|part| part.blob.to_vec()).collect::<Vec<_>>(), db);
        assert_eq!((hash.remaining_bytes, &hash.blob[..]), (0, &Sha256::digest(&db)[..]));
    }
}
