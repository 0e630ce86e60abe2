//! Puts the gateway's own client URLs into the member list.
//!
//! Clients that follow the list (clientv3's AutoSync, `etcdctl member list`) would otherwise leave
//! the gateway for the members behind it. Everything else in the answer keeps its bytes, fields of
//! later etcd releases included.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use forebay_edge::{Body, Response, grpc};
use http::header::CONTENT_LENGTH;
use prost::{
    DecodeError,
    encoding::{self, DecodeContext, WireType},
};

use crate::{
    call::{Call, Failure, Handler},
    methods::MEMBER_LIST,
    replies,
};

/// The field `members` of `MemberListResponse`.
const MEMBERS: u32 = 2;
/// The field `clientURLs` of `Member`.
const CLIENT_URLS: u32 = 4;

/// The layer.
#[derive(Debug)]
pub(crate) struct Members<S> {
    inner: S,
    client_urls: Vec<String>,
}

impl<S> Members<S> {
    /// Answers with `client_urls` for every member that serves clients; with none, changes nothing.
    pub(crate) fn new(inner: S, client_urls: Vec<String>) -> Members<S> {
        Members { inner, client_urls }
    }
}

impl<S: Handler> Handler for Members<S> {
    async fn handle(&self, call: Call) -> Result<Response, Failure> {
        let rewrites = call.method.path == MEMBER_LIST && !self.client_urls.is_empty();
        let response = self.inner.handle(call).await?;
        if !rewrites {
            return Ok(response);
        }
        let (mut head, body) = response.into_parts();
        let answered = replies::unary(Response::from_parts(head.clone(), body)).await?;
        let (message, trailers) = match answered {
            Ok(answered) => answered,
            // A status without a message, told as a trailers-only response.
            Err(trailers) => {
                head.headers.extend(trailers);
                return Ok(Response::from_parts(head, Body::empty()));
            }
        };
        let message = rewrite(message, &self.client_urls).map_err(|error| Failure::Broken(error.into()))?;
        head.headers.remove(CONTENT_LENGTH);
        Ok(Response::from_parts(head, Body::with_trailers(grpc::framed(&message), trailers)))
    }
}

/// Rewrites a `MemberListResponse`.
fn rewrite(list: Bytes, client_urls: &[String]) -> Result<Bytes, DecodeError> {
    let mut out = BytesMut::with_capacity(list.len() + 64);
    each_field(list, |tag, wire_type, whole, value| {
        if tag != MEMBERS || wire_type != WireType::LengthDelimited {
            out.put(whole);
            return Ok(());
        }
        let member = rewrite_member(value, client_urls)?;
        encoding::encode_key(MEMBERS, WireType::LengthDelimited, &mut out);
        encoding::encode_varint(member.len() as u64, &mut out);
        out.put(member);
        Ok(())
    })?;
    Ok(out.freeze())
}

/// Rewrites one `Member`. One without client URLs has not started and keeps none.
fn rewrite_member(member: Bytes, client_urls: &[String]) -> Result<Bytes, DecodeError> {
    let mut out = BytesMut::with_capacity(member.len() + 64);
    let mut replaced = false;
    each_field(member, |tag, _, whole, _| {
        if tag != CLIENT_URLS {
            out.put(whole);
        } else if !replaced {
            encoding::string::encode_repeated(CLIENT_URLS, client_urls, &mut out);
            replaced = true;
        }
        Ok(())
    })?;
    Ok(out.freeze())
}

/// Visits the fields of a message: tag, wire type, all bytes, and the content of those with a length.
fn each_field(
    mut message: Bytes,
    mut visit: impl FnMut(u32, WireType, Bytes, Bytes) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    while message.has_remaining() {
        let mut rest = message.clone();
        let (tag, wire_type) = encoding::decode_key(&mut rest)?;
        let mut value = Bytes::new();
        if wire_type == WireType::LengthDelimited {
            encoding::bytes::merge(wire_type, &mut value, &mut rest, DecodeContext::default())?;
        } else {
            encoding::skip_field(wire_type, tag, &mut rest, DecodeContext::default())?;
        }
        let whole = message.split_to(message.len() - rest.len());
        visit(tag, wire_type, whole, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{Member, MemberListResponse, ResponseHeader};
    use prost::Message as _;

    use super::*;

    fn list(client_urls: [&[&str]; 2]) -> MemberListResponse {
        let urls = |urls: &[&str]| urls.iter().map(|url| (*url).to_owned()).collect();
        MemberListResponse {
            header: Some(ResponseHeader { cluster_id: 1, member_id: 2, revision: 0, raft_term: 3 }),
            members: vec![
                Member {
                    id: 7,
                    name: "a".into(),
                    client_ur_ls: urls(client_urls[0]),
                    is_learner: true,
                    ..Default::default()
                },
                Member {
                    id: 8,
                    peer_ur_ls: urls(&["http://p"]),
                    client_ur_ls: urls(client_urls[1]),
                    ..Default::default()
                },
            ],
        }
    }

    #[test]
    fn client_urls_are_replaced_and_nothing_else() {
        let sent = Bytes::from(list([&["http://m1", "http://m2"], &[]]).encode_to_vec());
        let own = ["http://gateway:2379".to_owned()];
        let got = MemberListResponse::decode(rewrite(sent, &own).unwrap()).unwrap();
        assert_eq!(got, list([&["http://gateway:2379"], &[]]));
    }

    #[test]
    fn fields_of_later_releases_survive() {
        let mut sent = list([&[], &[]]).encode_to_vec();
        encoding::uint64::encode(99, &5, &mut sent);
        encoding::fixed64::encode(100, &6, &mut sent);
        let sent = Bytes::from(sent);
        assert_eq!(rewrite(sent.clone(), &["http://g".into()]).unwrap(), sent);
    }

    #[test]
    fn a_broken_list_is_an_error() {
        assert!(rewrite(Bytes::from_static(b"\x12\x7f"), &["http://g".into()]).is_err());
    }
}
