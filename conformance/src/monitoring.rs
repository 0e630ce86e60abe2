//! A cluster and a gateway under load, scraped by a real Prometheus: what boards and alerts get to see.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use forebay_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest,
    RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, kv_client::KvClient,
    lease_client::LeaseClient, request_op, watch_client::WatchClient, watch_request::RequestUnion,
};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{
    cluster::Cluster,
    http::Call,
    peers,
    target::{Kind, Process, free_addresses},
};

/// One rule of each kind, so that everything that can be counted is.
const POLICY: &str = "apiVersion: forebay.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: monitored}
spec:
  priorityLevels:
    - {name: workload, shares: 30}
  flowRules:
    - name: held
      matchingPrecedence: 500
      mode: Enforce
      match: {keys: [/held/]}
      priorityLevel: workload
      limits: {requests: 2/s, burst: 2}
      onLimit: Reject
    - name: paced
      matchingPrecedence: 510
      mode: Enforce
      match: {keys: [/paced/]}
      priorityLevel: workload
      limits: {requests: 20/s, burst: 1}
      onLimit: Queue
    - name: tried
      matchingPrecedence: 600
      mode: Shadow
      match: {keys: [/tried/]}
      priorityLevel: workload
      limits: {requests: 2/s, burst: 2}
      onLimit: Reject
    - name: default
      matchingPrecedence: 9000
      match: {}
      priorityLevel: workload
  quotas:
    - name: counted
      mode: Enforce
      prefix: /counted/
      hard: {objects: 1000}
";

/// Everything that runs. Ends with the value.
#[derive(Debug)]
pub struct Monitored {
    cluster: Cluster,
    _gateway: Process,
    _prometheus: Process,
    gateway_at: SocketAddr,
    prometheus_at: SocketAddr,
    _dir: TempDir,
}

impl Monitored {
    /// Three members, a gateway with a policy, and a Prometheus that scrapes them every second and knows `rules`.
    pub async fn start(rules: &[PathBuf]) -> anyhow::Result<Monitored> {
        let cluster = Cluster::start(&[Kind::Server; 3], &[]).await?;
        let dir = TempDir::with_prefix("conformance-monitoring-")?;
        let [gateway_at, prometheus_at] = free_addresses()?;
        let policy = dir.path().join("policy.yaml");
        fs::write(&policy, POLICY)?;
        let endpoints: Vec<String> = cluster.members.iter().map(crate::cluster::Node::url).collect();
        let mut command = Command::new(peers::forebay().context(peers::BUILD)?);
        command.args(["gateway", "--endpoints", &endpoints.join(","), "--log-level", "error", "--policy"]).arg(&policy);
        command.args(["--listen-client-urls", &format!("http://{gateway_at}")]);
        let gateway = Process::start(command, gateway_at, dir.path().join("gateway.log")).await?;

        let config = dir.path().join("prometheus.yml");
        let members: Vec<&str> = endpoints.iter().map(|url| url.trim_start_matches("http://")).collect();
        fs::write(&config, scrape(rules, &members, gateway_at))?;
        let mut command = Command::new(peers::monitoring("prometheus").context(peers::INSTALL_MONITORING)?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()));
        command.arg(format!("--web.listen-address={prometheus_at}"));
        let mut prometheus = Process::spawn(command, prometheus_at, dir.path().join("prometheus.log"))?;
        prometheus.answering("/-/ready").await?;
        Ok(Monitored { cluster, _gateway: gateway, _prometheus: prometheus, gateway_at, prometheus_at, _dir: dir })
    }

    /// The metrics page of the gateway, and that of a member.
    pub async fn pages(&self) -> anyhow::Result<[String; 2]> {
        let member = self.cluster.members[0].url().trim_start_matches("http://").parse()?;
        let page = async |at| anyhow::Ok(Call::get("/metrics").send(at).await?.body_text());
        Ok([page(self.gateway_at).await?, page(member).await?])
    }

    /// Does a little of everything, once.
    pub async fn work(&self) -> anyhow::Result<()> {
        let channel = Endpoint::from_shared(format!("http://{}", self.gateway_at))?.connect().await?;
        let mut kv = KvClient::new(channel.clone());
        let put = |key: String| PutRequest { key: key.into(), value: b"v".repeat(200).into(), ..Default::default() };
        let mut watch = watch(&channel, b"/work/").await?;
        for number in 0..10 {
            kv.put(put(format!("/work/{number}"))).await?;
            kv.put(put(format!("/counted/{number}"))).await?;
            for rule in ["held", "tried"] {
                // What is refused is what is to be counted.
                let _ = kv.put(put(format!("/{rule}/{number}"))).await;
            }
        }
        watch.message().await?;
        let range = |key: &str| RangeRequest {
            key: key.to_owned().into(),
            range_end: b"/x".to_vec().into(),
            ..Default::default()
        };
        kv.range(range("/a")).await?;
        kv.range(RangeRequest { serializable: true, ..range("/a") }).await?;
        let op = RequestOp { request: Some(request_op::Request::RequestPut(put("/work/txn".to_owned()))) };
        let revision = kv.txn(TxnRequest { success: vec![op], ..Default::default() }).await?.into_inner();
        kv.delete_range(DeleteRangeRequest { key: "/work/1".into(), ..Default::default() }).await?;
        let revision = revision.header.unwrap_or_default().revision;
        let _ = kv.compact(CompactionRequest { revision: revision - 5, physical: false }).await;
        let mut leases = LeaseClient::new(channel.clone());
        let id = leases.lease_grant(LeaseGrantRequest { ttl: 60, id: 0 }).await?.into_inner().id;
        let renewal = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
        leases.lease_keep_alive(renewal).await?.into_inner().message().await?;
        leases.lease_revoke(LeaseRevokeRequest { id }).await?;
        let paced = (0..6).map(|number| {
            let mut kv = kv.clone();
            async move { kv.put(put(format!("/paced/{number}"))).await }
        });
        futures::future::join_all(paced).await;
        // More at once than there are seats, so that somebody waits for one.
        let crowd = (0..1500).map(|number| {
            let mut kv = kv.clone();
            async move { kv.put(put(format!("/work/{}", number % 50))).await }
        });
        futures::future::join_all(crowd).await;
        Ok(())
    }

    /// The values that a query has now, those that are no number left out.
    pub async fn query(&self, query: &str) -> anyhow::Result<Vec<f64>> {
        let answer = self.api(&format!("/api/v1/query?query={}", escaped(query))).await?;
        let result = &answer["data"]["result"];
        let value = |value: &Value| value[1].as_str().and_then(|text| text.parse::<f64>().ok());
        let values: Vec<f64> = match answer["data"]["resultType"].as_str() {
            Some("scalar") => value(result).into_iter().collect(),
            _ => result.as_array().into_iter().flatten().filter_map(|series| value(&series["value"])).collect(),
        };
        Ok(values.into_iter().filter(|value| !value.is_nan()).collect())
    }

    /// The queries of all rules as Prometheus read them, by name; what it could not evaluate is an error.
    pub async fn rules(&self) -> anyhow::Result<Vec<(String, String)>> {
        let answer = self.api("/api/v1/rules").await?;
        let groups = answer["data"]["groups"].as_array().context("groups")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array().into_iter().flatten());
        rules
            .map(|rule| {
                let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                ensure!(text("health") != "err", "{}: {}", text("name"), text("lastError"));
                Ok((text("name"), text("query")))
            })
            .collect()
    }

    async fn api(&self, path: &str) -> anyhow::Result<Value> {
        let response = Call::get(path).send(self.prometheus_at).await?;
        let answer: Value = serde_json::from_slice(&response.body)?;
        ensure!(answer["status"] == "success", "{path}: {}", answer["error"]);
        Ok(answer)
    }
}

async fn watch(
    channel: &Channel,
    prefix: &'static [u8],
) -> anyhow::Result<tonic::Streaming<forebay_proto::etcdserverpb::WatchResponse>> {
    let create = WatchCreateRequest { key: prefix.into(), range_end: b"/work0"[..].into(), ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open, or the watch would end.
    let requests = futures::StreamExt::chain(tokio_stream::iter([create]), futures::stream::pending());
    let mut stream = WatchClient::new(channel.clone()).watch(requests).await?.into_inner();
    stream.message().await?;
    Ok(stream)
}

fn scrape(rules: &[PathBuf], members: &[&str], gateway: SocketAddr) -> String {
    let rules: Vec<String> = rules.iter().map(|path| format!("  - {}\n", path.display())).collect();
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files:\n{}scrape_configs:\n\
         - job_name: etcd\n  static_configs: [{{targets: {members:?}}}]\n\
         - job_name: forebay\n  static_configs: [{{targets: [\"{gateway}\"]}}]\n",
        rules.concat()
    )
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// How long queries may take until all have data.
pub const LIMIT: Duration = Duration::from_secs(90);

/// The queries of the boards in a folder, with the panel that has each; Grafana's variables are filled in.
pub fn queries(boards: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let mut queries = Vec::new();
    for board in boards {
        let json: Value = serde_json::from_slice(&fs::read(board)?)?;
        let title = json["title"].as_str().unwrap_or_default();
        let rows = json["rows"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|row| row["panels"].as_array().into_iter().flatten());
        for panel in json["panels"].as_array().into_iter().flatten().chain(rows) {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let expr = target["expr"].as_str().context("a target has a query")?;
                let name = format!("{title}: {}", panel["title"].as_str().unwrap_or_default());
                let filled = [("$job", ".+"), ("$instance", ".+"), ("$cluster", "etcd"), ("$__rate_interval", "20s")]
                    .iter()
                    .fold(expr.to_owned(), |expr, (variable, value)| expr.replace(variable, value));
                queries.push((name, filled));
            }
        }
    }
    Ok(queries)
}

/// The parts of an alert that must have data: what is compared, without the comparison that raises it.
pub fn compared(query: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start, mut quoted) = (0, 0, false);
    for (at, character) in query.char_indices() {
        match character {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '{' | '[' => depth += 1,
            ')' | '}' | ']' => depth -= 1,
            ' ' if depth == 0 => {
                let operators = [" > ", " < ", " == ", " >= ", " <= ", " and "];
                if let Some(operator) = operators.iter().find(|operator| query[at..].starts_with(*operator)) {
                    parts.push(&query[start..at]);
                    start = at + operator.len();
                }
            }
            _ => {}
        }
    }
    parts.push(&query[start.min(query.len())..]);
    parts.retain(|part| part.trim().parse::<f64>().is_err() && !part.trim().is_empty());
    parts
}

/// The folder of the boards and rules.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_alert_compares_is_found_without_the_comparison() {
        assert_eq!(compared("a{b=\" > \"} > 3"), ["a{b=\" > \"}"]);
        assert_eq!(compared("(a / b) < 0.5 and c > 100"), ["(a / b)", "c"]);
        assert_eq!(
            compared("sum(up == bool 1) < ((count(up) + 1) / 2)"),
            ["sum(up == bool 1)", "((count(up) + 1) / 2)"]
        );
        assert_eq!(compared("rate(x[5m])"), ["rate(x[5m])"]);
    }
}
