//! Limits that several gateways hold together: each has a share, by what it is asked for.
//!
//! Every few seconds a gateway writes what it was asked for to a key of its own in the upstream, under a lease, and reads
//! the keys of the others in the same txn. All compute the same shares from the same numbers. One that cannot reach the
//! upstream goes on with its share until others must believe it gone, and then with an equal part.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use forebay_policies::{Policy, Rule, Scope, Share, prefix, shares};
use forebay_proto::{
    KeyRange,
    etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
        request_op::Request, response_op::Response,
    },
};
use tokio::time::{self, Instant, MissedTickBehavior};
use tonic::{Code, Status};

use super::{Admission, oneself::Oneself};
use crate::config::GatewayId;

/// How often shares are computed anew.
const ROUND: Duration = Duration::from_secs(3);
/// How long a gateway is believed to be there that has not written.
const TTL: Duration = Duration::from_secs(15);
/// Where the gateways of a policy write.
const GATEWAYS: &str = "forebay/gateways/";
const WHOLE: u64 = Share::WHOLE.0 as u64;

/// What one gateway was asked for, in millionths of each rule's rate, by the rule's name.
type Demands = BTreeMap<String, u64>;

impl Admission {
    /// Divides the limits of rules of the cluster with other gateways, for as long as it is polled.
    pub(crate) async fn divide(&self, oneself: &Oneself, id: GatewayId) {
        let (mut rounds, mut gateways, mut reached) = (time::interval(ROUND), 1, Instant::now());
        let mut is_denied = false;
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let loaded = self.0.loaded.load_full();
            let policy = &loaded.policy;
            if !policy.rules.iter().any(|rule| rule.scope == Scope::Cluster) {
                continue;
            }
            let demands = demands(policy, &self.0.accounts.lock().take_asked());
            let exchanged = time::timeout(ROUND, exchange(oneself, policy, id, &demands)).await;
            let denied = exchanged.as_ref().ok().and_then(|exchanged| exchanged.as_ref().err());
            let denied = denied.filter(|status| status.code() != Code::Unavailable);
            if let Some(status) = denied.filter(|_| !is_denied) {
                tracing::warn!(%status, "the upstream does not let the gateway write its share of limits under {GATEWAYS}");
            }
            is_denied = denied.is_some();
            match exchanged {
                Ok(Ok(all)) => {
                    (gateways, reached) = (all.len() as u64, Instant::now());
                    self.take_shares(policy, |rule| share(&all, &id.to_string(), &rule.name));
                }
                _ if reached.elapsed() > TTL => {
                    let alone = Share(shares::alone(WHOLE, gateways) as u32);
                    self.take_shares(policy, |_| alone);
                }
                _ => {}
            }
        }
    }

    fn take_shares(&self, policy: &Policy, share: impl Fn(&Rule) -> Share) {
        let mut accounts = self.0.accounts.lock();
        for rule in policy.rules.iter().filter(|rule| rule.scope == Scope::Cluster) {
            accounts.set_share(rule, share(rule));
        }
    }
}

fn demands(policy: &Policy, asked: &HashMap<u64, u64>) -> Demands {
    let cluster = policy.rules.iter().filter(|rule| rule.scope == Scope::Cluster);
    let demands = cluster.map(|rule| {
        let asked = asked.get(&rule.key).copied().unwrap_or(0);
        let requests = rule.total.requests.or(rule.limits.requests);
        let rate = requests.or(rule.total.load).or(rule.limits.load);
        let per_round = rate.map_or(u64::MAX, |rate| rate.amount_per_second().saturating_mul(ROUND.as_secs()));
        (rule.name.clone(), asked.saturating_mul(WHOLE) / per_round)
    });
    demands.collect()
}

/// The share of one gateway of a rule, of what all say.
fn share(all: &BTreeMap<String, Demands>, own: &str, rule: &str) -> Share {
    let demands: Vec<u64> = all.values().map(|demands| demands.get(rule).copied().unwrap_or(0)).collect();
    let shares = shares::divide(WHOLE, &demands);
    let at = all.keys().position(|id| id == own);
    Share(at.map_or(WHOLE, |at| shares[at]) as u32)
}

/// Says what this gateway was asked for, and hears it of all.
async fn exchange(
    oneself: &Oneself,
    policy: &Policy,
    id: GatewayId,
    demands: &Demands,
) -> Result<BTreeMap<String, Demands>, Status> {
    // A lease for each round: a key that is not written again goes with the last.
    let grant = LeaseGrantRequest { ttl: TTL.as_secs().cast_signed(), id: 0 };
    let lease = oneself.unary::<LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", &grant, ROUND).await?.id;
    let folder = format!("{GATEWAYS}{}/", policy.name);
    let value = serde_json::to_vec(demands).expect("numbers can be written as JSON").into();
    let put = PutRequest { key: format!("{folder}{id}").into(), value, lease, ..PutRequest::default() };
    let KeyRange::Range(key, range_end) = prefix::range(folder.as_bytes()) else {
        unreachable!("a folder that ends with a slash has an end")
    };
    let range = RangeRequest { key, range_end, ..RangeRequest::default() };
    let success = [Request::RequestPut(put), Request::RequestRange(range)];
    let success = success.map(|request| RequestOp { request: Some(request) }).into();
    let txn = TxnRequest { success, ..TxnRequest::default() };
    let answer = oneself.unary::<TxnResponse>("/etcdserverpb.KV/Txn", &txn, ROUND).await?;
    let listed = answer.responses.into_iter().find_map(|response| match response.response? {
        Response::ResponseRange(range) => Some(range.kvs),
        _ => None,
    });
    let gateways = listed.unwrap_or_default().into_iter().map(|kv| {
        let name = String::from_utf8_lossy(&kv.key[folder.len().min(kv.key.len())..]).into_owned();
        // One whose words cannot be read asks for nothing.
        (name, serde_json::from_slice(&kv.value).unwrap_or_default())
    });
    Ok(gateways.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_gateways_compute_shares_that_sum_up() {
        let says = |demand: u64| Demands::from([("r".to_owned(), demand)]);
        let all =
            BTreeMap::from([("a".to_owned(), says(3_000_000)), ("b".to_owned(), says(0)), ("c".to_owned(), says(9))]);
        let shares: Vec<u32> = ["a", "b", "c"].iter().map(|id| share(&all, id, "r").0).collect();
        assert_eq!(shares.iter().sum::<u32>(), Share::WHOLE.0);
        assert!(shares[0] > 900_000 && shares[1] > 30_000, "{shares:?}");
        assert_eq!(share(&BTreeMap::new(), "a", "r"), Share::WHOLE, "who reads nothing is alone");
    }
}
