//! Finds a cluster by DNS: SRV records under a domain name the members' hosts and ports, by etcd's service names.

pub mod dns;

use std::net::SocketAddr;

use anyhow::{Context as _, bail};

use self::dns::{Resolver, Srv};
use crate::flags::url::Url;

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The domain that the records stand under.
    pub domain: String,
    /// What the services' names end in, behind a hyphen, if they do.
    pub service_name: Option<String>,
}

impl Discovery {
    /// What flags say; nothing without a domain.
    pub fn new(domain: String, service_name: String) -> Option<Discovery> {
        let service_name = Some(service_name).filter(|name| !name.is_empty());
        Some(Discovery { domain, service_name }).filter(|discovery| !discovery.domain.is_empty())
    }

    fn name(&self, service: &str) -> String {
        let suffix = self.service_name.as_ref().map(|name| format!("-{name}")).unwrap_or_default();
        format!("_{service}{suffix}._tcp.{}", self.domain)
    }

    /// Where clients connect, those under TLS first.
    pub async fn endpoints(&self, dns: &Resolver) -> anyhow::Result<Vec<String>> {
        let found = self.both(dns, [("https", "etcd-client-ssl"), ("http", "etcd-client")]).await?;
        Ok(found.into_iter().flat_map(|(scheme, records)| records.into_iter().map(move |at| at.url(scheme))).collect())
    }

    /// The members of a cluster and their peer URLs. One of them is this member, called `name`, whose peer URLs are
    /// `own`; what the others are called does not matter and nobody has said.
    pub async fn cluster(&self, dns: &Resolver, name: &str, own: &[Url]) -> anyhow::Result<Vec<(String, Vec<Url>)>> {
        let found = self.both(dns, [("https", "etcd-server-ssl"), ("http", "etcd-server")]).await?;
        let mut members: Vec<(String, Vec<Url>)> = Vec::new();
        for (scheme, records) in found {
            let mut others = 0;
            for record in records {
                let url = Url::parse(&record.url(scheme)).map_err(anyhow::Error::msg)?;
                let called = match is_own(&url, own).await {
                    true => name.to_owned(),
                    false => {
                        others += 1;
                        (others - 1).to_string()
                    }
                };
                match members.iter_mut().find(|(known, _)| *known == called) {
                    Some((_, urls)) => urls.push(url),
                    None => members.push((called, vec![url])),
                }
            }
        }
        if !members.iter().any(|(called, _)| called == name) {
            bail!(
                "cannot find local etcd member {name:?} in SRV records of {}: none names a host and port of \
                 --initial-advertise-peer-urls",
                self.domain
            );
        }
        members.iter_mut().for_each(|(_, urls)| urls.sort());
        Ok(members)
    }

    /// What is found under two names, of which one may have nothing.
    async fn both<'s>(
        &self,
        dns: &Resolver,
        services: [(&'s str, &str); 2],
    ) -> anyhow::Result<Vec<(&'s str, Vec<Srv>)>> {
        let mut found = Vec::new();
        let mut failed = None;
        for (scheme, service) in services {
            let name = self.name(service);
            match dns.srv(&name).await {
                Ok(records) => found.push((scheme, records)),
                Err(error) => failed = Some(anyhow::Error::new(error).context(format!("cannot look up {name}"))),
            }
        }
        match failed {
            Some(error) if found.is_empty() => Err(error).context("cannot find a cluster by DNS"),
            _ => Ok(found),
        }
    }
}

impl Srv {
    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

/// Whether a URL leads where one of `own` does, however either is spelled.
async fn is_own(url: &Url, own: &[Url]) -> bool {
    let addresses = addresses(url).await;
    for own in own {
        if own == url
            || own.scheme() == url.scheme() && self::addresses(own).await.iter().any(|a| addresses.contains(a))
        {
            return true;
        }
    }
    false
}

async fn addresses(url: &Url) -> Vec<SocketAddr> {
    match (url.host(), url.port()) {
        (Some(host), Some(port)) => {
            tokio::net::lookup_host((host, port)).await.map_or_else(|_| Vec::new(), Iterator::collect)
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{dns::tests::serving, *};

    fn under(domain: &str, service_name: Option<&str>) -> Discovery {
        Discovery { domain: domain.to_owned(), service_name: service_name.map(str::to_owned) }
    }

    #[tokio::test]
    async fn endpoints_are_those_of_both_services_and_one_may_be_missing() {
        let dns = serving(&[
            ("_etcd-client-ssl._tcp.example.com", &[("a.example.com", 2379), ("b.example.com", 2379)]),
            ("_etcd-client._tcp.example.com", &[("c.example.com", 1)]),
            ("_etcd-client-blue._tcp.example.com", &[("d.example.com", 2)]),
        ])
        .await;
        assert_eq!(
            under("example.com", None).endpoints(&dns).await.unwrap(),
            ["https://a.example.com:2379", "https://b.example.com:2379", "http://c.example.com:1"]
        );
        let blue = under("example.com", Some("blue"));
        assert_eq!(blue.endpoints(&dns).await.unwrap(), ["http://d.example.com:2"]);
        let error = format!("{:#}", under("example.org", None).endpoints(&dns).await.unwrap_err());
        assert!(error.contains("cannot look up _etcd-client._tcp.example.org: no such name"), "{error}");
    }

    #[tokio::test]
    async fn of_a_cluster_this_member_has_its_name_and_the_others_have_numbers() {
        let records: &[(&str, u16)] = &[("10.0.0.1", 2380), ("localhost", 2380), ("10.0.0.3", 2380)];
        let dns = serving(&[("_etcd-server._tcp.example.com", records)]).await;
        let own = [Url::parse("http://127.0.0.1:2380").unwrap()];
        let discovery = under("example.com", None);
        let cluster = discovery.cluster(&dns, "m2", &own).await.unwrap();
        let shown: Vec<(&str, &str)> = cluster.iter().map(|(name, urls)| (&name[..], urls[0].as_str())).collect();
        assert_eq!(
            shown,
            [("0", "http://10.0.0.1:2380"), ("1", "http://10.0.0.3:2380"), ("m2", "http://localhost:2380")]
        );
        let elsewhere = [Url::parse("http://127.0.0.1:99").unwrap()];
        let error = discovery.cluster(&dns, "m2", &elsewhere).await.unwrap_err().to_string();
        assert!(error.starts_with("cannot find local etcd member \"m2\" in SRV records of example.com"), "{error}");
    }
}
