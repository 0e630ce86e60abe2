//! Quotas that the upstream holds itself: a cluster of ours is told of them, and needs no guards.
//!
//! It is told when the policy changes, and asked every few seconds whether that still holds: an etcd may have come into
//! its place, or another gateway may have told it something else. What it does not hold is held here.

use std::{collections::HashSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use forebay_policies::{
    Mode, Policy, Quota,
    file::{quotas_from_json, quotas_to_json},
};
use forebay_proto::quotas::{HOLD, HoldRequest, HoldResponse};
use tokio::time;
use tonic::{Code, Status};

use super::{Admission, oneself::Oneself, quotas::Usage};

/// How often the upstream is asked.
const ASK: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a policy without a name is called there.
const NAMELESS: &str = "policy";

/// What the upstream says that it holds.
#[derive(Default)]
pub(super) struct Held {
    said: ArcSwap<Said>,
}

#[derive(Default)]
struct Said {
    quotas: HashSet<String>,
    usage: Vec<Usage>,
}

impl Held {
    /// Whether the upstream decides about this quota.
    pub(super) fn holds(&self, quota: &Quota) -> bool {
        let said = self.said.load();
        !said.quotas.is_empty() && said.quotas.contains(&quotas_to_json(std::slice::from_ref(quota)))
    }

    /// What it counted last, for an operator.
    pub(super) fn usage(&self) -> Vec<Usage> {
        self.said.load().usage.clone()
    }

    fn none(&self) {
        self.said.store(Arc::default());
    }

    fn answer(&self, policy: &Policy, answer: &HoldResponse) {
        if !answer.held || answer.quotas.is_empty() {
            return self.none();
        }
        let held = quotas_from_json(&answer.quotas).unwrap_or_default();
        let hard = |name: &str| held.iter().find(|quota| quota.name == name).map(|quota| quota.hard);
        let usage = answer.usage.iter().filter_map(|usage| {
            let hard = hard(&usage.quota)?;
            let (quota, prefix): (Arc<str>, _) = (usage.quota.as_str().into(), usage.prefix.escape_ascii().to_string());
            let row = |resource: &'static str, used: u64, hard: Option<u64>| {
                Some(Usage { quota: Arc::clone(&quota), prefix: prefix.clone(), resource, used, hard: hard? })
            };
            Some([
                row("objects", usage.objects, hard.objects),
                row("bytes", usage.bytes, hard.bytes),
                row("uncompactedBytes", usage.uncompacted_bytes, hard.uncompacted_bytes),
            ])
        });
        let usage = usage.flatten().flatten().collect();
        let ours = enforced(policy).into_iter().filter(|quota| held.contains(quota));
        let quotas = ours.map(|quota| quotas_to_json(&[quota])).collect();
        self.said.store(Arc::new(Said { quotas, usage }));
    }
}

fn enforced(policy: &Policy) -> Vec<Quota> {
    policy.quotas.iter().filter(|quota| quota.mode == Mode::Enforce).cloned().collect()
}

impl Admission {
    /// Tells the upstream which quotas to hold, for as long as it is polled.
    pub(crate) async fn announce(&self, oneself: &Oneself) {
        let mut told: Option<String> = None;
        loop {
            let loaded = self.0.loaded.load_full();
            let json = quotas_to_json(&enforced(&loaded.policy));
            let has_any = loaded.policy.quotas.iter().any(|quota| quota.mode == Mode::Enforce);
            if has_any || told.is_some() {
                let is_new = told.as_ref() != Some(&json);
                match ask(oneself, &loaded.policy, if is_new { json.clone().into() } else { Bytes::new() }).await {
                    Ok(answer) => {
                        self.0.held.answer(&loaded.policy, &answer);
                        if answer.held {
                            told = Some(json);
                        }
                    }
                    // An etcd does not know the method; a cluster of ours may not let us say so.
                    Err(status) if status.code() != Code::Unavailable => self.0.held.none(),
                    Err(_) => {}
                }
            }
            tokio::select! {
                () = self.0.policy_changed.notified() => {}
                () = time::sleep(ASK) => {}
            }
        }
    }
}

async fn ask(oneself: &Oneself, policy: &Policy, quotas: Bytes) -> Result<HoldResponse, Status> {
    let name = if policy.name.is_empty() { NAMELESS } else { &policy.name };
    oneself.unary(HOLD, &HoldRequest { policy: name.to_owned(), quotas }, PATIENCE).await
}
