//! What a tap recorded, as a load: the same requests in the same order and with the same time between them.
//!
//! A recording is the output of `forebay tap -o json`, a line for each request that has ended. Values were not recorded
//! but their lengths were, so others of that length are written. What only the recorded cluster could answer as it did is
//! left out: revisions that are read or compared, and leases; so a txn always takes its first branch.

use std::{
    collections::HashMap,
    io::{BufRead, Read as _},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use forebay_proto::{
    each_part,
    etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest, request_op::Request as Op},
};
use rand::rngs::SmallRng;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use tonic::Status;

use super::{raw, scenario::value};
use crate::client::Connection;

/// Bytes of a line that are read; no event of a tap is near it.
const LINE_MAX: u64 = 1 << 20;

/// The largest value that is written again; no etcd takes more.
const VALUE_MAX: usize = 64 << 20;

/// A line.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    at_micros: Option<u64>,
    #[serde(default)]
    client: String,
    #[serde(default)]
    rpc: String,
    request: Option<Value>,
    /// A tap that was too slow says how many it did not see.
    missed: Option<u64>,
}

/// Requests in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    requests: Vec<Recorded>,
    /// How many clients sent them.
    pub clients: usize,
    /// Calls that are not repeated: streams, leases, and what was too large to be recorded.
    pub left_out: u64,
    /// Requests that the tap itself missed.
    pub missed: u64,
}

#[derive(Clone, Debug)]
struct Recorded {
    /// Since the first.
    at: Duration,
    /// Who sent it.
    client: usize,
    request: Request,
}

/// What is sent; values are their lengths.
#[derive(Clone, Debug, PartialEq)]
enum Request {
    Range(RangeRequest),
    RangeStream(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
}

impl Request {
    /// Without what belongs to the recorded cluster; `None` if it is of a kind that is not repeated.
    fn of(rpc: &str, request: Value) -> anyhow::Result<Option<Request>> {
        fn read<T: DeserializeOwned>(request: Value) -> anyhow::Result<T> {
            Ok(serde_json::from_value(request)?)
        }
        let range = |range: RangeRequest| RangeRequest { revision: 0, ..range };
        Ok(Some(match rpc {
            "Range" => Request::Range(range(read(request)?)),
            "RangeStream" => Request::RangeStream(range(read(request)?)),
            "Put" => Request::Put(PutRequest { lease: 0, ..read(request)? }),
            "DeleteRange" => Request::DeleteRange(read(request)?),
            "Txn" => {
                let mut txn: TxnRequest = read(request)?;
                txn.compare.clear();
                let timeless = &mut |op: &mut Op| match op {
                    Op::RequestPut(put) => put.lease = 0,
                    Op::RequestRange(range) => range.revision = 0,
                    _ => {}
                };
                each_part(&mut txn, timeless, &mut |_| {});
                Request::Txn(txn)
            }
            _ => return Ok(None),
        }))
    }
}

impl Recording {
    /// Reads what a tap wrote.
    pub fn read(mut lines: impl BufRead) -> anyhow::Result<Recording> {
        let mut recording = Recording::default();
        let mut clients = HashMap::new();
        let mut begun = Vec::new();
        let mut text = String::new();
        for number in 1.. {
            text.clear();
            if lines.by_ref().take(LINE_MAX).read_line(&mut text)? == 0 {
                break;
            }
            let line: Line = serde_json::from_str(&text)
                .with_context(|| format!("line {number} is no line of `forebay tap -o json`"))?;
            recording.missed += line.missed.unwrap_or(0);
            let request = match line.request {
                Some(request) => Request::of(&line.rpc, request).with_context(|| format!("line {number}"))?,
                None => None,
            };
            let (Some(at), Some(request)) = (line.at_micros, request) else {
                recording.left_out += u64::from(line.missed.is_none());
                continue;
            };
            let next = clients.len();
            let client = *clients.entry(line.client).or_insert(next);
            begun.push((at, client, request));
        }
        // A tap tells of what has ended, so what took long stands behind what began later.
        begun.sort_by_key(|(at, ..)| *at);
        let first = begun.first().map_or(0, |(at, ..)| *at);
        ensure!(!begun.is_empty(), "there is nothing in it that can be sent again");
        let recorded = |(at, client, request)| Recorded { at: Duration::from_micros(at - first), client, request };
        recording.requests = begun.into_iter().map(recorded).collect();
        recording.clients = clients.len();
        Ok(recording)
    }

    /// As fast again as so many times.
    pub fn at_speed(mut self, speed: f64) -> Recording {
        self.requests.iter_mut().for_each(|recorded| recorded.at = recorded.at.div_f64(speed));
        self
    }

    /// Every so many-th of its requests, for one process of several.
    pub fn part(&self, index: usize, parts: usize) -> Recording {
        let requests = self.requests.iter().skip(index).step_by(parts).cloned().collect();
        Recording { requests, ..self.clone() }
    }

    /// When each is due.
    pub fn times(&self) -> impl Iterator<Item = Duration> {
        self.requests.iter().map(|recorded| recorded.at)
    }

    /// Sends one of them on the connection of whoever sent it; returns what it is.
    pub async fn send(
        &self,
        number: u64,
        connections: &[Connection],
        rng: &mut SmallRng,
        since_epoch: Duration,
    ) -> Result<&'static str, Status> {
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let recorded = &self.requests[place % self.requests.len()];
        let connection = &connections[recorded.client % connections.len()];
        let mut fill = |put: &mut PutRequest| {
            let length = std::str::from_utf8(&put.value).ok().and_then(|digits| digits.parse().ok());
            put.value = value(rng, length.unwrap_or(0).min(VALUE_MAX), since_epoch);
        };
        Ok(match &recorded.request {
            Request::Range(range) => {
                raw::call(connection, "/etcdserverpb.KV/Range", range).await?;
                "range"
            }
            Request::RangeStream(range) => {
                raw::call(connection, "/etcdserverpb.KV/RangeStream", range).await?;
                "range-stream"
            }
            Request::Put(put) => {
                let mut put = put.clone();
                fill(&mut put);
                raw::call(connection, "/etcdserverpb.KV/Put", &put).await?;
                "put"
            }
            Request::DeleteRange(delete) => {
                raw::call(connection, "/etcdserverpb.KV/DeleteRange", delete).await?;
                "delete"
            }
            Request::Txn(txn) => {
                let mut txn = txn.clone();
                let filled = &mut |op: &mut Op| {
                    if let Op::RequestPut(put) = op {
                        fill(put);
                    }
                };
                each_part(&mut txn, filled, &mut |_| {});
                raw::call(connection, "/etcdserverpb.KV/Txn", &txn).await?;
                "txn"
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use forebay_proto::etcdserverpb::{Compare, RequestOp};
    use serde_json::json;

    use super::*;

    fn line(at: u64, client: &str, rpc: &str, request: impl serde::Serialize) -> String {
        json!({"atMicros": at, "client": client, "rpc": rpc, "request": request}).to_string() + "\n"
    }

    fn recording() -> Recording {
        let put = PutRequest { key: "k".into(), value: "300".into(), lease: 7, ..Default::default() };
        let compare = Compare { key: "k".into(), ..Default::default() };
        let op = RequestOp { request: Some(Op::RequestPut(put.clone())) };
        let txn = TxnRequest { compare: vec![compare], success: vec![op], failure: Vec::new() };
        let range = RangeRequest { key: "a".into(), revision: 9, limit: 3, ..Default::default() };
        let text = [
            line(2_000_000, "ip=10.0.0.1", "Put", &put),
            line(1_000_000, "ip=10.0.0.2", "Range", &range),
            line(4_000_000, "ip=10.0.0.1", "Txn", &txn),
            line(3_000_000, "ip=10.0.0.1", "Watch", Value::Null),
            json!({"missed": 5}).to_string(),
        ];
        Recording::read(text.concat().as_bytes()).expect("it can be read")
    }

    #[test]
    fn requests_come_in_the_order_in_which_they_began_and_without_what_belongs_to_another_cluster() {
        let recording = recording();
        assert_eq!((recording.clients, recording.left_out, recording.missed), (2, 1, 5));
        let times: Vec<u64> = recording.times().map(|at| at.as_secs()).collect();
        assert_eq!(times, [0, 1, 3]);
        let [range, put, txn] = &recording.requests[..] else { panic!("{recording:?}") };
        assert!(matches!(&range.request, Request::Range(range) if range.revision == 0 && range.limit == 3));
        assert!(matches!(&put.request, Request::Put(put) if put.lease == 0));
        assert!(put.client == txn.client && range.client != put.client);
        let Request::Txn(txn) = &txn.request else { panic!("{txn:?}") };
        let Some(Op::RequestPut(put)) = &txn.success[0].request else { panic!("{txn:?}") };
        assert!(txn.compare.is_empty() && put.lease == 0);
    }

    #[test]
    fn a_recording_can_be_faster_and_in_parts() {
        let recording = recording().at_speed(2.0);
        assert_eq!(recording.times().map(|at| at.as_millis()).collect::<Vec<_>>(), [0, 500, 1500]);
        assert_eq!(recording.part(0, 2).times().count() + recording.part(1, 2).times().count(), 3);
    }

    #[test]
    fn what_is_no_recording_says_which_line_is_not() {
        let error = |text: &str| format!("{:#}", Recording::read(text.as_bytes()).expect_err(text));
        assert!(error("{}\nnothing").starts_with("line 2 is no line of `forebay tap -o json`"));
        assert!(error("").contains("nothing in it that can be sent again"));
        let wrong = line(1, "a", "Put", json!({"key": 7}));
        assert!(error(&wrong).starts_with("line 1"), "{}", error(&wrong));
    }
}
