//! What a request between members says about its sender, and which senders are listened to.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::version::{self, Version};

pub(super) const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
pub(super) const SERVER_FROM: HeaderName = HeaderName::from_static("x-server-from");
pub(super) const SERVER_VERSION: HeaderName = HeaderName::from_static("x-server-version");
pub(super) const MIN_CLUSTER_VERSION: HeaderName = HeaderName::from_static("x-min-cluster-version");
pub(super) const PEER_URLS: HeaderName = HeaderName::from_static("x-peerurls");
pub(super) const RAFT_TO: HeaderName = HeaderName::from_static("x-raft-to");

/// What a member without the header would be.
const BEFORE_HEADERS: Version = Version { major: 2, minor: 0, patch: 0 };

/// Who this member is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) member_id: u64,
    pub(crate) cluster_id: u64,
    /// Where the others reach it.
    pub(crate) peer_urls: Vec<String>,
}

/// Why a request of another member is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    /// Too old, or too new.
    #[error("incompatible version")]
    Version,
    /// Of another cluster.
    #[error("cluster ID mismatch")]
    Cluster,
}

impl Identity {
    /// The headers of every request about raft.
    pub(crate) fn headers(&self) -> HeaderMap {
        let text = |text: &str| HeaderValue::from_str(text).expect("ids and URLs are header text");
        HeaderMap::from_iter([
            (SERVER_FROM, text(&id_text(self.member_id))),
            (SERVER_VERSION, HeaderValue::from_static(version::SERVER)),
            (MIN_CLUSTER_VERSION, HeaderValue::from_static(version::MIN_CLUSTER)),
            (CLUSTER_ID, self.cluster_header()),
            (PEER_URLS, text(&self.peer_urls.join(","))),
        ])
    }

    /// The cluster's id, which answers carry too.
    pub(crate) fn cluster_header(&self) -> HeaderValue {
        HeaderValue::from_str(&id_text(self.cluster_id)).expect("an id is header text")
    }

    /// Whether a request with these headers comes from a member that this one can talk to.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Stranger> {
        let version = |name| match text_of(headers, &name) {
            None => Some(BEFORE_HEADERS),
            Some(text) => Version::parse(text),
        };
        let oldest = Version::parse(version::MIN_CLUSTER).expect("our own version is one");
        let is_compatible = version(SERVER_VERSION).is_some_and(|theirs| theirs.minor() >= oldest)
            && version(MIN_CLUSTER_VERSION).is_some_and(|least| least.minor() <= Version::server().minor());
        if !is_compatible {
            return Err(Stranger::Version);
        }
        if text_of(headers, &CLUSTER_ID) != Some(&*id_text(self.cluster_id)) {
            return Err(Stranger::Cluster);
        }
        Ok(())
    }
}

/// Who sent a request, and where that member is reached: enough to answer one that is not known yet.
pub(super) fn sender(headers: &HeaderMap) -> Option<(u64, Vec<String>)> {
    let id = id_of(text_of(headers, &SERVER_FROM)?)?;
    let urls = text_of(headers, &PEER_URLS)?.split(',').map(str::to_owned).collect();
    Some((id, urls))
}

/// A header's text, if it has any.
pub(super) fn text_of<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name)?.to_str().ok().filter(|text| !text.is_empty())
}

/// An id as headers, paths and logs have it.
pub(crate) fn id_text(id: u64) -> String {
    format!("{id:x}")
}

/// The id that a text stands for. 0 is nobody's.
pub(super) fn id_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { member_id: 0xab, cluster_id: 0xcdf8, peer_urls: vec!["http://a:1".into(), "http://b:2".into()] }
    }

    #[test]
    fn members_of_one_cluster_know_each_other() {
        let headers = identity().headers();
        assert_eq!(identity().check(&headers), Ok(()));
        assert_eq!(sender(&headers), Some((0xab, vec!["http://a:1".to_owned(), "http://b:2".to_owned()])));
    }

    #[test]
    fn strangers_are_told_why() {
        let with = |name: HeaderName, value: &'static str| {
            let mut headers = identity().headers();
            headers.insert(name, HeaderValue::from_static(value));
            identity().check(&headers)
        };
        assert_eq!(with(CLUSTER_ID, "cdf9"), Err(Stranger::Cluster));
        assert_eq!(with(CLUSTER_ID, "0cdf8"), Err(Stranger::Cluster));
        assert_eq!(with(SERVER_VERSION, "2.3.8"), Err(Stranger::Version));
        assert_eq!(with(SERVER_VERSION, "nonsense"), Err(Stranger::Version));
        assert_eq!(with(SERVER_VERSION, "3.5.28"), Ok(()));
        assert_eq!(with(SERVER_VERSION, "4.0.0"), Ok(()));
        assert_eq!(with(MIN_CLUSTER_VERSION, "3.8.0"), Err(Stranger::Version));
        let mut headers = identity().headers();
        headers.remove(SERVER_VERSION);
        assert_eq!(identity().check(&headers), Err(Stranger::Version));
        assert_eq!(identity().check(&HeaderMap::new()), Err(Stranger::Version));
    }
}
