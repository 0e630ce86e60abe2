//! What the commands that look at a gateway may be told.

use std::time::Duration;

use serde_json::Value;

use super::{Row, Sums};
use crate::{
    flags::{Problem, go},
    suggest,
};

/// The flags of `top`, `quota` and `tap`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arguments {
    /// `host:port` of a gateway's client or metrics URL on this machine.
    pub(super) endpoint: String,
    pub(super) once: bool,
    pub(super) output: Output,
    pub(super) sort: Sort,
    pub(super) by: By,
    client: Option<String>,
    prefix: Option<String>,
    rpc: Option<String>,
    slower: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Table,
    Json,
    Csv,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    Load,
    Requests,
    Objects,
    Size,
    P99,
}

/// What rows are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct By {
    client: bool,
    prefix: bool,
    rpc: bool,
}

pub(crate) const FLAGS: [&str; 9] =
    ["--endpoint", "--once", "--output", "--sort", "--by", "--client", "--prefix", "--rpc", "--slower"];

impl Default for Arguments {
    fn default() -> Arguments {
        Arguments {
            endpoint: "127.0.0.1:2379".to_owned(),
            once: false,
            output: Output::Table,
            sort: Sort::Load,
            by: By::ALL,
            client: None,
            prefix: None,
            rpc: None,
            slower: Duration::ZERO,
        }
    }
}

impl Arguments {
    /// Reads the words behind a command.
    pub(super) fn read(words: &[String]) -> Result<Arguments, Problem> {
        let mut asked = Arguments::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (flag, given) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = || {
                given
                    .clone()
                    .or_else(|| words.next().cloned())
                    .ok_or_else(|| Problem::new(format!("{flag} needs a value")))
            };
            match flag {
                "--once" => asked.once = true,
                "--endpoint" | "--endpoints" => {
                    let text = value()?;
                    let text = text.strip_prefix("http://").unwrap_or(&text);
                    text.trim_end_matches('/').clone_into(&mut asked.endpoint);
                }
                "-o" | "--output" => {
                    let names = [("table", Output::Table), ("json", Output::Json), ("csv", Output::Csv)];
                    asked.output = one_of(flag, &value()?, &names)?;
                }
                "--sort" => {
                    let names = [
                        ("load", Sort::Load),
                        ("req", Sort::Requests),
                        ("obj", Sort::Objects),
                        ("size", Sort::Size),
                        ("p99", Sort::P99),
                    ];
                    asked.sort = one_of(flag, &value()?, &names)?;
                }
                "--by" => asked.by = By::read(&value()?)?,
                "--client" => asked.client = Some(value()?),
                "--prefix" => asked.prefix = Some(value()?),
                "--rpc" => asked.rpc = Some(value()?),
                "--slower" => {
                    let text = value()?;
                    let duration = go::Duration::parse(&text).map_err(|error| {
                        Problem::new(format!("--slower: {error}")).hint("write a duration like 50ms or 1.5s")
                    })?;
                    asked.slower = duration.to_std();
                }
                other => {
                    let near = suggest::nearest(other, FLAGS).map(|near| format!("did you mean {near}? "));
                    return Err(Problem::new(format!("unknown flag {}", go::quote(other))).hint(format!(
                        "{}there is {}",
                        near.unwrap_or_default(),
                        FLAGS.join(", ")
                    )));
                }
            }
        }
        Ok(asked)
    }

    /// Whether an event of a tap is to be shown.
    pub(super) fn wants(&self, event: &Value) -> bool {
        let text = |key: &str| event[key].as_str().unwrap_or_default();
        let is = |asked: &Option<String>, key: &str| asked.as_ref().is_none_or(|asked| text(key) == asked);
        let under = self.prefix.as_ref().is_none_or(|prefix| text("key").starts_with(prefix.as_str()));
        let took = Duration::from_micros(event["tookMicros"].as_u64().unwrap_or(u64::MAX));
        is(&self.client, "client") && is(&self.rpc, "rpc") && under && took >= self.slower
    }
}

fn one_of<T: Copy>(flag: &str, text: &str, names: &[(&'static str, T)]) -> Result<T, Problem> {
    let found = names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let known: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        Problem::new(format!("{flag} cannot be {}", go::quote(text))).hint(format!("it may be {}", known.join(", ")))
    })
}

impl Sort {
    pub(super) fn weight(self, row: &Row) -> f64 {
        let Sums { requests, objects, bytes, .. } = row.sums;
        match self {
            Sort::Load => bytes as f64,
            Sort::Requests => requests as f64,
            Sort::Objects => objects as f64,
            Sort::Size => bytes as f64 / objects.max(requests).max(1) as f64,
            Sort::P99 => row.p99_micros.unwrap_or(0) as f64,
        }
    }
}

impl By {
    const ALL: By = By { client: true, prefix: true, rpc: true };

    fn read(text: &str) -> Result<By, Problem> {
        let mut by = By { client: false, prefix: false, rpc: false };
        for word in text.split(',') {
            match word {
                "client" => by.client = true,
                "prefix" => by.prefix = true,
                "rpc" => by.rpc = true,
                other => {
                    return Err(Problem::new(format!("--by cannot be {}", go::quote(other)))
                        .hint("it may be client, prefix and rpc, with commas"));
                }
            }
        }
        Ok(by)
    }

    /// The rows, with those put together that it does not tell apart.
    pub(super) fn merge(self, rows: &[Row]) -> Vec<Row> {
        let mut merged: Vec<Row> = Vec::new();
        for row in rows {
            let cut = |kept: bool, text: &str| if kept { text.to_owned() } else { String::new() };
            let (client, prefix, rpc) =
                (cut(self.client, &row.client), cut(self.prefix, &row.prefix), cut(self.rpc, &row.rpc));
            let same =
                merged.iter_mut().find(|other| other.client == client && other.prefix == prefix && other.rpc == rpc);
            match same {
                None => merged.push(Row { client, prefix, rpc, ..row.clone() }),
                Some(other) => {
                    other.sums.requests += row.sums.requests;
                    other.sums.objects += row.sums.objects;
                    other.sums.bytes += row.sums.bytes;
                    other.sums.queued += row.sums.queued;
                    other.sums.refused += row.sums.refused;
                    // The slowest part stands for the whole.
                    other.p50_micros = other.p50_micros.max(row.p50_micros);
                    other.p99_micros = other.p99_micros.max(row.p99_micros);
                }
            }
        }
        merged
    }
}
