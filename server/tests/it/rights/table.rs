//! Reads `table.txt`. Two tests go by it: each method asked in this process, and every way into the processes.

use std::sync::LazyLock;

use bytes::Bytes;
use forebay_proto::{
    DESCRIPTORS,
    json::{Route, routes},
};
use prost::Message as _;
use prost_types::FileDescriptorSet;

/// Who asks, in the order of the verdicts.
pub const CALLERS: [&str; 9] =
    ["nobody", "a bad token", "emil, expired", "dora, deleted", "eve", "alice", "rita", "wendy", "root"];
/// The place of the one whose token has expired.
pub const EXPIRED: usize = 2;
/// A token that was never given.
pub const BAD_TOKEN: &str = "AAAAAAAAAAAAAAAA.1";

/// What is asked of a method.
#[derive(Debug)]
pub struct Row {
    /// The path over gRPC.
    pub path: String,
    pub json: &'static str,
    /// One for each caller; none of what is set up.
    verdicts: &'static str,
}

impl Row {
    /// What is to be told to the caller of that place, if it is asked.
    pub fn expected(&self, caller: usize) -> Option<char> {
        self.verdicts.chars().nth(caller).filter(|verdict| *verdict != '.')
    }

    /// Its path as JSON, if it has one.
    pub fn route(&self) -> Option<&'static Route> {
        routes().find(|route| route.grpc_path == self.path)
    }

    /// The message, as gRPC frames it.
    pub fn message(&self) -> Bytes {
        // RangeStream takes what Range does, and has no path as JSON.
        let of_range = || routes().find(|route| route.grpc_path == "/etcdserverpb.KV/Range");
        let route = self.route().or_else(of_range).expect("Range has a route");
        let mut bytes = vec![0; 5];
        route.request(self.json.as_bytes(), &mut bytes).unwrap_or_else(|error| panic!("{self:?}: {error}"));
        let length = u32::try_from(bytes.len() - 5).expect("a short message");
        bytes[1..5].copy_from_slice(&length.to_be_bytes());
        bytes.into()
    }

    /// How long a call waits that may have to wait for others. A refusal comes when it comes.
    pub fn patience(&self, expected: char) -> Option<&'static str> {
        let patience = if expected == '+' { "500m" } else { "60S" };
        self.path.starts_with("/v3").then_some(patience)
    }
}

/// What the file says.
pub struct Table {
    pub setup: Vec<Row>,
    pub rows: Vec<Row>,
}

/// Read once.
pub static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let lines = include_str!("table.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows = lines.map(|line| {
        let mut words = line.split(' ');
        let (path, json) = (words.next().expect("a path"), words.next().expect("a request"));
        let package = if path.starts_with("v3") { "" } else { "etcdserverpb." };
        Row { path: format!("/{package}{path}"), json, verdicts: words.next().unwrap_or_default() }
    });
    let (setup, rows) = rows.partition(|row| row.verdicts.is_empty());
    Table { setup, rows }
});

/// Panics unless every method of the protocol has a row, and every row a method and as many verdicts as there are callers.
pub fn check() {
    let files = FileDescriptorSet::decode(DESCRIPTORS).expect("the descriptors decode");
    let mut methods = Vec::new();
    for file in &files.file {
        for service in &file.service {
            let path = |name| format!("/{}.{}/{name}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    let rows = &TABLE.rows;
    for method in &methods {
        assert!(rows.iter().any(|row| row.path == *method), "{method} has no row");
    }
    for row in rows {
        assert!(methods.contains(&row.path), "{row:?} is about no method");
        assert_eq!(row.verdicts.len(), CALLERS.len(), "{row:?}");
    }
}
