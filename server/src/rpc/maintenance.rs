//! The Maintenance service. MoveLeader and Downgrade come with the cluster.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use forebay_edge::{Body, Request, Response, grpc};
use forebay_proto::{Error, etcdserverpb::*};
use sha2::{Digest as _, Sha256};
use tonic::Status;

use crate::{apply::Outcome, member::Member, version};

/// The bytes of the db file in one message of a snapshot.
const SNAPSHOT_CHUNK: usize = 32 << 10;
/// Snapshot messages that are read ahead of a slow client.
const SNAPSHOT_AHEAD: usize = 16;

pub(super) async fn status(member: Member, request: Request) -> Result<Response, Status> {
    grpc::unary::<StatusRequest>(request, member.config().max_message_bytes()).await?;
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
        is_learner: false,
        storage_version: version::STORAGE.into(),
        db_size_quota: member.config().quota_backend_bytes.map_or(0, |bytes| bytes as i64),
        downgrade_info: Some(DowngradeInfo::default()),
    }))
}

pub(super) async fn alarm(member: Member, request: Request) -> Result<Response, Status> {
    let (parts, alarm) = grpc::unary::<AlarmRequest>(request, member.config().max_message_bytes()).await?;
    if alarm_request::AlarmAction::try_from(alarm.action).is_err() {
        // etcd crashes on these.
        return Err(Status::invalid_argument(format!("unknown alarm action {}", alarm.action)));
    }
    let request = InternalRaftRequest { alarm: Some(alarm), ..Default::default() };
    let Outcome::Alarm(alarms) = member.propose(request, member.deadline(&parts.headers)?).await? else {
        unreachable!("an alarm was proposed")
    };
    Ok(grpc::reply_message(&AlarmResponse { header: Some(member.header()), alarms }))
}

pub(super) async fn defragment(member: Member, request: Request) -> Result<Response, Status> {
    grpc::unary::<DefragmentRequest>(request, member.config().max_message_bytes()).await?;
    member.maintaining(|member| member.backend().defragment()).await?;
    Ok(grpc::reply_message(&DefragmentResponse { header: None }))
}

pub(super) async fn hash(member: Member, request: Request) -> Result<Response, Status> {
    grpc::unary::<HashRequest>(request, member.config().max_message_bytes()).await?;
    let hash = member.maintaining(|member| member.backend().hash()).await?;
    Ok(grpc::reply_message(&HashResponse { header: Some(member.header()), hash }))
}

pub(super) async fn hash_kv(member: Member, request: Request) -> Result<Response, Status> {
    let (_, query) = grpc::unary::<HashKvRequest>(request, member.config().max_message_bytes()).await?;
    let (hashed, revision) = member.maintaining(move |member| Ok(member.hash_kv(query.revision)?)).await?;
    Ok(grpc::reply_message(&HashKvResponse {
        header: Some(member.header_at(revision)),
        hash: hashed.hash,
        compact_revision: hashed.compact_revision,
        hash_revision: hashed.revision,
    }))
}

pub(super) async fn snapshot(member: Member, request: Request) -> Result<Response, Status> {
    grpc::unary::<SnapshotRequest>(request, member.config().max_message_bytes()).await?;
    let permit = member.snapshot_permit()?;
    let (sender, receiver) = tokio::sync::mpsc::channel(SNAPSHOT_AHEAD);
    let reading = member.clone();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let failed = match reading.backend().snapshot() {
            Ok((size, db)) => send_snapshot(size, db, |frame| sender.blocking_send(Ok(frame)).is_ok()),
            Err(status) => Err(status),
        };
        if let Err(status) = failed {
            let _ = sender.blocking_send(Err(status));
        }
    });
    Ok(grpc::respond(Body::grpc_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))))
}

/// The db file in pieces, then its SHA-256. Ends early when `send` says that nobody listens.
fn send_snapshot(size: u64, mut db: impl Read, mut send: impl FnMut(Bytes) -> bool) -> Result<(), Status> {
    let message = |remaining: u64, blob: Bytes| {
        grpc::encode(&SnapshotResponse {
            header: None,
            remaining_bytes: remaining,
            blob,
            version: version::STORAGE.into(),
        })
    };
    let mut hash = Sha256::new();
    let mut remaining = size;
    while remaining > 0 {
        let mut chunk = BytesMut::zeroed(remaining.min(SNAPSHOT_CHUNK as u64) as usize);
        db.read_exact(&mut chunk).map_err(|error| Status::unknown(format!("snapshot: {error}")))?;
        hash.update(&chunk);
        remaining -= chunk.len() as u64;
        if !send(message(remaining, chunk.freeze())) {
            return Ok(());
        }
    }
    send(message(0, Bytes::copy_from_slice(&hash.finalize())));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_snapshot_counts_down_and_ends_with_its_hash() {
        let db: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let mut messages = Vec::new();
        send_snapshot(db.len() as u64, &db[..], |frame| {
            messages.push(SnapshotResponse::decode(frame.slice(grpc::PREFIX..)).unwrap());
            true
        })
        .unwrap();
        let (hash, parts) = messages.split_last().unwrap();
        assert_eq!(parts.iter().map(|part| part.blob.len()).collect::<Vec<_>>(), [32768, 32768, 32768, 1696]);
        assert_eq!(parts.iter().map(|part| part.remaining_bytes).collect::<Vec<_>>(), [67232, 34464, 1696, 0]);
        assert_eq!(parts.iter().flat_map(|part| part.blob.to_vec()).collect::<Vec<_>>(), db);
        assert_eq!((hash.remaining_bytes, &hash.blob[..]), (0, &Sha256::digest(&db)[..]));
    }
}
