//! What an entry of the log says.
//!
//! etcd up to 3.5 announces its name and URLs, and the cluster version, by requests of the API of etcd 2, which stand in
//! the log of every member. They are read as the requests that took their place.

use bytes::Bytes;
use forebay_proto::{
    NestingError, decode_raft_request,
    etcdserverpb::{InternalRaftRequest, RequestHeader},
    membershippb::{Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest},
};
use prost::Message;
use serde::Deserialize;

/// Why an entry cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// It is a request of neither API.
    #[error("it is no request: {0}")]
    NoRequest(NestingError),
    /// It wrote into the store of etcd 2, which is gone.
    #[error("it is a request of etcd 2 ({method} {path}), whose store is gone; clients must have moved to v3 before")]
    Store2 {
        /// What it did.
        method: String,
        /// To what.
        path: String,
    },
    /// It announces a member in a form that is not etcd's.
    #[error("it announces a member at {path}, but not as etcd does")]
    Announcement {
        /// Of whom.
        path: String,
    },
}

/// `etcdserverpb.Request` of etcd 3.5 and before, as far as members use it.
#[derive(Clone, PartialEq, Message)]
struct Request2 {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(string, tag = "2")]
    method: String,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(string, tag = "4")]
    value: String,
}

/// Reads an entry.
pub fn read(data: Bytes) -> Result<InternalRaftRequest, EntryError> {
    // A path has bytes that no field of a range may begin with, so neither kind can be taken for the other.
    decode_raft_request(data.clone()).or_else(|error| match Request2::decode(data) {
        Ok(request) => announcement(request),
        Err(_) => Err(EntryError::NoRequest(error)),
    })
}

fn announcement(request: Request2) -> Result<InternalRaftRequest, EntryError> {
    let Request2 { id, method, path, value } = request;
    let header = Some(RequestHeader { id, ..RequestHeader::default() });
    if method == "PUT" && path == "/0/version" {
        let set = ClusterVersionSetRequest { ver: value };
        return Ok(InternalRaftRequest { header, cluster_version_set: Some(set), ..Default::default() });
    }
    let member = path.strip_prefix("/0/members/").and_then(|rest| rest.strip_suffix("/attributes"));
    let Some(member) = member.filter(|_| method == "PUT") else { return Err(EntryError::Store2 { method, path }) };
    let (Ok(member_id), Ok(attributes)) = (u64::from_str_radix(member, 16), serde_json::from_str(&value)) else {
        return Err(EntryError::Announcement { path });
    };
    let Attributes2 { name, client_urls } = attributes;
    let attributes = Attributes { name, client_urls: client_urls.unwrap_or_default() };
    let set = ClusterMemberAttrSetRequest { member_id, member_attributes: Some(attributes) };
    Ok(InternalRaftRequest { header, cluster_member_attr_set: Some(set), ..Default::default() })
}

/// A member's attributes as Go prints them.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Attributes2 {
    name: String,
    #[serde(rename = "clientURLs")]
    client_urls: Option<Vec<String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcd 3.4 encodes one: every field, whether it is set or not.
    fn request2(method: &str, path: &str, value: &str) -> Bytes {
        let request = Request2 { id: 7, method: method.into(), path: path.into(), value: value.into() };
        let mut bytes = request.encode_to_vec();
        // dir, prevValue, prevIndex, expiration, wait, since, recursive, sorted, quorum, time, stream.
        bytes.extend(b"\x28\x00\x32\x00\x38\x00\x48\x00\x50\x00\x58\x00\x60\x00\x68\x00\x70\x00\x78\x00\x80\x01\x00");
        bytes.into()
    }

    #[test]
    fn announcements_of_old_members_are_understood() {
        let json = r#"{"name":"m1","clientURLs":["http://127.0.0.1:2379"]}"#;
        let request = read(request2("PUT", "/0/members/8e9e05c52164694d/attributes", json)).unwrap();
        let set = request.cluster_member_attr_set.unwrap();
        assert_eq!((set.member_id, request.header.unwrap().id), (0x8e9e05c52164694d, 7));
        let attributes = set.member_attributes.unwrap();
        assert_eq!((&attributes.name[..], &attributes.client_urls[..]), ("m1", &["http://127.0.0.1:2379".into()][..]));
        let request = read(request2("PUT", "/0/version", "3.4.0")).unwrap();
        assert_eq!(request.cluster_version_set.unwrap().ver, "3.4.0");
    }

    #[test]
    fn what_clients_wrote_into_the_old_store_is_refused_by_its_path() {
        for (method, path) in [("PUT", "/1/foo"), ("DELETE", "/1/foo"), ("SYNC", ""), ("PUT", "/0/members/x")] {
            let error = read(request2(method, path, "")).unwrap_err();
            assert!(matches!(error, EntryError::Store2 { .. }), "{error}");
        }
        for (path, json) in [("/0/members/x/attributes", "{}"), ("/0/members/1/attributes", "[")] {
            let error = read(request2("PUT", path, json)).unwrap_err();
            assert!(matches!(error, EntryError::Announcement { .. }), "{error}");
        }
        assert!(matches!(read(Bytes::from_static(b"\xff")), Err(EntryError::NoRequest(_))));
    }
}
