//! Membership changes of the log: what they mean and whether they hold.

use forebay_proto::{
    Error,
    raftpb::{ConfChange, ConfChangeType},
};
use forebay_storage::snap::{MemberRecord, Membership};
use serde::Deserialize;

/// A membership change that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new member, or one that is changed: as it is from now on.
    Put(MemberRecord),
    /// The end of a member.
    Remove(u64),
    /// A change that was refused when it was applied first; it stands in the log with no node.
    Nothing,
}

/// The context of a change: a member as Go prints it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: Option<Vec<String>>,
    #[serde(rename = "isLearner")]
    is_learner: bool,
    name: String,
    #[serde(rename = "clientURLs")]
    client_urls: Option<Vec<String>>,
    #[serde(rename = "isPromote")]
    is_promote: bool,
}

/// Decides a change. Every member decides alike: from the membership that the log led to, and the number of learners that
/// there may be, which must be the same on all.
///
/// # Panics
/// When the context contradicts the change: such an entry was never proposed by a member that works.
pub fn decide(membership: &Membership, change: &ConfChange, max_learners: usize) -> Result<Change, Error> {
    let id = change.node_id();
    if id == 0 && change.r#type() != ConfChangeType::ConfChangeRemoveNode {
        return Ok(Change::Nothing);
    }
    if membership.removed.contains(&id) {
        return Err(Error::MemberNotFound);
    }
    let known = membership.members.iter().find(|member| member.id == id);
    let change_type = change.r#type();
    if change_type == ConfChangeType::ConfChangeRemoveNode {
        return known.map(|_| Change::Remove(id)).ok_or(Error::MemberNotFound);
    }
    let context: Context = serde_json::from_slice(change.context.as_deref().unwrap_or_default())
        .unwrap_or_else(|error| panic!("invariant: the context of a membership change is a member: {error}"));
    assert_eq!(context.id, id, "invariant: a membership change and its context name the same member");
    let urls = context.peer_urls.unwrap_or_default();
    let clash = |other: &MemberRecord| other.id != id && other.peer_urls.iter().any(|url| urls.contains(url));
    match (known, change_type, context.is_promote) {
        (None, ConfChangeType::ConfChangeAddNode, true) => Err(Error::MemberNotFound),
        (Some(member), ConfChangeType::ConfChangeAddNode, true) if member.is_learner => {
            Ok(Change::Put(MemberRecord { is_learner: false, ..member.clone() }))
        }
        (Some(_), ConfChangeType::ConfChangeAddNode, true) => Err(Error::MemberNotLearner),
        (Some(member), ConfChangeType::ConfChangeUpdateNode, _) => {
            if membership.members.iter().any(clash) {
                return Err(Error::PeerUrlExist);
            }
            Ok(Change::Put(MemberRecord { peer_urls: urls, ..member.clone() }))
        }
        (None, ConfChangeType::ConfChangeUpdateNode, _) => Err(Error::MemberNotFound),
        (Some(_), _, _) => Err(Error::MemberExist),
        (None, _, _) => {
            if membership.members.iter().any(clash) {
                return Err(Error::PeerUrlExist);
            }
            let learners = membership.members.iter().filter(|member| member.is_learner).count();
            if context.is_learner && change_type == ConfChangeType::ConfChangeAddLearnerNode && learners >= max_learners
            {
                return Err(Error::TooManyLearners);
            }
            Ok(Change::Put(MemberRecord {
                id,
                name: context.name,
                peer_urls: urls,
                client_urls: context.client_urls.unwrap_or_default(),
                is_learner: context.is_learner,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: ConfChangeType, id: u64, context: &str) -> ConfChange {
        let context = context.as_bytes().to_vec().into();
        ConfChange { r#type: Some(kind as i32), node_id: Some(id), context: Some(context), id: Some(1) }
    }

    fn membership() -> Membership {
        let member = |id, url: &str, is_learner| MemberRecord {
            id,
            name: format!("m{id}"),
            peer_urls: vec![url.into()],
            client_urls: vec![],
            is_learner,
        };
        Membership {
            members: vec![member(1, "http://a:2380", false), member(2, "http://b:2380", true)],
            removed: vec![9],
            cluster_version: None,
        }
    }

    fn decided(change: &ConfChange) -> Result<Change, Error> {
        decide(&membership(), change, 1)
    }

    #[test]
    fn learners_are_few() {
        let add = change(
            ConfChangeType::ConfChangeAddLearnerNode,
            3,
            r#"{"id":3,"peerURLs":["http://c:1"],"isLearner":true}"#,
        );
        assert_eq!(decided(&add), Err(Error::TooManyLearners));
        assert!(matches!(decide(&membership(), &add, 2), Ok(Change::Put(member)) if member.is_learner));
    }

    #[test]
    fn a_member_is_added_once_and_its_urls_are_its_own() {
        use ConfChangeType::ConfChangeAddNode as Add;
        let outcome = decided(&change(Add, 3, r#"{"id":3,"peerURLs":["http://c:2380"],"name":"c"}"#));
        let Ok(Change::Put(member)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((member.id, &member.name[..], &member.peer_urls[..]), (3, "c", &["http://c:2380".to_owned()][..]));
        let again = change(Add, 1, r#"{"id":1,"peerURLs":["http://z:2380"]}"#);
        assert_eq!(decided(&again), Err(Error::MemberExist));
        let clash = change(Add, 4, r#"{"id":4,"peerURLs":["http://a:2380"]}"#);
        assert_eq!(decided(&clash), Err(Error::PeerUrlExist));
        let removed = change(Add, 9, r#"{"id":9,"peerURLs":["http://i:2380"]}"#);
        assert_eq!(decided(&removed), Err(Error::MemberNotFound));
        assert_eq!(decided(&change(Add, 0, "")), Ok(Change::Nothing));
    }

    #[test]
    fn only_a_learner_is_promoted() {
        use ConfChangeType::ConfChangeAddNode as Add;
        let promote = |id: u64| change(Add, id, &format!(r#"{{"id":{id},"peerURLs":null,"isPromote":true}}"#));
        let outcome = decided(&promote(2));
        assert!(
            matches!(outcome, Ok(Change::Put(member)) if !member.is_learner && member.peer_urls == ["http://b:2380"])
        );
        assert_eq!(decided(&promote(1)), Err(Error::MemberNotLearner));
        assert_eq!(decided(&promote(5)), Err(Error::MemberNotFound));
    }

    #[test]
    fn members_are_updated_and_removed_by_id() {
        use ConfChangeType::{ConfChangeRemoveNode as Remove, ConfChangeUpdateNode as Update};
        let update = change(Update, 1, r#"{"id":1,"peerURLs":["http://n:2380"]}"#);
        assert!(matches!(decided(&update), Ok(Change::Put(member)) if member.peer_urls == ["http://n:2380"]));
        assert_eq!(decided(&change(Remove, 2, "")), Ok(Change::Remove(2)));
        assert_eq!(decided(&change(Remove, 7, "")), Err(Error::MemberNotFound));
    }
}
