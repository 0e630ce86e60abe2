//! Which cluster a member without a log belongs to: a new one that its operator lists, or one that runs and is asked.

use std::{collections::HashSet, time::Duration};

use forebay_storage::{identity, snap::MemberRecord};

use crate::{
    config::{Config, InitialState},
    peer::{Client, ClientError, get_members, get_versions, id_text},
    raft::Bootstrap,
    version::{MIN_CLUSTER, Version},
};

/// How long a member of a running cluster may take to list the others.
const MEMBERS_LIMIT: Duration = Duration::from_secs(10);

/// Why a member does not find its cluster. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The list lacks this member.
    #[error("couldn't find local name {0:?} in the initial cluster configuration; add it to --initial-cluster")]
    NotListed(String),
    /// Two members of the list would be reached at one URL.
    #[error("initial cluster has duplicate url {0}; give each member of --initial-cluster its own")]
    DuplicateUrl(String),
    /// What this member tells others contradicts the list.
    #[error(
        "--initial-cluster has {name}={listed} but --initial-advertise-peer-urls={advertised}; make the two the same"
    )]
    Advertised {
        /// This member.
        name: String,
        /// Its URLs in the list.
        listed: String,
        /// Its URLs otherwise.
        advertised: String,
    },
    /// The cluster knows this member as one that has started.
    #[error(
        "member {0} has already been bootstrapped; remove it from the cluster and add it anew, then start it with \
         --initial-cluster-state=existing"
    )]
    AlreadyBootstrapped(String),
    /// Nobody of the running cluster answers.
    #[error(
        "cannot fetch cluster info from peer urls: {reason}; start one of the other members, or check --initial-cluster"
    )]
    Unreachable {
        /// The last answer.
        reason: String,
    },
    /// The list is not that of the running cluster.
    #[error(
        "--initial-cluster does not list the members of the running cluster: {0}; copy it from `etcdctl member add`"
    )]
    Unlike(String),
    /// The running cluster is too old, or too new.
    #[error("incompatible with current running cluster: its version is {0}; upgrade whichever is older")]
    Incompatible(String),
    /// Nobody says which version the running cluster has.
    #[error(
        "incompatible with current running cluster: no member says its cluster version; wait until it has a leader"
    )]
    NoVersion,
}

/// How a member without a log begins.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) bootstrap: Bootstrap,
    /// The members of the running cluster that it joins.
    pub(crate) others: Vec<MemberRecord>,
}

/// Decides how a member without a log begins, and asks the others where that is needed.
pub(crate) async fn plan(config: &Config, client: &Client) -> Result<Plan, BootstrapError> {
    let listed = listed(config)?;
    let own = own(config, &listed)?.clone();
    match config.initial_state {
        InitialState::New => found(config, client, listed, own).await,
        InitialState::Existing => join(config, client, listed, own).await,
    }
}

/// How a member of a new cluster began, if it ended before its log had anything in it; nobody is asked again.
pub(crate) fn replan(config: &Config) -> Option<Plan> {
    let listed = listed(config).ok().filter(|_| config.initial_state == InitialState::New)?;
    let own = own(config, &listed).ok()?.id;
    Some(new_cluster(listed, own))
}

/// The members that the operator lists, with the ids that they would have in a new cluster.
fn listed(config: &Config) -> Result<Vec<MemberRecord>, BootstrapError> {
    let alone = [(config.name.clone(), config.advertise_peer_urls.clone())];
    let list = if config.initial_cluster.is_empty() { &alone[..] } else { &config.initial_cluster };
    let mut seen = HashSet::new();
    if let Some(url) = list.iter().flat_map(|(_, urls)| urls).find(|url| !seen.insert(*url)) {
        return Err(BootstrapError::DuplicateUrl(url.clone()));
    }
    let member = |(name, urls): &(String, Vec<String>)| {
        let mut peer_urls = urls.clone();
        peer_urls.sort_unstable();
        let id = identity::member_id(&peer_urls, &config.initial_cluster_token);
        MemberRecord { id, name: name.clone(), peer_urls, ..MemberRecord::default() }
    };
    Ok(list.iter().map(member).collect())
}

fn own<'m>(config: &Config, listed: &'m [MemberRecord]) -> Result<&'m MemberRecord, BootstrapError> {
    let own = listed.iter().find(|member| member.name == config.name);
    let own = own.ok_or_else(|| BootstrapError::NotListed(config.name.clone()))?;
    let mut advertised = config.advertise_peer_urls.clone();
    advertised.sort_unstable();
    if advertised != own.peer_urls {
        return Err(BootstrapError::Advertised {
            name: own.name.clone(),
            listed: own.peer_urls.join(","),
            advertised: advertised.join(","),
        });
    }
    Ok(own)
}

/// A new cluster, unless the others say that it is not new to them.
async fn found(
    config: &Config,
    client: &Client,
    members: Vec<MemberRecord>,
    own: MemberRecord,
) -> Result<Plan, BootstrapError> {
    let known = ask_members(client, &members, own.id, config.bootstrap_timeout()).await;
    let has_started = |member: &MemberRecord| member.id == own.id && !member.client_urls.is_empty();
    if known.is_ok_and(|(_, members)| members.iter().any(has_started)) {
        return Err(BootstrapError::AlreadyBootstrapped(id_text(own.id)));
    }
    Ok(new_cluster(members, own.id))
}

fn new_cluster(members: Vec<MemberRecord>, member_id: u64) -> Plan {
    let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
    Plan { bootstrap: Bootstrap { member_id, cluster_id: identity::cluster_id(&ids), members }, others: Vec::new() }
}

/// A cluster that runs: its members say who this one is.
async fn join(
    config: &Config,
    client: &Client,
    listed: Vec<MemberRecord>,
    own: MemberRecord,
) -> Result<Plan, BootstrapError> {
    let asked = ask_members(client, &listed, own.id, MEMBERS_LIMIT).await;
    let (cluster_id, members) = asked.map_err(|error| BootstrapError::Unreachable { reason: error.to_string() })?;
    let member_id = match_members(&listed, &members, &own)?;
    let others: Vec<MemberRecord> = members.into_iter().filter(|member| member.id != member_id).collect();
    check_versions(client, &others, config.request_timeout()).await?;
    Ok(Plan { bootstrap: Bootstrap { member_id, cluster_id, members: Vec::new() }, others })
}

/// The first answer of the other members, asked in the order of their URLs.
async fn ask_members(
    client: &Client,
    listed: &[MemberRecord],
    own: u64,
    limit: Duration,
) -> Result<(u64, Vec<MemberRecord>), ClientError> {
    let others = listed.iter().filter(|member| member.id != own);
    let mut urls: Vec<&String> = others.flat_map(|member| &member.peer_urls).collect();
    urls.sort_unstable();
    let mut last = ClientError::Nonsense("no other member is listed".into());
    for url in urls {
        match get_members(client, url, limit).await {
            Ok((_, members)) if members.is_empty() => {
                last = ClientError::Nonsense(format!("{url} knows no members yet"));
            }
            Ok(answer) => return Ok(answer),
            Err(error) => {
                tracing::debug!(url, %error, "failed to ask a member for the cluster");
                last = error;
            }
        }
    }
    Err(last)
}

/// The id of this member in the running cluster, if the list is that of the cluster. Names do not count: a member that
/// never started has none.
fn match_members(listed: &[MemberRecord], members: &[MemberRecord], own: &MemberRecord) -> Result<u64, BootstrapError> {
    if listed.len() != members.len() {
        let text = format!("it has {} members, the list {}", members.len(), listed.len());
        return Err(BootstrapError::Unlike(text));
    }
    let sorted = |member: &MemberRecord| {
        let mut urls = member.peer_urls.clone();
        urls.sort_unstable();
        urls
    };
    for member in members {
        if !listed.iter().any(|listed| listed.peer_urls == sorted(member)) {
            let text = format!("its member {} at {} is missing", id_text(member.id), member.peer_urls.join(","));
            return Err(BootstrapError::Unlike(text));
        }
    }
    let found = members.iter().find(|member| sorted(member) == own.peer_urls);
    found.map(|member| member.id).ok_or_else(|| BootstrapError::Unlike(format!("{} is none of it", own.name)))
}

/// At least one member says a cluster version that this one can take part in, and none says another.
async fn check_versions(client: &Client, others: &[MemberRecord], limit: Duration) -> Result<(), BootstrapError> {
    let oldest = Version::parse(MIN_CLUSTER).expect("our own version is one");
    let mut is_known = false;
    for versions in get_versions(client, others, limit).await.into_values().flatten() {
        let Some(cluster) = Version::parse(&versions.cluster) else { continue };
        if cluster < oldest || Version::server().minor() < cluster {
            return Err(BootstrapError::Incompatible(versions.cluster));
        }
        is_known = true;
    }
    if is_known { Ok(()) } else { Err(BootstrapError::NoVersion) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(initial_cluster: &[(&str, &str)]) -> Config {
        let entry =
            |(name, urls): &(&str, &str)| ((*name).to_owned(), urls.split(' ').map(str::to_owned).collect::<Vec<_>>());
        Config {
            name: "m1".into(),
            advertise_peer_urls: vec!["http://a:2380".into()],
            initial_cluster: initial_cluster.iter().map(entry).collect(),
            ..Config::default()
        }
    }

    fn own_of(initial_cluster: &[(&str, &str)]) -> Result<MemberRecord, String> {
        let config = config(initial_cluster);
        let listed = listed(&config).map_err(|error| error.to_string())?;
        own(&config, &listed).cloned().map_err(|error| error.to_string())
    }

    #[test]
    fn a_member_finds_itself_in_the_list_by_its_name() {
        let alone = own_of(&[]).unwrap();
        let listed = own_of(&[("m2", "http://b:2380"), ("m1", "http://a:2380")]).unwrap();
        assert_eq!(alone, listed);
        assert!(own_of(&[("m2", "http://b:2380")]).unwrap_err().contains("couldn't find local name \"m1\""));
        let error = own_of(&[("m1", "http://a:2380"), ("m2", "http://a:2380")]).unwrap_err();
        assert!(error.contains("duplicate url http://a:2380"), "{error}");
        let error = own_of(&[("m1", "http://c:2380"), ("m2", "http://a:2380")]).unwrap_err();
        assert!(error.contains("m1=http://c:2380 but --initial-advertise-peer-urls=http://a:2380"), "{error}");
    }

    #[test]
    fn a_running_cluster_is_matched_by_urls() {
        let member = |id, urls: &[&str]| MemberRecord {
            id,
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            ..MemberRecord::default()
        };
        let config = config(&[("m1", "http://a:2380"), ("m2", "http://b:1 http://b:2")]);
        let listed = listed(&config).unwrap();
        let own = own(&config, &listed).unwrap();
        let matched =
            |members: &[MemberRecord]| match_members(&listed, members, own).map_err(|error| error.to_string());
        assert_eq!(matched(&[member(7, &["http://b:2", "http://b:1"]), member(9, &["http://a:2380"])]), Ok(9));
        assert!(matched(&[member(9, &["http://a:2380"])]).unwrap_err().contains("it has 1 members, the list 2"));
        let error = matched(&[member(7, &["http://b:2"]), member(9, &["http://a:2380"])]).unwrap_err();
        assert!(error.contains("its member 7 at http://b:2 is missing"), "{error}");
    }
}
