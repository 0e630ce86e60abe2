//! `--from-kubeadm`: a gateway beside the etcd of a control plane that kubeadm set up.
//!
//! Where etcd is and which certificates reach it, the API server's own manifest says; the gateway takes its place in
//! front of it with etcd's own serving certificate. What is said otherwise wins.

use std::{fs, path::Path};

use super::Settings;
use crate::flags::{layered::Origin, table::Flag};

/// Where the gateway listens, so that the API server may be pointed to it.
const LISTEN: &str = "https://127.0.0.1:23790";
const LISTEN_METRICS: &str = "http://127.0.0.1:23811";
/// Where kubeadm's etcd is.
const ETCD: &str = "https://127.0.0.1:2379";

/// Fills in what nobody said, from the folder that is usually `/etc/kubernetes`.
pub(super) fn complete(
    dir: &str,
    flags: &[Flag<Settings>],
    settings: &mut Settings,
    origins: &mut [Origin],
) -> Result<(), String> {
    let place = |name| flags.iter().position(|flag| flag.name == name).expect("invariant: the flag is in the table");
    let own: Vec<String> = match origins[place("listen-client-urls")] {
        Origin::Default => vec![LISTEN.to_owned()],
        _ => settings.listen_client_urls.iter().map(|url| url.as_str().to_owned()).collect(),
    };
    for (name, value) in said(Path::new(dir), &own) {
        let index = place(name);
        if origins[index] == Origin::Default {
            flags[index].slot.set(settings, &value).map_err(|error| format!("{dir}: --{name} {value}: {error}"))?;
            origins[index] = Origin::File(dir.to_owned());
        }
    }
    Ok(())
}

/// What the folder says about each flag. Once the API server is pointed to the gateway, its manifest names one of the
/// gateway's `own` addresses, which is no upstream.
fn said(dir: &Path, own: &[String]) -> Vec<(&'static str, String)> {
    let manifest = fs::read_to_string(dir.join("manifests/kube-apiserver.yaml")).unwrap_or_default();
    let argument = |name: &str| {
        let lines = manifest.lines().filter_map(|line| line.trim().strip_prefix("- "));
        lines
            .filter_map(|line| line.trim_matches(['"', '\'']).strip_prefix(name)?.strip_prefix('='))
            .next()
            .map(str::to_owned)
    };
    let servers = argument("--etcd-servers").unwrap_or_default();
    let is_other = |server: &&str| !server.is_empty() && !own.iter().any(|own| own == server.trim_end_matches('/'));
    let upstreams: Vec<&str> = servers.split(',').map(str::trim).filter(is_other).collect();
    let pki = |file: &str| dir.join("pki").join(file).display().to_string();
    vec![
        ("endpoints", if upstreams.is_empty() { ETCD.to_owned() } else { upstreams.join(",") }),
        ("cacert", argument("--etcd-cafile").unwrap_or_else(|| pki("etcd/ca.crt"))),
        ("cert", argument("--etcd-certfile").unwrap_or_else(|| pki("apiserver-etcd-client.crt"))),
        ("key", argument("--etcd-keyfile").unwrap_or_else(|| pki("apiserver-etcd-client.key"))),
        // That certificate has a common name; kubeadm's etcd has no auth, for which it would be a user's.
        ("allow-cert-common-name", "true".to_owned()),
        ("listen-client-urls", LISTEN.to_owned()),
        ("listen-metrics-urls", LISTEN_METRICS.to_owned()),
        ("cert-file", pki("etcd/server.crt")),
        ("key-file", pki("etcd/server.key")),
        ("trusted-ca-file", pki("etcd/ca.crt")),
        ("client-cert-auth", "true".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Asked, gateway::load};

    fn config(args: &[&str]) -> crate::flags::gateway::GatewayConfig {
        let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
        match load(&args, &Vec::new()) {
            Ok(Asked::Run(ready)) => ready.config,
            Ok(_) => panic!("{args:?} runs nothing"),
            Err(failure) => panic!("{args:?}: {:?}", failure.problems),
        }
    }

    #[test]
    fn the_api_servers_manifest_says_where_etcd_is_and_flags_win_over_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().display().to_string();
        let bare = config(&["--from-kubeadm", &path]);
        assert_eq!(bare.endpoints, ["https://127.0.0.1:2379"]);
        assert_eq!(bare.tls.upstream.authorities, Some(dir.path().join("pki/etcd/ca.crt")));
        assert!(bare.tls.clients.client_cert_auth && bare.tls.upstream.allow_common_name);
        assert_eq!(bare.listen_client_urls[0].as_str(), LISTEN);

        fs::create_dir(dir.path().join("manifests")).expect("made");
        let manifest = "spec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --etcd-cafile=/x/ca.crt\n    \
                        - --etcd-servers=https://10.0.0.1:2379,https://10.0.0.2:2379\n";
        fs::write(dir.path().join("manifests/kube-apiserver.yaml"), manifest).expect("written");
        let read = config(&["--from-kubeadm", &path, "--listen-metrics-urls=http://127.0.0.1:9"]);
        assert_eq!(read.endpoints, ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]);
        assert_eq!(read.tls.upstream.authorities, Some("/x/ca.crt".into()));
        assert_eq!(read.listen_metrics_urls[0].as_str(), "http://127.0.0.1:9");
    }

    #[test]
    fn a_gateway_that_the_api_server_was_pointed_to_is_not_its_own_upstream() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().display().to_string();
        fs::create_dir(dir.path().join("manifests")).expect("made");
        let endpoints = |servers: &str, more: &[&str]| {
            let manifest = format!("    - kube-apiserver\n    - --etcd-servers={servers}\n");
            fs::write(dir.path().join("manifests/kube-apiserver.yaml"), manifest).expect("written");
            config(&[&["--from-kubeadm", &path], more].concat()).endpoints
        };
        assert_eq!(endpoints(LISTEN, &[]), [ETCD]);
        assert_eq!(endpoints(&format!("{LISTEN}/,https://10.0.0.2:2379"), &[]), ["https://10.0.0.2:2379"]);
        let elsewhere = "https://127.0.0.1:4000";
        assert_eq!(endpoints(elsewhere, &["--listen-client-urls", elsewhere]), [ETCD]);
    }
}
