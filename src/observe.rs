//! What a running gateway tells of itself: `forebay top`, `forebay quota` and `forebay tap`.

mod arguments;
mod request;
mod table;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
    thread,
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;

use self::arguments::{Arguments, Output};
use self::table::{Table, count};
pub(crate) use self::{arguments::FLAGS, request::authorization, table::bytes};
use crate::flags::Problem;

/// How often the live view is drawn again.
const REDRAW: Duration = Duration::from_secs(2);

/// The answer of `/forebay/v1/top`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Top {
    window_seconds: f64,
    rows: Vec<Row>,
    other: Sums,
    all: Sums,
    seats: Seats,
    memory: Memory,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    client: String,
    prefix: String,
    rpc: String,
    #[serde(flatten)]
    sums: Sums,
    p50_micros: Option<u64>,
    p99_micros: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Sums {
    requests: u64,
    objects: u64,
    bytes: u64,
    queued: u64,
    refused: u64,
}

#[derive(Debug, Deserialize)]
struct Seats {
    read: Seated,
    write: Seated,
}

#[derive(Debug, Deserialize)]
struct Seated {
    limit: u32,
    taken: u32,
}

#[derive(Debug, Deserialize)]
struct Memory {
    held: u64,
    limit: u64,
}

/// The answer of `/forebay/v1/quota`.
#[derive(Debug, Deserialize)]
struct Quotas {
    quotas: Vec<Quota>,
    budgets: Vec<Budget>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Quota {
    quota: String,
    mode: String,
    warn_at_percent: u64,
}

#[derive(Debug, Deserialize)]
struct Budget {
    quota: String,
    prefix: String,
    #[serde(default = "objects")]
    resource: String,
    used: u64,
    hard: u64,
}

fn objects() -> String {
    "objects".to_owned()
}

/// The answer of `/forebay/v1/policy`.
#[derive(Debug, Deserialize)]
struct PolicyStatus {
    name: String,
    current: bool,
    rules: Vec<RuleStatus>,
    levels: Vec<LevelStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuleStatus {
    name: String,
    mode: String,
    level: String,
    admitted: u64,
    refused: u64,
    shadow_refused: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LevelStatus {
    name: String,
    exempt: bool,
    seats: u32,
    nominal_seats: u32,
    waiting: u32,
    overloaded_queues: u32,
}

/// The answer of `/forebay/v1/policy/try`.
#[derive(Debug, Deserialize)]
struct Tried {
    changes: Vec<TriedRow>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TriedRow {
    client: String,
    prefix: String,
    rpc: String,
    requests_per_second: f64,
    load_bytes_per_second: f64,
    rule_now: String,
    rule_then: String,
    level_then: String,
    exceeds: Option<String>,
    mode: String,
}

/// `forebay policy status`: what the policy in force does, as tables.
pub fn policy_status(args: &[String]) -> Result<String, Problem> {
    let asked = Arguments::read(args)?;
    let text = request::get(&asked.endpoint, "policy")?;
    if asked.output == Output::Json {
        return Ok(text);
    }
    let status: PolicyStatus = read(&text)?;
    let mut rules = Table::new(&["RULE", "MODE", "LEVEL", "ADMITTED", "REFUSED", "SHADOW REFUSED"]);
    let stale = if status.current { "" } else { " (its file cannot be used; this is the last good one)" };
    rules.title = format!("policy {}{stale}", status.name);
    for rule in status.rules {
        let counts = [rule.admitted, rule.refused, rule.shadow_refused].map(|count| count.to_string());
        let [admitted, refused, shadow] = counts;
        rules.row([rule.name, rule.mode, rule.level, admitted, refused, shadow]);
    }
    let mut levels = Table::new(&["LEVEL", "SEATS", "OF", "WAITING", "OVERLOADED QUEUES"]);
    for level in status.levels {
        let of = if level.exempt { "exempt".to_owned() } else { level.nominal_seats.to_string() };
        let (waiting, overloaded) = (level.waiting.to_string(), level.overloaded_queues.to_string());
        levels.row([level.name, level.seats.to_string(), of, waiting, overloaded]);
    }
    Ok(match asked.output {
        Output::Csv => format!("{}\n{}", rules.csv(), levels.csv()),
        _ => format!("{rules}\n{levels}"),
    })
}

/// `forebay policy apply --dry-run`: what a policy file would change for those who are there now.
pub fn policy_dry_run(file: &str, args: &[String]) -> Result<String, Problem> {
    let asked = Arguments::read(args)?;
    let text = request::post(&asked.endpoint, "policy/try", file)?;
    if asked.output == Output::Json {
        return Ok(text);
    }
    let tried: Tried = read(&text)?;
    if tried.changes.is_empty() {
        return Ok("nobody who was there in the last seconds would notice\n".to_owned());
    }
    let mut table = Table::new(&[
        "CLIENT",
        "PREFIX",
        "RPC",
        "REQ/s",
        "LOAD/s",
        "RULE NOW",
        "RULE THEN",
        "LEVEL",
        "MODE",
        "EXCEEDS",
    ]);
    for row in tried.changes {
        table.row([
            row.client,
            row.prefix,
            row.rpc,
            count(row.requests_per_second),
            bytes(row.load_bytes_per_second),
            row.rule_now,
            row.rule_then,
            row.level_then,
            row.mode,
            row.exceeds.unwrap_or_default(),
        ]);
    }
    Ok(if asked.output == Output::Csv { table.csv() } else { table.to_string() })
}

/// `forebay top`.
pub fn top(args: &[String]) -> Result<ExitCode, Problem> {
    let asked = Arguments::read(args)?;
    let live = !asked.once && asked.output == Output::Table && io::stdout().is_terminal();
    loop {
        let text = request::get(&asked.endpoint, "top")?;
        let page = match asked.output {
            Output::Json => text,
            Output::Table => top_table(&read(&text)?, &asked).to_string(),
            Output::Csv => top_table(&read(&text)?, &asked).csv(),
        };
        if !live {
            return Ok(print(&page));
        }
        if print(&drawn(&page, screen_rows())) != ExitCode::SUCCESS {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(REDRAW);
    }
}

/// A page on a screen: from its upper left corner, and nothing of what stood there before. What does not fit is left out at
/// the end and to the right, because what counts most stands first.
fn drawn(page: &str, rows: usize) -> String {
    let lines = page.lines().take(rows.saturating_sub(1)).map(|line| format!("{line}\x1b[K\n"));
    format!("\x1b[?7l\x1b[H{}\x1b[J\x1b[?7h", lines.collect::<String>())
}

/// How many lines the terminal has, if it tells.
fn screen_rows() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
    size.map(|size| usize::from(size.ws_row)).filter(|rows| *rows > 0).unwrap_or(usize::MAX)
}

/// `forebay quota`.
pub fn quota(args: &[String]) -> Result<ExitCode, Problem> {
    let asked = Arguments::read(args)?;
    let text = request::get(&asked.endpoint, "quota")?;
    if asked.output == Output::Json {
        return Ok(print(&text));
    }
    let quotas: Quotas = read(&text)?;
    let mut table = Table::new(&["RULE", "PREFIX", "RESOURCE", "USED", "HARD", "%", "STATE"]);
    for budget in &quotas.budgets {
        let rule = quotas.quotas.iter().find(|quota| quota.quota == budget.quota);
        let percent = (budget.used * 100).checked_div(budget.hard).unwrap_or(100);
        let state = match rule {
            Some(rule) if rule.mode == "Shadow" => "SHADOW",
            _ if budget.used >= budget.hard => "FULL",
            Some(rule) if percent >= rule.warn_at_percent => "WARN",
            _ => "OK",
        };
        table.row([
            budget.quota.clone(),
            budget.prefix.clone(),
            budget.resource.clone(),
            budget.used.to_string(),
            budget.hard.to_string(),
            percent.to_string(),
            state.to_owned(),
        ]);
    }
    Ok(print(&if asked.output == Output::Csv { table.csv() } else { table.to_string() }))
}

/// `forebay tap`: a line for each request, until the gateway or the reader goes away.
pub fn tap(args: &[String]) -> Result<ExitCode, Problem> {
    let asked = Arguments::read(args)?;
    for line in request::stream(&asked.endpoint, "tap")?.lines() {
        let line = line.map_err(|error| Problem::new(format!("the gateway went away: {error}")))?;
        let event: Value = read(&line)?;
        if !asked.wants(&event) {
            continue;
        }
        let line = if asked.output == Output::Json { line } else { tapped(&event) };
        if print(&format!("{line}\n")) != ExitCode::SUCCESS {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Problem> {
    serde_json::from_str(text).map_err(|error| {
        Problem::new(format!("the gateway answered what cannot be read: {error}")).hint("is it as new as this command?")
    })
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// An event of a tap in one line.
fn tapped(event: &Value) -> String {
    if let Some(missed) = event["missed"].as_u64() {
        return format!("... {missed} more");
    }
    let milliseconds = |key: &str| event[key].as_u64().unwrap_or(0) as f64 / 1000.0;
    format!(
        "{:>9.3} ms  {:<12} {:<24} {:<40} {:>9} {:<8} {}",
        milliseconds("tookMicros"),
        shown(&event["rpc"]),
        shown(&event["client"]),
        shown(&event["key"]),
        bytes(event["bytes"].as_u64().unwrap_or(0) as f64),
        shown(&event["code"]),
        shown(&event["rule"]),
    )
}

/// The rows of one window with the factors of their load.
fn top_table(top: &Top, asked: &Arguments) -> Table {
    let mut rows = asked.by.merge(&top.rows);
    rows.sort_by(|a, b| asked.sort.weight(b).total_cmp(&asked.sort.weight(a)).then_with(|| a.client.cmp(&b.client)));
    let seconds = top.window_seconds.max(0.001);
    let mut table = Table::new(&[
        "CLIENT", "PREFIX", "RPC", "REQ/s", "OBJ/req", "B/obj", "LOAD/s", "%", "p50 ms", "p99 ms", "QUEUED", "REFUSED",
    ]);
    table.title = format!(
        "load {}/s  {:.1} req/s  seats read {}/{} write {}/{}  memory {} of {}  queued {}  refused {}",
        bytes(top.all.bytes as f64 / seconds),
        top.all.requests as f64 / seconds,
        top.seats.read.taken,
        top.seats.read.limit,
        top.seats.write.taken,
        top.seats.write.limit,
        bytes(top.memory.held as f64),
        bytes(top.memory.limit as f64),
        top.all.queued,
        top.all.refused,
    );
    let other = Row {
        client: "(others)".to_owned(),
        prefix: String::new(),
        rpc: String::new(),
        sums: top.other,
        p50_micros: None,
        p99_micros: None,
    };
    for row in rows.iter().chain((top.other.requests > 0).then_some(&other)) {
        let per = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
        let milliseconds =
            |micros: Option<u64>| micros.map_or("-".to_owned(), |micros| format!("{:.1}", micros as f64 / 1e3));
        table.row([
            row.client.clone(),
            row.prefix.clone(),
            row.rpc.clone(),
            count(row.sums.requests as f64 / seconds),
            count(per(row.sums.objects, row.sums.requests)),
            bytes(per(row.sums.bytes, row.sums.objects.max(row.sums.requests))),
            bytes(row.sums.bytes as f64 / seconds),
            format!("{:.0}", per(row.sums.bytes, top.all.bytes) * 100.0),
            milliseconds(row.p50_micros),
            milliseconds(row.p99_micros),
            row.sums.queued.to_string(),
            row.sums.refused.to_string(),
        ]);
    }
    table
}

/// To stdout; a reader that went away ends what was asked.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Top {
        let text = r#"{"windowSeconds":10.0,"rows":[
            {"client":"ip=10.0.0.1","prefix":"/registry/jobs/","rpc":"Range","requests":4,"objects":1280744,
             "bytes":1400000000,"queued":2,"refused":0,"requestsPerSecond":0.4,"loadBytesPerSecond":1.4e8,
             "p50Micros":41000,"p99Micros":2100000},
            {"client":"ip=10.0.0.2","prefix":"/app/cfg/","rpc":"Put","requests":5000,"objects":5000,"bytes":4500000,
             "queued":0,"refused":7,"requestsPerSecond":500.0,"loadBytesPerSecond":4.5e5,"p50Micros":3000,"p99Micros":null},
            {"client":"ip=10.0.0.2","prefix":"/app/","rpc":"Range","requests":10,"objects":10,"bytes":9000,
             "queued":0,"refused":0,"requestsPerSecond":1.0,"loadBytesPerSecond":900.0,"p50Micros":null,"p99Micros":null}],
            "other":{"requests":1,"objects":0,"bytes":9,"queued":0,"refused":0},
            "all":{"requests":5015,"objects":1285754,"bytes":1404509009,"queued":2,"refused":7},
            "seats":{"read":{"limit":200,"taken":3},"write":{"limit":500,"taken":1}},
            "memory":{"held":1048576,"limit":1073741824}}"#;
        read(text).unwrap()
    }

    #[test]
    fn the_factors_of_the_load_stand_beside_it() {
        let csv = top_table(&answer(), &Arguments::default()).csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[0], "CLIENT,PREFIX,RPC,REQ/s,OBJ/req,B/obj,LOAD/s,%,p50 ms,p99 ms,QUEUED,REFUSED");
        assert_eq!(lines[1], "ip=10.0.0.1,/registry/jobs/,Range,0.4,320186,1.1KiB,133.5MiB,100,41.0,2100.0,2,0");
        assert!(lines[4].starts_with("(others),"));
    }

    #[test]
    fn a_screen_shows_what_stands_first() {
        let shown = drawn("head\nmost\nless\nleast\n", 3);
        assert!(shown.contains("head") && shown.contains("most\x1b[K\n") && !shown.contains("less"), "{shown:?}");
        assert!(drawn("a\nb\n", usize::MAX).contains("b\x1b[K\n"), "no terminal tells less than everything");
    }

    #[test]
    fn rows_can_be_put_together_and_sorted_by_what_matters() {
        let asked = Arguments::read(&["--by=client".to_owned(), "--sort=req".to_owned()]).unwrap();
        let csv = top_table(&answer(), &asked).csv();
        let lines: Vec<_> = csv.lines().skip(1).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("ip=10.0.0.2,,,501,"), "{csv}");
    }

    #[test]
    fn a_tap_shows_what_was_asked_for() {
        let event: Value = serde_json::from_str(
            r#"{"client":"ip=10.0.0.1","rpc":"Range","key":"/a/b","tookMicros":1500,"bytes":2048,"code":"Ok","rule":"default"}"#,
        )
        .unwrap();
        assert!(tapped(&event).trim_start().starts_with("1.500 ms  Range"));
        let wants = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            Arguments::read(&words).unwrap().wants(&event)
        };
        assert!(wants(&[]) && wants(&["--rpc=Range", "--prefix", "/a/", "--slower=1ms"]));
        assert!(!wants(&["--slower", "2ms"]) && !wants(&["--client=other"]) && !wants(&["--rpc=Put"]));
    }
}
