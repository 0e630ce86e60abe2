//! Who a member is, and which cluster it belongs to: ids computed as etcd computes them.

use sha1::{Digest, Sha1};

/// The id of a member of a new cluster: the start of a hash of its peer URLs and the cluster token.
///
/// ```
/// // What etcd gives a member that starts with its defaults.
/// let urls = ["http://localhost:2380".to_owned()];
/// assert_eq!(forebay_storage::identity::member_id(&urls, "etcd-cluster"), 0x8e9e05c52164694d);
/// ```
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    first_eight(hash)
}

/// The id of a cluster: the start of a hash of the ids of its first members. It never changes.
///
/// ```
/// assert_eq!(forebay_storage::identity::cluster_id(&[0x8e9e05c52164694d]), 0xcdf818194e3a8c32);
/// ```
pub fn cluster_id(members: &[u64]) -> u64 {
    let mut ids = members.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    let (head, _) = digest.split_first_chunk::<8>().expect("a SHA-1 has 20 bytes");
    u64::from_be_bytes(*head)
}
