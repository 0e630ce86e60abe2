//! The lines of the script.

use crate::peers::Release;

/// One call of etcdctl.
#[derive(Clone, Debug)]
pub struct Line {
    /// The arguments; `{lease}` is the last lease granted and `{folder}` a folder for files.
    pub args: Vec<String>,
    /// What it reads.
    pub stdin: &'static str,
    /// Ends the command after so many lines: for those that would go on.
    pub until: Option<usize>,
    /// Whether every number of the output is masked.
    pub numbers: bool,
}

/// A line from text; arguments have no spaces.
fn line(text: &str) -> Line {
    let args = text.split(' ').map(|arg| arg.replace('_', " ")).collect();
    Line { args, stdin: "", until: None, numbers: false }
}

const TXN: &str = "mod(\"foo\") > \"0\"\nval(\"foo\") = \"baz\"\n\nput t 1\nget foo\n\nput t 2\n\n";
const TXN_ELSE: &str = "create(\"nothing\") > \"0\"\n\nput t 1\n\nput t 2\ndel nothing\nget t\n\n";

/// Keys and their history.
const KEYS: &[&str] = &[
    "put foo bar",
    "put foo baz --prev-kv",
    "put foo --ignore-value",
    "put none --ignore-value",
    "put leased v --lease=7b",
    "put a 1",
    "put b 2",
    "put c 3",
    "put with_space a_value",
    "get foo",
    "get none",
    "get a --prefix",
    "get a c",
    "get b --from-key",
    "get a --from-key --limit=2",
    "get a --from-key --order=DESCEND --sort-by=VALUE",
    "get a --from-key --sort-by=MODIFY",
    "get a --from-key --keys-only",
    "get foo --print-value-only",
    "get foo --rev=2",
    "get foo --rev=999",
    "get foo --consistency=s",
    "get foo --hex",
    "endpoint hashkv",
    "endpoint hashkv --rev=5",
    "endpoint hashkv --rev=999",
];

/// What can be printed in several ways.
const PRINTED: &[&str] = &[
    "get foo",
    "get a --from-key --limit=2",
    "get a --prefix --count-only",
    "put foo baz --prev-kv",
    "del none",
    "alarm list",
    "member list",
    "lease list",
    "lease timetolive 7b",
    "endpoint hashkv",
    "compaction 999",
];

const LEASES: &[&str] = &[
    "lease grant 100",
    "put under lease --lease={lease}",
    "get under",
    "lease timetolive {lease} --keys",
    "lease timetolive {lease} --keys -w json",
    "lease keep-alive --once {lease}",
    "lease list",
    "lease revoke {lease}",
    "lease revoke {lease}",
    "lease keep-alive --once {lease}",
    "get under",
];

const MAINTENANCE: &[&str] = &[
    "endpoint health",
    "endpoint health -w json",
    "alarm disarm",
    "defrag",
    "snapshot save {folder}/snapshot.db",
    "move-leader 1234",
    "member remove 1234",
    "member update 1234 --peer-urls=http://127.0.0.1:1",
    "member add other --peer-urls=nonsense",
    "version",
    "lock l echo held",
    "compaction 4",
    "compaction 4",
    "compaction --physical 5",
    "get foo --rev=2",
    "del a",
    "del a",
    "del b --prev-kv",
    "del t --prefix",
    "del c --from-key --prev-kv",
];

/// Last, because afterwards a password is needed.
const AUTH: &[&str] = &[
    "user add root --no-password",
    "user list",
    "user delete root",
    "user add root:toor",
    "user add bob:secret",
    "user add bob:secret",
    "role add reader",
    "role grant-permission reader read a c",
    "role grant-permission reader readwrite k --prefix",
    "role grant-permission reader write x --from-key",
    "role get reader",
    "role get nobody",
    "role revoke-permission reader a c",
    "role revoke-permission reader a c",
    "role list",
    "user grant-role bob reader",
    "user get bob",
    "user get bob --detail",
    "auth enable",
    "user grant-role root root",
    "auth enable",
    "get k",
    "get k --user=bob:secret",
    "put k v --user=bob:secret",
    "put z v --user=bob:secret",
    "get a --user=bob:secret",
    "get a --user=bob:wrong",
    "user list --user=bob:secret",
    "user list --user=root:toor",
    "compaction 6 --user=bob:secret",
    "role delete reader --user=root:toor",
    "auth disable --user=root:toor",
    "user delete bob",
];

/// The lines for the etcdctl of a release.
pub fn script(release: Release) -> Vec<Line> {
    let formats: &[&str] = match release {
        Release::V3_7 => &["json", "fields", "table"],
        Release::V3_4 | Release::V3_5 => &["json", "fields"],
    };
    let mut lines: Vec<Line> = KEYS.iter().map(|text| line(text)).collect();
    for stdin in [TXN, TXN_ELSE] {
        lines.push(Line { stdin, ..line("txn") });
        lines.push(Line { stdin, ..line("txn -w json") });
    }
    lines.push(Line { stdin: "a value from stdin", ..line("put piped") });
    lines.push(line("get piped"));
    lines.push(Line { stdin: "mod(\"foo\") != \"0\"\n\nget a\n\n\n", ..line("txn") });
    for format in formats {
        lines.extend(PRINTED.iter().map(|text| line(&format!("{text} -w {format}"))));
    }
    lines.extend(LEASES.iter().map(|text| line(text)));
    // Three lines an event, the kind, the key and the value.
    lines.push(Line { until: Some(6), ..line("watch foo --rev=2") });
    lines.push(Line { until: Some(6), ..line("watch a d --rev=5") });
    lines.push(Line { until: Some(8), ..line("watch foo --rev=2 --prev-kv") });
    lines.push(Line { until: Some(1), ..line("watch foo --rev=2 -w json") });
    for format in ["simple"].iter().chain(formats) {
        lines.push(Line { numbers: true, ..line(&format!("endpoint status -w {format}")) });
    }
    // The key stands on a line, and its value on the next.
    lines.push(Line { until: Some(2), ..line("elect e first") });
    lines.extend(MAINTENANCE.iter().map(|text| line(text)));
    lines.push(Line { until: Some(1), ..line("watch foo --rev=2") });
    if release < Release::V3_7 {
        lines.push(Line { numbers: true, ..line("snapshot status {folder}/snapshot.db -w fields") });
    }
    lines.extend(AUTH.iter().map(|text| line(text)));
    lines
}
