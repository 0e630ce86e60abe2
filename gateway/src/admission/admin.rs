//! What an operator sees of admission, as JSON over HTTP: `/forebay/v1/top`, `/policy`, `/quota`,
//! `/explain` and `/tap`; and `/forebay/v1/policy/try`, which takes a policy file and says what it would change.
//!
//! Keys and names of clients are shown. Where there is an admin token ([`AdmissionConfig::admin_token`]), who brings it
//! is answered; where there is none, only this machine is ([`is_local`]). One thing can be changed, and by nobody but who
//! brings the token: `/policy/mode` has a rule enforced, or only counted, until the policy file is loaded again.
//!
//! [`AdmissionConfig::admin_token`]: crate::AdmissionConfig::admin_token

use std::sync::Arc;

use bytes::Bytes;
use forebay_edge::{Body, Request, Response, http::is_local};
use forebay_policies::{
    Client, Cost, Expected, LevelId, Mode, Policy, Request as Asked, RuleId,
    file::{self, FILE_BYTES_MAX},
    prefix,
    units::Rate,
};
use futures::stream;
use http::{
    HeaderValue, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use http_body::Frame;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{Admission, Shared, WINDOW, explained::pairs, quotas::Usage};

/// How the paths begin.
pub const ADMIN: &str = "/forebay/v1/";

impl Admission {
    /// Answers a request whose path begins with [`ADMIN`].
    pub async fn admin(&self, request: Request) -> Response {
        if let Err(refusal) = self.is_told(&request) {
            return text(StatusCode::FORBIDDEN, refusal);
        }
        let path = request.uri().path().strip_prefix(ADMIN).unwrap_or_default().to_owned();
        match (&path[..], request.method()) {
            ("policy/try", &Method::POST) => self.try_policy(request).await,
            ("policy/mode", &Method::POST) => self.change_mode(request.uri().query().unwrap_or_default()),
            (_, method) if method != Method::GET => text(StatusCode::METHOD_NOT_ALLOWED, "nothing can be changed here"),
            ("top", _) => json(&self.0.top()),
            ("policy", _) => json(&self.0.policy_status()),
            ("quota", _) => json(&self.0.quota_status()),
            ("explain", _) => match self.0.explain(request.uri().query().unwrap_or_default()) {
                Ok(page) => with_type("text/plain; charset=utf-8", Body::full(page)),
                Err(error) => text(StatusCode::BAD_REQUEST, error),
            },
            ("tap", _) => tap(self.0.tap.subscribe()),
            _ => text(StatusCode::NOT_FOUND, "there is top, policy, policy/try, policy/mode, quota, explain and tap"),
        }
    }

    fn is_told(&self, request: &Request) -> Result<(), &'static str> {
        let Some(token) = &self.0.admin_token else {
            let refusal = "only this machine is told, as 127.0.0.1, ::1 or localhost and not through a proxy; \
                           --admin-token-file opens this to others";
            return is_local(request).then_some(()).ok_or(refusal);
        };
        let said = request.headers().get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        let brings = said.is_some_and(|said| token.is(said));
        brings.then_some(()).ok_or("only who brings the admin token is told: Authorization: Bearer TOKEN")
    }

    /// `?rule=NAME&mode=Enforce` or `Shadow`.
    fn change_mode(&self, query: &str) -> Response {
        if self.0.admin_token.is_none() {
            return text(StatusCode::FORBIDDEN, "nothing can be changed without an admin token: --admin-token-file");
        }
        let (mut name, mut mode) = (None, None);
        for pair in pairs(query) {
            match pair {
                Ok(("rule", value)) => name = Some(value),
                Ok(("mode", value)) => mode = Some(value),
                Ok((other, _)) => {
                    return text(StatusCode::BAD_REQUEST, format_args!("{other:?}: there is rule and mode"));
                }
                Err(error) => return text(StatusCode::BAD_REQUEST, error),
            }
        }
        let (Some(name), Some(mode)) = (name, mode) else {
            return text(StatusCode::BAD_REQUEST, "say which: policy/mode?rule=NAME&mode=Enforce");
        };
        let mode = match &mode[..] {
            "Enforce" => Mode::Enforce,
            "Shadow" => Mode::Shadow,
            other => return text(StatusCode::BAD_REQUEST, format_args!("{other:?} is no mode: Enforce or Shadow")),
        };
        let mut policy = self.0.loaded.load().policy.clone();
        let own = policy.rules.iter_mut().find(|rule| rule.name == name && !rule.is_ours());
        let Some(rule) = own else {
            return text(StatusCode::NOT_FOUND, format_args!("the policy file has no rule {name:?}"));
        };
        rule.mode = mode;
        tracing::warn!(rule = name, mode = self::mode(mode), "an operator changed the mode of a rule");
        self.set_policy(policy);
        json(&self.0.policy_status())
    }

    async fn try_policy(&self, request: Request) -> Response {
        let body = Limited::new(request.into_body(), FILE_BYTES_MAX).collect().await;
        let Ok(body) = body else { return text(StatusCode::PAYLOAD_TOO_LARGE, "a policy file has a MiB at most") };
        let body = body.to_bytes();
        match std::str::from_utf8(&body).map_err(|_| Vec::new()).and_then(file::load) {
            Ok(loaded) => json(&self.0.changes(&loaded.policy)),
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let mut response = json(&json!({"problems": problems}));
                *response.status_mut() = StatusCode::BAD_REQUEST;
                response
            }
        }
    }
}

impl Shared {
    /// Who did what in the window before this one.
    fn top(&self) -> Value {
        let seconds = WINDOW.as_secs_f64();
        let accounting = self.accounting.lock();
        let sums = |sums: forebay_policies::heavy::Sums| {
            json!({
                "requests": sums.requests,
                "objects": sums.objects,
                "bytes": sums.bytes,
                "queued": sums.queued,
                "refused": sums.refused,
                "requestsPerSecond": sums.requests as f64 / seconds,
                "loadBytesPerSecond": sums.bytes as f64 / seconds,
            })
        };
        let rows = accounting.rows().iter().filter(|row| row.last.requests > 0).map(|row| {
            let micros = |share| row.latency.quantile(share).map(|latency| latency.as_micros() as u64);
            let mut shown = sums(row.last);
            shown["client"] = row.client.as_str().into();
            shown["prefix"] = row.prefix.escape_ascii().to_string().into();
            shown["rpc"] = row.rpc.name().into();
            shown["p50Micros"] = micros(0.5).into();
            shown["p99Micros"] = micros(0.99).into();
            shown
        });
        let rows: Vec<Value> = rows.collect();
        let loaded = self.loaded.load();
        let seats = |(limit, taken): (u32, u32)| json!({"limit": limit, "taken": taken});
        json!({
            "windowSeconds": seconds,
            "rows": rows,
            "other": sums(accounting.other().last),
            "all": sums(accounting.all().last),
            "total": sums(accounting.all().total),
            "seats": {"read": seats(loaded.reads.seats()), "write": seats(loaded.writes.seats())},
            "memory": {"held": self.memory.held(), "limit": self.memory.total()},
        })
    }

    /// The policy in force and what its rules and levels do.
    fn policy_status(&self) -> Value {
        let loaded = self.loaded.load();
        let policy = &loaded.policy;
        let rules = policy.rules.iter().enumerate().map(|(at, rule)| {
            json!({
                "name": rule.name,
                "mode": mode(rule.mode),
                "builtIn": rule.is_ours(),
                "level": policy.level(rule.level).name,
                "admitted": loaded.admitted(RuleId(at)),
                "refused": self.metrics.refused_by(&rule.name),
                "shadowRefused": self.metrics.shadow_refused_by(&rule.name),
            })
        });
        let rules: Vec<Value> = rules.collect();
        let levels = policy.levels.iter().enumerate().map(|(at, level)| {
            let (reads, writes) = (loaded.reads.occupancy(LevelId(at)), loaded.writes.occupancy(LevelId(at)));
            json!({
                "name": level.name,
                "exempt": level.exempt,
                "seats": reads.seats + writes.seats,
                "nominalSeats": reads.nominal + writes.nominal,
                "waiting": reads.waiting + writes.waiting,
                "overloadedQueues": reads.overloaded + writes.overloaded,
            })
        });
        let levels: Vec<Value> = levels.collect();
        json!({
            "name": policy.name,
            "current": self.metrics.policy_is_current.get() == 1,
            "rules": rules,
            "levels": levels,
        })
    }

    /// What another policy would do to the requests of the window before this one.
    fn changes(&self, other: &Policy) -> Value {
        let loaded = self.loaded.load();
        let seconds = WINDOW.as_secs_f64();
        let accounting = self.accounting.lock();
        let rows = accounting.rows().iter().filter(|row| row.last.requests > 0).filter_map(|row| {
            let client = Client::default().with(&row.client).ok()?;
            let keys = [prefix::range(&row.prefix)];
            let per_request = |sum: u64| sum / row.last.requests;
            let (bytes, objects) = (per_request(row.last.bytes), per_request(row.last.objects));
            let request = Asked { keys: &keys, bytes, ..Asked::new(&client, row.rpc) };
            let expected = Expected { objects, object_bytes: bytes / objects.max(1) };
            let cost = Cost::predict(&request, Some(expected));
            let (now, then) = (loaded.policy.classify(&request, &cost), other.classify(&request, &cost));
            let rule = other.rule(then.rule);
            let (requests, load) = (row.last.requests as f64 / seconds, row.last.bytes as f64 / seconds);
            let over = |rate: Option<Rate>, used: f64| rate.filter(|rate| used > rate.amount_per_second() as f64);
            let exceeds = [("requests", over(rule.limits.requests, requests)), ("load", over(rule.limits.load, load))];
            let exceeds = exceeds.into_iter().find_map(|(limit, rate)| Some(format!("{limit} {}", rate?)));
            let before = &loaded.policy.rule(now.rule).name;
            (exceeds.is_some() || *before != rule.name).then(|| {
                json!({
                    "client": row.client,
                    "prefix": row.prefix.escape_ascii().to_string(),
                    "rpc": row.rpc.name(),
                    "requestsPerSecond": requests,
                    "loadBytesPerSecond": load,
                    "ruleNow": before,
                    "ruleThen": rule.name,
                    "levelThen": other.level(then.level).name,
                    "exceeds": exceeds,
                    "mode": mode(rule.mode),
                })
            })
        });
        let rows: Vec<Value> = rows.collect();
        json!({"name": other.name, "windowSeconds": seconds, "changes": rows})
    }

    fn quota_status(&self) -> Value {
        let loaded = self.loaded.load();
        let quotas = loaded.policy.quotas.iter().map(|quota| {
            json!({
                "quota": quota.name,
                "prefix": quota.prefix.escape_ascii().to_string(),
                "mode": mode(quota.mode),
                "warnAtPercent": quota.warn_at.0,
                "hardObjects": quota.hard.objects,
                "hardObjectBytes": quota.hard.object_bytes,
            })
        });
        let quotas: Vec<Value> = quotas.collect();
        let usage = self.budgets.usage().into_iter().chain(self.held.usage());
        let budgets = usage.map(|Usage { quota, prefix, resource, used, hard }| {
            json!({"quota": &*quota, "prefix": prefix, "resource": resource, "used": used, "hard": hard})
        });
        let budgets: Vec<Value> = budgets.collect();
        json!({"quotas": quotas, "budgets": budgets})
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "Enforce",
        Mode::Shadow => "Shadow",
    }
}

/// Every request from now on, a line each, for as long as the client reads. Who reads too slowly
/// misses some and is told how many.
fn tap(taps: broadcast::Receiver<Arc<Value>>) -> Response {
    let lines = stream::unfold(taps, |mut taps| async move {
        let line = match taps.recv().await {
            Ok(event) => event.to_string(),
            Err(RecvError::Lagged(missed)) => json!({"missed": missed}).to_string(),
            Err(RecvError::Closed) => return None,
        };
        let frame = Frame::data(Bytes::from(line + "\n"));
        Some((Ok::<_, std::convert::Infallible>(frame), taps))
    });
    with_type("application/x-ndjson", Body::new(StreamBody::new(lines)))
}

fn json(value: &Value) -> Response {
    with_type("application/json", Body::full(format!("{value}\n")))
}

fn with_type(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn text(status: StatusCode, text: impl std::fmt::Display) -> Response {
    let mut response = with_type("text/plain; charset=utf-8", Body::full(format!("{text}\n")));
    *response.status_mut() = status;
    response
}
