//! What `forebay bench` may be told. etcd's benchmark has many of these flags, by the same names.

use std::{fs::File, io::BufReader, sync::Arc, time::Duration};

use bytes::Bytes;
use forebay_loadtest::{
    abuse::Abuse,
    bench::{
        assertion::Assertion,
        fleet::Share,
        misuse::Misuse,
        replay::Recording,
        run::Plan,
        scenario::{SCENARIOS, Scenario, Shape, prefix_end},
        schedule::Rate,
    },
};

use crate::{
    flags::{
        Problem, go,
        syntax::{self, Given, UsageError},
        table::{Flag, Kind, Slot},
    },
    suggest,
};

/// What was said, before anything of it is made sense of.
#[derive(Clone, Debug)]
pub struct Settings {
    endpoints: Vec<String>,
    compare: Vec<String>,
    pub(super) cacert: String,
    pub(super) cert: String,
    key: String,
    pub(super) insecure_skip_tls_verify: bool,
    user: String,
    password: String,
    pub(super) dial_timeout: go::Duration,
    timeout: go::Duration,
    conns: u64,
    clients: u64,
    processes: u64,
    rate: String,
    closed_loop: bool,
    duration: go::Duration,
    total: u64,
    warm_up: go::Duration,
    rounds: u64,
    seed: u64,
    pub(super) output: String,
    pub(super) report: Vec<String>,
    pub(super) quiet: bool,
    pub(super) check: bool,
    assert: Vec<String>,
    key_prefix: String,
    key_size: u64,
    key_space_size: u64,
    val_size: u64,
    sequential_keys: bool,
    prefix: bool,
    limit: i64,
    keys_only: bool,
    count_only: bool,
    consistency: String,
    stream: bool,
    txn_ops: u64,
    rw_ratio: String,
    streams: u64,
    watch_per_stream: u64,
    watched_key_total: u64,
    prev_kv: bool,
    keys_per_txn: u64,
    write_percent: u64,
    objects: u64,
    bystander_rate: u64,
    all: bool,
    speed: String,
    share: String,
}

const SECOND: i64 = 1_000_000_000;

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            endpoints: vec!["127.0.0.1:2379".to_owned()],
            compare: Vec::new(),
            cacert: String::new(),
            cert: String::new(),
            key: String::new(),
            insecure_skip_tls_verify: false,
            user: String::new(),
            password: String::new(),
            dial_timeout: go::Duration(2 * SECOND),
            timeout: go::Duration(10 * SECOND),
            conns: 10,
            clients: 100,
            processes: 1,
            rate: "1000/s".to_owned(),
            closed_loop: false,
            duration: go::Duration(10 * SECOND),
            total: 0,
            warm_up: go::Duration(SECOND),
            rounds: 0,
            seed: 1,
            output: "text".to_owned(),
            report: Vec::new(),
            quiet: false,
            check: false,
            assert: Vec::new(),
            key_prefix: "bench/".to_owned(),
            key_size: 16,
            key_space_size: 10_000,
            val_size: 256,
            sequential_keys: false,
            prefix: false,
            limit: 0,
            keys_only: false,
            count_only: false,
            consistency: "l".to_owned(),
            stream: false,
            txn_ops: 10,
            rw_ratio: "1".to_owned(),
            streams: 10,
            watch_per_stream: 0,
            watched_key_total: 1,
            prev_kv: false,
            keys_per_txn: 1,
            write_percent: 50,
            objects: 10_000,
            bystander_rate: 200,
            all: false,
            speed: "1".to_owned(),
            share: String::new(),
        }
    }
}

const TARGET: &str = "What is under load";
const LOAD: &str = "How much of it";
const REPORT: &str = "What is told";
const KEYS: &str = "Keys and values";
const RANGE: &str = "range, range-stream, txn-mixed, storm";
const TXN: &str = "txn-put, txn-mixed, stm";
const WATCH: &str = "watch, watch-latency";
const STORM: &str = "storm, abuse";
const REPLAY: &str = "replay";

/// The flags.
#[rustfmt::skip]
pub fn flags() -> Vec<Flag<Settings>> {
    use Slot::{Bool, Choice, Int, List, Text, Uint, Unused};
    let flag = Flag::new;
    vec![
        flag(TARGET, "endpoints", List(|s| &mut s.endpoints), "Where it listens; connections are spread over several."),
        flag(TARGET, "compare", List(|s| &mut s.compare), "Targets that take turns and are compared with the first; instead of --endpoints."),
        flag(TARGET, "cacert", Text(|s| &mut s.cacert), "The authorities that are trusted, for endpoints of https."),
        flag(TARGET, "cert", Text(|s| &mut s.cert), "The certificate that is shown."),
        flag(TARGET, "key", Text(|s| &mut s.key), "Its key; by default it is in the same file."),
        flag(TARGET, "insecure-skip-tls-verify", Bool(|s| &mut s.insecure_skip_tls_verify), "Believe whoever answers."),
        flag(TARGET, "user", Text(|s| &mut s.user), "NAME or NAME:PASSWORD."),
        flag(TARGET, "password", Text(|s| &mut s.password), "The password, if it is not behind the name."),
        flag(TARGET, "dial-timeout", Slot::Duration(|s| &mut s.dial_timeout), "How long a connection may take to open."),
        flag(TARGET, "timeout", Slot::Duration(|s| &mut s.timeout), "How long an answer may take; then it counts as an error."),
        flag(LOAD, "rate", Text(|s| &mut s.rate), "Requests a second: 2000/s, 100..5000 to climb, 500,1000,2000 for steps; 0 for a closed loop."),
        flag(LOAD, "closed-loop", Bool(|s| &mut s.closed_loop), "Each client sends as soon as it has its answer. Such latencies hide what a slow server keeps from being sent."),
        flag(LOAD, "duration", Slot::Duration(|s| &mut s.duration), "How long it is measured, for each target and turn."),
        flag(LOAD, "total", Uint(|s| &mut s.total), "So many requests, without a warm-up, instead of a duration; 0 for that."),
        flag(LOAD, "warm-up", Slot::Duration(|s| &mut s.warm_up), "How long it runs before that."),
        flag(LOAD, "rounds", Uint(|s| &mut s.rounds), "Turns of each target; 0 for 3 with --compare and 1 without."),
        flag(LOAD, "conns", Uint(|s| &mut s.conns), "Connections."),
        flag(LOAD, "clients", Uint(|s| &mut s.clients), "Clients: at most so many requests are under way."),
        flag(LOAD, "processes", Uint(|s| &mut s.processes), "Processes that share the load."),
        flag(LOAD, "seed", Uint(|s| &mut s.seed), "Where chance begins."),
        flag(REPORT, "output", Choice(|s| &mut s.output, &["text", "json", "html", "hgrm"]), "The form of the report on stdout."),
        flag(REPORT, "o", Choice(|s| &mut s.output, &["text", "json", "html", "hgrm"]), "The same."),
        flag(REPORT, "report", List(|s| &mut s.report), "Files to write it to as well, by their endings: .html, .json, .hgrm, .txt."),
        flag(REPORT, "assert", List(|s| &mut s.assert), "Conditions, or the exit status is 1: 'p99<20ms', 'bystander.p99.9<50ms', 'rate>1000', 'errors<0.1%'."),
        flag(REPORT, "check", Bool(|s| &mut s.check), "Record a history beside the load, and check that it is linearizable and that watches kept their promises."),
        flag(REPORT, "quiet", Bool(|s| &mut s.quiet), "Say nothing while it runs."),
        flag(KEYS, "key-prefix", Text(|s| &mut s.key_prefix), "What all keys begin with."),
        flag(KEYS, "key-size", Uint(|s| &mut s.key_size), "Bytes of a key."),
        flag(KEYS, "key-space-size", Uint(|s| &mut s.key_space_size), "How many keys."),
        flag(KEYS, "keys", Uint(|s| &mut s.key_space_size), "The same."),
        flag(KEYS, "val-size", Uint(|s| &mut s.val_size), "Bytes of a value."),
        flag(KEYS, "sequential-keys", Bool(|s| &mut s.sequential_keys), "One key after the other, not some key."),
        flag(RANGE, "prefix", Bool(|s| &mut s.prefix), "Every key that begins with the key that is named."),
        flag(RANGE, "limit", Int(|s| &mut s.limit), "At most so many keys; 0 for all."),
        flag(RANGE, "keys-only", Bool(|s| &mut s.keys_only), "Keys without values."),
        flag(RANGE, "count-only", Bool(|s| &mut s.count_only), "Their number alone."),
        flag(RANGE, "consistency", Choice(|s| &mut s.consistency, &["l", "s"]), "Linearizable, or serializable."),
        flag(RANGE, "stream", Bool(|s| &mut s.stream), "range is range-stream."),
        flag(TXN, "txn-ops", Uint(|s| &mut s.txn_ops), "Puts of a txn."),
        flag(TXN, "rw-ratio", Text(|s| &mut s.rw_ratio), "Reading txns for each writing one."),
        flag(TXN, "keys-per-txn", Uint(|s| &mut s.keys_per_txn), "Keys that a transaction of stm reads."),
        flag(TXN, "txn-wr-percent", Uint(|s| &mut s.write_percent), "How many percent of them it writes."),
        flag(WATCH, "streams", Uint(|s| &mut s.streams), "Streams that watch."),
        flag(WATCH, "watch-per-stream", Uint(|s| &mut s.watch_per_stream), "Watchers of each; 0 for 100 with watch and 10 with watch-latency."),
        flag(WATCH, "watchers-per-stream", Uint(|s| &mut s.watch_per_stream), "The same."),
        flag(WATCH, "watched-key-total", Uint(|s| &mut s.watched_key_total), "How many keys are watched."),
        flag(WATCH, "prevkv", Bool(|s| &mut s.prev_kv), "Watchers want previous values."),
        flag(WATCH, "put-rate", Text(|s| &mut s.rate), "As --rate."),
        flag(WATCH, "put-total", Uint(|s| &mut s.total), "As --total."),
        flag(STORM, "objects", Uint(|s| &mut s.objects), "Keys that are listed, all of them each time; abuse does more of everything where there are more."),
        flag(STORM, "bystander-rate", Uint(|s| &mut s.bystander_rate), "Puts a second of somebody whom it should not disturb."),
        flag(STORM, "all", Bool(|s| &mut s.all), "Every kind of abuse, one after the other; so it is if none is named."),
        flag(REPLAY, "speed", Text(|s| &mut s.speed), "How many times as fast as it was recorded."),
        flag("", "sample", Unused(Kind::Bool, SECONDS), ""),
        flag("", "precise", Unused(Kind::Bool, DIGITS), ""),
        flag("", "report-perfdash", Unused(Kind::Bool, JSON), ""),
        flag("", "auto-sync-interval", Unused(Kind::Duration, "endpoints are those that are named"), ""),
        flag("", "isolation", Unused(Kind::Choice(&["c", "r", "s", "ss"]), "transactions of stm compare all that they read"), ""),
        flag("", "stm-locker", Unused(Kind::Choice(&["stm", "lock-client", "lock-rpc"]), "transactions of stm compare all that they read"), ""),
        flag("", "share", Slot::Text(|s| &mut s.share), ""),
    ]
}

const SECONDS: &str = "every second is in the report";
const DIGITS: &str = "every figure has its digits";
const JSON: &str = "-o json has every figure";

/// What is to be done.
pub struct Bench {
    pub plan: Plan,
    pub settings: Settings,
    /// The endpoints of each target.
    pub targets: Vec<Vec<String>>,
    pub user: Option<(String, String)>,
    pub rounds: usize,
    pub processes: usize,
    pub assertions: Vec<Assertion>,
    /// This is one of several processes.
    pub share: Option<Share>,
}

/// What the words ask for.
pub enum Asked {
    Help,
    Run(Box<Bench>),
}

/// Reads the words after `forebay bench`. Flags may stand before, between and behind the others.
pub fn read(args: &[String]) -> Result<Asked, Vec<Problem>> {
    let table = flags();
    let (mut settings, mut problems, mut words) = (Settings::default(), Vec::new(), Vec::new());
    let mut rest = args.to_vec();
    loop {
        let Given { rest: after, help, errors, .. } = syntax::parse(&table, &mut settings, &rest);
        if help {
            return Ok(Asked::Help);
        }
        problems.extend(errors.into_iter().map(|UsageError { text, hint }| Problem { text, hint }));
        let Some((word, after)) = after.split_first() else { break };
        words.push(word.clone());
        rest = after.to_vec();
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    settings.bench(&words).map(|bench| Asked::Run(Box::new(bench)))
}

impl Settings {
    /// The file of the key that goes with the certificate.
    pub(super) fn key_file(&self) -> &str {
        if self.key.is_empty() { &self.cert } else { &self.key }
    }

    /// The endpoints of each target.
    pub(super) fn targets(&self) -> Vec<Vec<String>> {
        if self.compare.is_empty() {
            return vec![self.endpoints.clone()];
        }
        self.compare.iter().map(|endpoint| vec![endpoint.clone()]).collect()
    }

    fn bench(self, words: &[String]) -> Result<Bench, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |problem: Problem| problems.push(problem);
        let scenario = scenario(words, self.stream).map_err(&mut wrong).unwrap_or(Scenario::Put);
        let range = self.range(scenario, words).map_err(&mut wrong).unwrap_or_default();
        let parsed_rate: Result<Rate, String> = self.rate.parse();
        let rate = parsed_rate.map_err(|error| wrong(Problem::new(error))).ok();
        let ratio = self.rw_ratio.parse::<f64>().ok().filter(|ratio| ratio.is_finite() && *ratio >= 0.0);
        if ratio.is_none() {
            wrong(Problem::new(format!("--rw-ratio={} is no ratio", self.rw_ratio)).hint("write a number such as 0.5"));
        }
        let assertions = self
            .assert
            .iter()
            .filter_map(|text| text.parse::<Assertion>().map_err(|error| wrong(Problem::new(error))).ok());
        let assertions: Vec<Assertion> = assertions.collect();
        let share = match self.share.as_str() {
            "" => None,
            text => text.parse::<Share>().map_err(|error| wrong(Problem::new(error))).ok(),
        };
        for (flag, count) in [("conns", self.conns), ("clients", self.clients), ("processes", self.processes)] {
            if count == 0 || count > 1_000_000 {
                wrong(Problem::new(format!("--{flag}={count} is not between 1 and 1000000")));
            }
        }
        for (flag, size) in [("val-size", self.val_size), ("key-size", self.key_size)] {
            if size > 64 << 20 {
                wrong(Problem::new(format!("--{flag}={size} is more than 64 MiB")));
            }
        }
        let misuse = self.misuse(scenario, words).map_err(&mut wrong).unwrap_or_default();
        let recording = self.recording(scenario, words).map_err(&mut wrong).unwrap_or_default();
        if !problems.is_empty() {
            return Err(problems);
        }
        let user = match self.user.split_once(':') {
            _ if self.user.is_empty() => None,
            Some((name, password)) => Some((name.to_owned(), password.to_owned())),
            None => Some((self.user.clone(), self.password.clone())),
        };
        let is_replay = scenario == Scenario::Replay;
        let recorded = recording.iter().flat_map(|recording| recording.times()).max().unwrap_or_default();
        let is_closed = self.closed_loop || rate.as_ref().is_none_or(Rate::is_zero);
        let plan = Plan {
            scenario,
            shape: Arc::new(Shape { recording, ..self.shape(scenario, range, ratio.unwrap_or(1.0)) }),
            connections: usize::try_from(self.conns).expect("checked above"),
            clients: usize::try_from(self.clients).expect("checked above"),
            rate: rate.filter(|_| !is_closed),
            // A number of requests is all of them, and time is no limit then. So it is with what was recorded.
            warm_up: if self.total > 0 || is_replay { Duration::ZERO } else { self.warm_up.to_std() },
            duration: match misuse.entries.len() {
                0 if self.total > 0 => FOREVER,
                0 if is_replay => recorded,
                // Each entry has the whole of it.
                entries => self.duration.to_std() * u32::try_from(entries.max(1)).expect("there are few"),
            },
            misuse,
            total: if self.total > 0 { self.total } else { u64::MAX },
            timeout: self.timeout.to_std(),
            seed: self.seed,
            begin: None,
        };
        let rounds = match (self.rounds, self.compare.is_empty()) {
            (0, true) => 1,
            (0, false) => 3,
            (rounds, _) => usize::try_from(rounds).unwrap_or(usize::MAX),
        };
        let processes = usize::try_from(self.processes).expect("checked above");
        Ok(Bench { plan, targets: self.targets(), settings: self, user, rounds, processes, assertions, share })
    }

    fn shape(&self, scenario: Scenario, range: Option<(Bytes, Bytes)>, ratio: f64) -> Shape {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        Shape {
            prefix: self.key_prefix.clone(),
            key_size: size(self.key_size),
            value_size: size(self.val_size),
            key_space: self.key_space_size,
            sequential: self.sequential_keys,
            range,
            limit: self.limit,
            serializable: self.consistency == "s",
            keys_only: self.keys_only,
            count_only: self.count_only,
            txn_ops: size(self.txn_ops),
            read_write_ratio: ratio,
            streams: size(self.streams),
            watchers_per_stream: match (self.watch_per_stream, scenario) {
                (0, Scenario::WatchLatency) => 10,
                (0, _) => 100,
                (given, _) => size(given),
            },
            watched_keys: self.watched_key_total,
            prev_kv: self.prev_kv,
            keys_per_txn: size(self.keys_per_txn),
            write_percent: u32::try_from(self.write_percent.min(100)).expect("a percentage"),
            objects: self.objects,
            bystander_rate: self.bystander_rate as f64,
            recording: None,
        }
    }

    /// The entries of the catalogue that the words name.
    fn misuse(&self, scenario: Scenario, words: &[String]) -> Result<Misuse, Problem> {
        if scenario != Scenario::Abuse {
            return Ok(Misuse::default());
        }
        if self.total > 0 {
            return Err(Problem::new("--total says nothing of abuse").hint("--duration is how long each kind goes on"));
        }
        let named = |word: &String| {
            Abuse::named(word).ok_or_else(|| {
                let names = Abuse::ALL.map(Abuse::name);
                let near = suggest::nearest(word, names);
                let hint =
                    near.map_or_else(|| format!("there is {}", names.join(", ")), |n| format!("did you mean {n}?"));
                Problem::new(format!("there is no abuse {}", go::quote(word))).hint(hint)
            })
        };
        let mut entries = words[1..].iter().map(named).collect::<Result<Vec<_>, _>>()?;
        if self.all || entries.is_empty() {
            entries = Abuse::ALL.to_vec();
        }
        Ok(Misuse { entries, size: self.objects as f64 / OBJECTS_OF_ABUSE })
    }

    /// The recording that the words name.
    fn recording(&self, scenario: Scenario, words: &[String]) -> Result<Option<Arc<Recording>>, Problem> {
        if scenario != Scenario::Replay {
            return Ok(None);
        }
        let [_, path] = words else {
            return Err(Problem::new("replay needs a recording")
                .hint("write replay FILE, with a file that `forebay tap -o json > FILE` wrote"));
        };
        if self.closed_loop {
            return Err(Problem::new("a replay has the pace of its recording").hint("--speed 10 is ten times as fast"));
        }
        let speed = self.speed.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
        let speed = speed.ok_or_else(|| Problem::new(format!("--speed={} is no speed", self.speed)))?;
        let file = File::open(path).map_err(|error| Problem::new(format!("cannot read {path}: {error}")))?;
        let recording = Recording::read(BufReader::new(file))
            .map_err(|error| Problem::new(format!("{path}: {error:#}")).hint("`forebay tap -o json` writes them"))?;
        Ok(Some(Arc::new(recording.at_speed(speed))))
    }

    /// The range that the words name, as etcd's benchmark takes it: a key, and an end.
    fn range(&self, scenario: Scenario, words: &[String]) -> Result<Option<(Bytes, Bytes)>, Problem> {
        let takes_range = matches!(scenario, Scenario::Range | Scenario::RangeStream);
        match words.get(1..).unwrap_or_default() {
            [] => Ok(None),
            _ if matches!(scenario, Scenario::Abuse | Scenario::Replay) => Ok(None),
            [key] if takes_range && self.prefix => Ok(Some((key.clone().into(), prefix_end(key)))),
            [key] if takes_range => Ok(Some((key.clone().into(), Bytes::new()))),
            [key, end] if takes_range => Ok(Some((key.clone().into(), end.clone().into()))),
            [.., word] => Err(Problem::new(format!("{scenario} takes no word {}", go::quote(word)))),
        }
    }
}

/// Objects that are listed where abuse has its full size.
const OBJECTS_OF_ABUSE: f64 = 20_000.0;

/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

fn scenario(words: &[String], stream: bool) -> Result<Scenario, Problem> {
    let names = || SCENARIOS.map(|(name, _)| name).join(", ");
    let Some(word) = words.first() else {
        return Err(Problem::new("bench needs to know which load").hint(format!("write one of {}", names())));
    };
    match word.parse() {
        Ok(Scenario::Range) if stream => Ok(Scenario::RangeStream),
        Ok(scenario) => Ok(scenario),
        Err(error) => {
            let near = suggest::nearest(word, SCENARIOS.map(|(name, _)| name));
            let hint = near.map_or_else(|| format!("there is {}", names()), |near| format!("did you mean {near}?"));
            Err(Problem::new(error).hint(hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bench(line: &str) -> Result<Bench, Vec<Problem>> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match read(&words)? {
            Asked::Run(bench) => Ok(*bench),
            Asked::Help => panic!("{line} asks for no help"),
        }
    }

    #[test]
    fn a_line_of_etcds_benchmark_is_understood() {
        let bench = bench(
            "--endpoints=a:1,b:2 --conns=5 --clients=50 --precise put --key-size=8 --sequential-keys --total=1000 \
             --val-size=64 --rate 300 --key-space-size 77",
        )
        .unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!((bench.plan.scenario, bench.plan.connections, bench.plan.clients), (Scenario::Put, 5, 50));
        assert_eq!((bench.plan.total, bench.plan.shape.key_space, bench.plan.shape.value_size), (1000, 77, 64));
        assert!(
            bench.plan.warm_up.is_zero() && bench.plan.duration == FOREVER,
            "all are counted, however long it takes"
        );
        assert_eq!(bench.targets, [["a:1", "b:2"]]);
        assert!(bench.plan.shape.sequential && bench.plan.rate.is_some());
    }

    #[test]
    fn targets_to_compare_take_three_turns() {
        let bench = bench("put --compare a:1,b:2").unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!((bench.targets.len(), bench.rounds), (2, 3));
    }

    #[test]
    fn a_range_is_named_by_words() {
        let range = |line: &str| bench(line).map(|bench| bench.plan.shape.range.clone()).ok().flatten();
        let pair = |key: &'static str, end: &'static str| Some((Bytes::from(key), Bytes::from(end)));
        assert_eq!(range("range a"), pair("a", ""));
        assert_eq!(range("range a z"), pair("a", "z"));
        assert_eq!(range("range --prefix a/ "), pair("a/", "a0"));
        assert_eq!(range("range"), None);
    }

    #[test]
    fn kinds_of_abuse_are_named_by_words_and_each_has_its_time() {
        let some = bench("abuse list-all key-spray --duration 5s --objects 5000")
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(some.plan.misuse, Misuse { entries: vec![Abuse::ListAll, Abuse::KeySpray], size: 0.25 });
        assert_eq!(some.plan.duration, Duration::from_secs(10));
        let all = bench("abuse --all").unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(all.plan.misuse.entries, Abuse::ALL);
        let problems = bench("abuse list-al").err().expect("there is none");
        assert_eq!(problems[0].hint.as_deref(), Some("did you mean list-all?"));
        assert!(bench("abuse --total 5").is_err());
    }

    #[test]
    fn a_replay_takes_the_time_of_its_recording() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let line = |at: u32| format!(r#"{{"atMicros": {at}, "rpc": "Range", "request": {{"key": "YQ=="}}}}"#);
        std::fs::write(file.path(), format!("{}\n{}\n", line(1_000_000), line(9_000_000))).expect("it is written");
        let replay = |flags: &str| bench(&format!("replay {} {flags}", file.path().display()));
        let plan = replay("--speed 2").unwrap_or_else(|problems| panic!("{problems:?}")).plan;
        assert_eq!((plan.duration, plan.warm_up), (Duration::from_secs(4), Duration::ZERO));
        assert!(replay("--speed 0").is_err() && replay("--closed-loop").is_err() && bench("replay").is_err());
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let problems = bench("ptu --rate fast --conns 0 --assert p99").err().expect("four things are wrong");
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert_eq!(problems[0].hint.as_deref(), Some("did you mean put?"));
    }
}
