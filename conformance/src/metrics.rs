//! The metrics page: which families there are, of which type, with which labels and buckets.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use crate::{http::Call, target::Target};

/// What dashboards and alerts rely on in a family, whatever its values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// counter, gauge, histogram or summary.
    pub kind: String,
    /// The names of the labels, but for `le` and `quantile`.
    pub labels: BTreeSet<String>,
    /// The upper bounds of a histogram's buckets.
    pub buckets: BTreeSet<String>,
}

/// Reads the page of a target.
pub async fn families(target: &Target) -> anyhow::Result<BTreeMap<String, Family>> {
    let response = Call::get("/metrics").send(target.member).await?;
    ensure!(response.status == 200, "GET /metrics: {}", response.status);
    parse(&response.body_text())
}

fn parse(page: &str) -> anyhow::Result<BTreeMap<String, Family>> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').with_context(|| format!("a type: {line}"))?;
            name.clone_into(&mut current);
            families.entry(current.clone()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') && !line.is_empty() {
            let family = families.get_mut(&current).with_context(|| format!("a sample without a type: {line}"))?;
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
            for (name, value) in split(labels) {
                match name {
                    "le" => drop(family.buckets.insert(value.to_owned())),
                    "quantile" => {}
                    name => drop(family.labels.insert(name.to_owned())),
                }
            }
        }
    }
    Ok(families)
}

/// The labels of a sample. No value of theirs has an escaped quote.
fn split(labels: &str) -> impl Iterator<Item = (&str, &str)> {
    labels.split("\",").filter_map(|label| label.trim_end_matches('"').split_once("=\""))
}

/// A family that only one side has, with the reason; a `*` at the end stands for any rest.
pub type Reason = (&'static str, &'static str);

/// Families that a member of etcd's has and ours has not.
pub const ABSENT: &[Reason] = &[
    ("go_*", "there is no Go runtime"),
    ("promhttp_*", "what the library of Go's page counts about itself"),
    ("etcd_server_go_version", "there is no Go runtime"),
    ("etcd_grpc_proxy_*", "etcd has its proxy in the same process image"),
    ("etcd_debugging_store_*", "the store of etcd 2 is gone"),
    ("etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "our file is balanced while changes are put in"),
    (
        "etcd_debugging_server_watch_send_loop_*",
        "a message is written by one poll of the stream, not by a loop of parts",
    ),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "a snapshot file is encoded while it is saved"),
    ("etcd_snap_*", "a snapshot file is saved beside the traffic, and its time is in snap_save_total"),
    ("etcd_network_*peer*", "labelled by peer, and the compared member has none"),
    ("etcd_network_known_peers", "not counted yet"),
    ("etcd_server_heartbeat_send_failures_total", "not counted yet"),
    ("etcd_server_learner_promote_successes", "not counted yet"),
    ("process_network_*", "what the operating system counts of the machine, not of the process"),
    ("process_virtual_memory_max_bytes", "the library does not look at it"),
    ("os_fd_*", "the same as process_open_fds and process_max_fds"),
];

/// Why a family is in a list.
pub fn reason(list: &[Reason], name: &str) -> Option<&'static str> {
    let covers = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) if prefix.contains('*') => {
            let (start, middle) = prefix.split_once('*').expect("there is a star");
            name.starts_with(start) && name.contains(middle)
        }
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    list.iter().find(|(pattern, _)| covers(pattern)).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_by_family() {
        let page = "# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\",y=\"b,c\"} 3\n\
                    # TYPE b histogram\nb_bucket{le=\"0.1\"} 1\nb_bucket{le=\"+Inf\"} 1\nb_sum 0\nb_count 1\n";
        let families = parse(page).unwrap();
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(families["a_total"], Family { kind: "counter".into(), labels: set(&["x", "y"]), buckets: set(&[]) });
        assert_eq!(families["b"].buckets, set(&["+Inf", "0.1"]));
    }

    #[test]
    fn a_reason_covers_what_its_stars_stand_for() {
        let list = &[("etcd_network_*peer*", "p"), ("go_*", "g"), ("x", "x")];
        assert_eq!(reason(list, "etcd_network_active_peers"), Some("p"));
        assert_eq!((reason(list, "go_info"), reason(list, "xy"), reason(list, "x")), (Some("g"), None, Some("x")));
    }
}
