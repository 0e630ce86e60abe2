//! A policy file of a member alone: its quotas are held by the cluster, its rules are a gateway's.

use std::time::Duration;

use forebay_gateway::PolicyFile;
use forebay_policies::{Mode, Policy, Quota};
use forebay_server::Member;
use tokio::time;

/// How often the file is looked at, and how soon a failure is tried again.
const LOOK: Duration = Duration::from_secs(1);
/// What a policy without a name is called.
const NAMELESS: &str = "policy";

/// Has the cluster hold the quotas of the file, for as long as it is polled. A file that cannot be used changes nothing.
pub async fn hold(member: Member, file: PolicyFile, mut policy: Policy) {
    let mut told: Option<Policy> = None;
    let mut looks = time::interval(LOOK);
    loop {
        looks.tick().await;
        let reading = file.clone();
        match tokio::task::spawn_blocking(move || reading.load()).await {
            Ok(Ok(read)) => policy = read,
            Ok(Err(error)) => tracing::debug!(%error, "the policy file cannot be used"),
            Err(_) => continue,
        }
        if told.as_ref().is_some_and(|told| *told == policy) {
            continue;
        }
        let enforced: Vec<Quota> = policy.quotas.iter().filter(|quota| quota.mode == Mode::Enforce).cloned().collect();
        let name = if policy.name.is_empty() { NAMELESS } else { &policy.name };
        match member.hold_quotas(name, &enforced).await {
            Ok(()) => {
                tracing::info!(policy = name, quotas = enforced.len(), "quotas are held");
                told = Some(policy.clone());
            }
            Err(status) => tracing::warn!(policy = name, error = status.message(), "quotas cannot be held yet"),
        }
    }
}
