//! The gateway as a value.

use std::{sync::Arc, time::Duration};

use forebay_edge::Api;

use crate::{
    admission::{Admission, Oneself, PolicyFile},
    config::{Config, GatewayId},
    layers::Draining,
    metrics::Metrics,
    stack,
    upstream::Upstream,
};

/// A gateway in front of an upstream.
#[derive(Clone)]
pub struct Gateway {
    api: Api,
    upstream: Upstream,
    draining: Draining,
    admission: Admission,
    oneself: Arc<Oneself>,
    id: GatewayId,
}

impl Gateway {
    /// Builds a gateway. `config` must be the one that a remote upstream was connected with, since
    /// both speak of the same gateway.
    pub fn new(config: &Config, upstream: Upstream, metrics: Metrics) -> Gateway {
        let draining = Draining::default();
        let admission = Admission::new(config.admission.clone(), metrics.admission.clone());
        let api = stack::build(config, upstream.clone(), &admission, metrics, draining.clone());
        let oneself = Arc::new(Oneself::new(upstream.clone(), config.user.clone()));
        Gateway { api, upstream, draining, admission, oneself, id: config.id }
    }

    /// What a listener serves.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// What the gateway forwards to.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Who may do how much.
    pub fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Keeps admission up to date for as long as it is polled: the policy as its file has it, and what the upstream is
    /// to hold of it, and its share of what it holds together with others.
    pub async fn run(&self, file: Option<PolicyFile>) {
        let (admission, oneself) = (&self.admission, &*self.oneself);
        tokio::join!(admission.run(file), admission.announce(oneself), admission.divide(oneself, self.id));
    }

    /// Takes no new calls, ends streams, and lets unary calls finish for at most `bound`; returns
    /// whether all ended. Telling connections to go away is the listener's part.
    pub async fn drain(&self, bound: Duration) -> bool {
        self.draining.drain(bound).await
    }
}
