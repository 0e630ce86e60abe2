//! What follows from what was said: the settings that etcd fills in by others.

use super::{Found, Said, list};
use crate::{
    flags::{Notice, server::settings, url::Url},
    logging::Level,
};

impl Said {
    /// Whether the cluster is to be asked for somewhere else than in `initial-cluster`.
    pub(super) fn seeks_cluster(&self) -> bool {
        let s = &self.settings;
        !s.discovery_srv.is_empty() || !s.discovery_srv_name.is_empty() || !s.discovery_endpoints.is_empty()
    }
}

pub(super) fn complete(said: &mut Said, found: &mut Found) {
    if said.seeks_cluster() && !said.given.contains("initial-cluster") {
        said.settings.initial_cluster.clear();
    }
    if let Some(host) = said.default_host.clone()
        && advertise(said, &host)
    {
        found.notice(Notice::new(Level::Info, "detected default host for advertise").with("host", host));
    }
    rename_default_cluster(said);
    let s = &mut said.settings;
    if s.data_dir.is_empty() {
        s.data_dir = format!("{}.etcd", s.name);
        found.notice(Notice::new(Level::Warn, "'data-dir' was empty; using default").with("data-dir", &s.data_dir));
    }
}

/// Who listens on every interface and was not told what to advertise advertises this machine's address. Says
/// whether that was so.
fn advertise(said: &mut Said, host: &str) -> bool {
    let s = &mut said.settings;
    let pairs = [
        (&s.listen_peer_urls, &mut s.initial_advertise_peer_urls, settings::DEFAULT_PEER_URL),
        (&s.listen_client_urls, &mut s.advertise_client_urls, settings::DEFAULT_CLIENT_URL),
    ];
    let mut used = false;
    for (listen, advertised, default) in pairs {
        let everywhere = listen.first().filter(|url| url.host() == Some("0.0.0.0")).and_then(Url::port);
        if let Some(port) = everywhere
            && list(advertised) == default
        {
            advertised[0] = advertised[0].with_address(host, port);
            used = true;
        }
    }
    used
}

/// With a name and nothing else, the cluster is this member.
fn rename_default_cluster(said: &mut Said) {
    let s = &mut said.settings;
    if s.name != settings::DEFAULT_NAME && s.initial_cluster == settings::DEFAULT_INITIAL_CLUSTER {
        let name = if s.name.is_empty() { settings::DEFAULT_NAME } else { &s.name };
        let pairs: Vec<String> = s.initial_advertise_peer_urls.iter().map(|url| format!("{name}={url}")).collect();
        s.initial_cluster = pairs.join(",");
    }
}
