//! What can be found out, without judging it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{ask::Target, data_dir::DataDir, log::Log, page::Page};

/// Reads that are timed on each endpoint.
const READS: usize = 10;

/// All that was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) machine: Option<Machine>,
    pub(super) log: Option<Log>,
    pub(super) data_dir: Option<DataDir>,
    /// A policy file, its problems, and what `policy check` ends with.
    pub(super) policy: Option<(PathBuf, usize, u8)>,
    pub(super) backups: Option<Backup>,
}

/// What one endpoint said.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint {
    pub(super) url: String,
    /// Why it did not answer at all.
    pub(super) silent: Option<String>,
    /// Status and body of `/health`.
    pub(super) health: (u16, String),
    /// Why its API did not answer.
    pub(super) refused: Option<String>,
    pub(super) status: Option<Status>,
    pub(super) members: Vec<Member>,
    pub(super) alarms: Vec<String>,
    pub(super) page: Option<Page>,
    /// Linearizable reads of one key, shortest first.
    pub(super) reads: Vec<Duration>,
    /// Of a gateway: who does how much.
    pub(super) top: Option<Value>,
    /// Of a gateway: the policy in force.
    pub(super) policy: Option<Value>,
    /// Whether it tells both to none but its operator.
    pub(super) is_withheld: bool,
}

/// Of `Maintenance.Status`.
#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) db_size: u64,
    pub(super) db_size_in_use: u64,
    /// Told since 3.6.
    pub(super) quota: Option<u64>,
    pub(super) leader: u64,
    pub(super) is_learner: bool,
    pub(super) term: u64,
    pub(super) index: u64,
    pub(super) applied: u64,
    pub(super) revision: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Member {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) is_learner: bool,
}

/// The machine of an endpoint that is this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    pub(super) cpus: usize,
    /// Of the last minute.
    pub(super) load: f64,
    pub(super) memory: u64,
    pub(super) memory_available: u64,
    pub(super) swap_used: u64,
}

/// The newest file where backups are.
#[derive(Clone, Debug)]
pub(super) struct Backup {
    pub(super) dir: PathBuf,
    /// Its name, its age and its size.
    pub(super) newest: Option<(String, Duration, u64)>,
}

/// Asks every endpoint.
pub(super) async fn ask(targets: &[Target], user: &str) -> Vec<Endpoint> {
    let asked = targets.iter().map(|target| async move {
        let mut endpoint = Endpoint { url: target.url.clone(), ..Endpoint::default() };
        match target.get("/health").await {
            Ok(health) => endpoint.health = health,
            Err(error) => {
                endpoint.silent = Some(format!("{error:#}"));
                return endpoint;
            }
        }
        if let Err(error) = api(target, user, &mut endpoint).await {
            endpoint.refused = Some(format!("{error:#}"));
        }
        endpoint.page = page(target, "/metrics").await.map(|text| Page::parse(&text));
        match target.get_as_operator("/forebay/v1/top").await {
            Ok((200, text)) => endpoint.top = serde_json::from_str(&text).ok(),
            Ok((403, _)) => endpoint.is_withheld = true,
            _ => {}
        }
        if endpoint.top.is_some()
            && let Ok((200, text)) = target.get_as_operator("/forebay/v1/policy").await
        {
            endpoint.policy = serde_json::from_str(&text).ok();
        }
        endpoint
    });
    futures::future::join_all(asked).await
}

async fn page(target: &Target, path: &str) -> Option<String> {
    target.get(path).await.ok().filter(|(status, _)| *status == 200).map(|(_, text)| text)
}

async fn api(target: &Target, user: &str, endpoint: &mut Endpoint) -> anyhow::Result<()> {
    let token = match user.split_once(':') {
        None => None,
        Some((name, password)) => {
            let answer =
                target.post("/v3/auth/authenticate", &json!({"name": name, "password": password}), None).await?;
            answer["token"].as_str().map(str::to_owned)
        }
    };
    let token = token.as_deref();
    endpoint.status = Some(status(&target.post("/v3/maintenance/status", &json!({}), token).await?));
    let list = target.post("/v3/cluster/member/list", &json!({"linearizable": false}), token).await?;
    endpoint.members = list["members"].as_array().into_iter().flatten().map(member).collect();
    endpoint.members.sort();
    let alarms = target.post("/v3/maintenance/alarm", &json!({"action": "GET"}), token).await?;
    let alarms = alarms["alarms"].as_array().into_iter().flatten();
    endpoint.alarms = alarms.filter_map(|alarm| alarm["alarm"].as_str()).map(str::to_owned).collect();
    for _ in 0..READS {
        let began = Instant::now();
        // One key that hardly anybody has: the way is timed, not the answer.
        let read = target.post("/v3/kv/range", &json!({"key": "AA==", "keys_only": true}), token).await;
        match read {
            Ok(_) => endpoint.reads.push(began.elapsed()),
            Err(error) if endpoint.reads.is_empty() => return Err(error.context("a linearizable read")),
            Err(_) => break,
        }
    }
    endpoint.reads.sort();
    Ok(())
}

/// A number of etcd's JSON, where those of 64 bits are text.
fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_u64()).unwrap_or(0)
}

fn status(value: &Value) -> Status {
    Status {
        version: value["version"].as_str().unwrap_or("unknown").to_owned(),
        db_size: number(&value["dbSize"]),
        db_size_in_use: number(&value["dbSizeInUse"]),
        quota: Some(number(&value["dbSizeQuota"])).filter(|quota| *quota > 0),
        leader: number(&value["leader"]),
        is_learner: value["isLearner"].as_bool().unwrap_or(false),
        term: number(&value["raftTerm"]),
        index: number(&value["raftIndex"]),
        applied: number(&value["raftAppliedIndex"]),
        revision: number(&value["header"]["revision"]),
    }
}

fn member(value: &Value) -> Member {
    Member {
        id: number(&value["ID"]),
        name: value["name"].as_str().unwrap_or_default().to_owned(),
        is_learner: value["isLearner"].as_bool().unwrap_or(false),
    }
}

/// How busy this machine is, if any endpoint is on it.
pub(super) fn machine(targets: &[Target]) -> Option<Machine> {
    let is_here = |host: &str| host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if !targets.iter().any(|target| is_here(&target.host)) {
        return None;
    }
    let load = fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()?;
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let told = |name: &str| -> Option<u64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib << 10)
    };
    let swap = |name| told(name).unwrap_or(0);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    Some(Machine {
        cpus,
        load,
        memory: told("MemTotal:")?,
        memory_available: told("MemAvailable:")?,
        swap_used: swap("SwapTotal:").saturating_sub(swap("SwapFree:")),
    })
}

/// The newest file of a directory.
pub(super) fn newest_backup(dir: &Path) -> Backup {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| {
        let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
        Some((data.modified().ok()?, entry.file_name().to_string_lossy().into_owned(), data.len()))
    });
    let newest = files.max().map(|(modified, name, size)| {
        (name, SystemTime::now().duration_since(modified).unwrap_or(Duration::ZERO), size)
    });
    Backup { dir: dir.to_owned(), newest }
}
