//! The content of a snapshot file: etcd's oldest store, a JSON tree, holding nothing but the membership.
//!
//! 3.6 and older restore it through the code of that store, so the tree comes with its watcher history and statistics,
//! all empty. Nothing reads the store's own indexes; they only have to be plausible.

use super::json::{attributes_fields, raft_attributes_fields, string};

/// One member, as the files know it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberRecord {
    pub id: u64,
    /// Empty until the member has published itself.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has published itself.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// Who is, and who was, a member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    pub members: Vec<MemberRecord>,
    /// Ids that must never come back.
    pub removed: Vec<u64>,
    /// `3.7.0`, once the leader has decided it.
    pub cluster_version: Option<String>,
}

impl Membership {
    /// The bytes that go into [`forebay_proto::raftpb::Snapshot::data`].
    pub fn to_snapshot_data(&self) -> Vec<u8> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_unstable_by_key(|member| format!("{:x}", member.id));
        let members = members.into_iter().map(member_node).collect();
        let mut children = vec![Node::dir("members", members)];
        if !self.removed.is_empty() {
            let mut removed: Vec<_> = self.removed.iter().map(|id| format!("{id:x}")).collect();
            removed.sort_unstable();
            children.push(Node::dir("removed_members", removed.iter().map(|id| Node::file(id, "")).collect()));
        }
        if let Some(version) = &self.cluster_version {
            children.push(Node::file("version", version));
        }
        let root = Node::dir("", vec![Node::dir("0", children), Node::dir("1", Vec::new())]);

        let mut out = String::from("{\"Root\":");
        let mut last_index = 0;
        root.print(&mut out, "", &mut last_index);
        // An empty ring of the capacity that the old store insists on.
        const HISTORY: usize = 1000;
        out.push_str(",\"WatcherHub\":{\"EventHistory\":{\"Queue\":{\"Events\":[null");
        out.push_str(&",null".repeat(HISTORY - 1));
        out.push_str(&format!(
            "],\"Size\":0,\"Front\":0,\"Back\":0,\"Capacity\":{HISTORY}}},\"StartIndex\":0,\"LastIndex\":{last_index}}}}},\
             \"CurrentIndex\":{last_index},\"Stats\":{{"
        ));
        const COUNTERS: [&str; 16] = [
            "getsSuccess",
            "getsFail",
            "setsSuccess",
            "setsFail",
            "deleteSuccess",
            "deleteFail",
            "updateSuccess",
            "updateFail",
            "createSuccess",
            "createFail",
            "compareAndSwapSuccess",
            "compareAndSwapFail",
            "compareAndDeleteSuccess",
            "compareAndDeleteFail",
            "expireCount",
            "watchers",
        ];
        for (position, counter) in COUNTERS.iter().enumerate() {
            out.push_str(&format!("{}\"{counter}\":0", if position == 0 { "" } else { "," }));
        }
        out.push_str("},\"CurrentVersion\":2}");
        out.into_bytes()
    }
}

fn member_node(member: &MemberRecord) -> Node {
    let mut attributes = String::from("{");
    attributes_fields(&mut attributes, member);
    attributes.push('}');
    let mut raft_attributes = String::from("{");
    raft_attributes_fields(&mut raft_attributes, member);
    raft_attributes.push('}');
    let mut files = Vec::new();
    // A member that has not published itself has no attributes yet.
    if attributes != "{}" {
        files.push(Node::file("attributes", &attributes));
    }
    files.push(Node::file("raftAttributes", &raft_attributes));
    Node::dir(&format!("{:x}", member.id), files)
}

/// A directory or a file of the tree.
struct Node {
    name: String,
    value: String,
    children: Option<Vec<Node>>,
}

impl Node {
    fn dir(name: &str, children: Vec<Node>) -> Self {
        Self { name: name.to_owned(), value: String::new(), children: Some(children) }
    }

    fn file(name: &str, value: &str) -> Self {
        Self { name: name.to_owned(), value: value.to_owned(), children: None }
    }

    fn print(&self, out: &mut String, parent: &str, last_index: &mut u64) {
        let path = if self.name.is_empty() { String::new() } else { format!("{parent}/{}", self.name) };
        if self.children.is_none() {
            *last_index += 1;
        }
        out.push_str("{\"Path\":");
        string(out, if path.is_empty() { "/" } else { &path });
        out.push_str(&format!(
            ",\"CreatedIndex\":{last_index},\"ModifiedIndex\":{last_index},\"ExpireTime\":\"0001-01-01T00:00:00Z\",\"Value\":"
        ));
        string(out, &self.value);
        out.push_str(",\"Children\":");
        let Some(children) = &self.children else {
            out.push_str("null}");
            return;
        };
        out.push('{');
        for (position, child) in children.iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            string(out, &child.name);
            out.push(':');
            child.print(out, &path, last_index);
        }
        out.push_str("}}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_shaped_as_the_file_of_a_real_member() {
        let membership = Membership {
            members: vec![MemberRecord {
                id: 0xe63f_4e71_8d56_175e,
                name: "m1".into(),
                peer_urls: vec!["http://127.0.0.1:21071".into()],
                client_urls: vec!["http://127.0.0.1:21070".into()],
                is_learner: false,
            }],
            removed: vec![],
            cluster_version: Some("3.7.0".into()),
        };
        let ours = String::from_utf8(membership.to_snapshot_data()).unwrap();
        // From the .snap file of a 3.7.1 member, with indexes and history blanked.
        let expected = r#"{"Root":{"Path":"/","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"0":{"Path":"/0","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"members":{"Path":"/0/members","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"e63f4e718d56175e":{"Path":"/0/members/e63f4e718d56175e","CreatedIndex":0,"ModifiedIndex":0,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{"attributes":{"Path":"/0/members/e63f4e718d56175e/attributes","CreatedIndex":1,"ModifiedIndex":1,"ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"name\":\"m1\",\"clientURLs\":[\"http://127.0.0.1:21070\"]}","Children":null},"raftAttributes":{"Path":"/0/members/e63f4e718d56175e/raftAttributes","CreatedIndex":2,"ModifiedIndex":2,"ExpireTime":"0001-01-01T00:00:00Z","Value":"{\"peerURLs\":[\"http://127.0.0.1:21071\"]}","Children":null}}}}},"version":{"Path":"/0/version","CreatedIndex":3,"ModifiedIndex":3,"ExpireTime":"0001-01-01T00:00:00Z","Value":"3.7.0","Children":null}}},"1":{"Path":"/1","CreatedIndex":3,"ModifiedIndex":3,"ExpireTime":"0001-01-01T00:00:00Z","Value":"","Children":{}}}},"WatcherHub":{"EventHistory":{"Queue":{"Events":[null,"#;
        assert_eq!(&ours[..expected.len()], expected);
        assert!(ours.ends_with(r#""expireCount":0,"watchers":0},"CurrentVersion":2}"#));
        assert_eq!(ours.matches("null").count(), 1000 + 3);
    }
}
