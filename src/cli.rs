//! The commands, and how the process ends.
//!
//! Exit statuses are etcd's: 0 for what was printed or stopped in order, 2 for a command line that cannot be read, 1
//! for everything that keeps a role from running, and the signal itself when one stopped it.

use std::{
    future::Future,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::{
    bench, completion, dashboards, demo, doctor,
    flags::{Asked, Environment, Failure, FailureKind, Problem, etcd, gateway, go::quote, server, syntax, up},
    help,
    logging::{Level, LogConfig, Logger},
    manual, observe, openapi,
    policy::{self, Report},
    roles::{self, Ended},
    signals, suggest, utl, version,
};

/// What the first words ask for; the rest is the role's to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    Up(&'a [String]),
    Server(&'a [String]),
    Gateway(&'a [String]),
    Top(&'a [String]),
    Quota(&'a [String]),
    Tap(&'a [String]),
    Policy(&'a [String]),
    Utl(Vec<String>),
    Bench(&'a [String]),
    Doctor(&'a [String]),
    Dashboards(&'a [String]),
    Demo(&'a [String]),
    Completion(&'a [String]),
    Man(&'a [String]),
    OpenApi,
    Version,
    Help(Option<&'a str>),
}

/// Every word that a command line may start with.
pub const COMMANDS: [&str; 17] = [
    "up",
    "server",
    "gateway",
    "top",
    "quota",
    "tap",
    "policy",
    "utl",
    "bench",
    "doctor",
    "demo",
    "dashboards",
    "completion",
    "man",
    "openapi",
    "version",
    "help",
];

/// The tools of etcd that `forebay utl` is too, when it is called by their names.
const TOOLS: [(&str, &[&str]); 3] =
    [("etcdutl", &[]), ("etcd-dump-db", &["dump-db"]), ("etcd-dump-logs", &["dump-logs"])];

impl Command<'_> {
    /// Reads the first words. `arguments` begin with the program's name, which decides too.
    pub fn read(arguments: &[String]) -> Result<Command<'_>, (u8, Problem)> {
        let (program, rest) = arguments.split_first().map_or(("forebay", [].as_slice()), |(name, rest)| (name, rest));
        let first = rest.first().map(String::as_str);
        let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((_, words)) = TOOLS.iter().find(|(tool, _)| *tool == name) {
            return Ok(Command::Utl(words.iter().map(|word| (*word).to_owned()).chain(rest.iter().cloned()).collect()));
        }
        if name == "etcd" {
            return match first {
                Some(proxy @ ("gateway" | "grpc-proxy")) => Err((
                    1,
                    Problem::new(format!("etcd's {proxy} is not built in"))
                        .hint("`forebay gateway --endpoints ...` stands in front of an etcd"),
                )),
                _ => Ok(Command::Server(rest)),
            };
        }
        let Some((first, after)) = rest.split_first() else { return Ok(Command::Up(rest)) };
        match first.as_str() {
            "up" => Ok(Command::Up(after)),
            "server" => Ok(Command::Server(after)),
            "gateway" => Ok(Command::Gateway(after)),
            "top" => Ok(Command::Top(after)),
            "quota" => Ok(Command::Quota(after)),
            "tap" => Ok(Command::Tap(after)),
            "policy" => Ok(Command::Policy(after)),
            "utl" => Ok(Command::Utl(after.to_vec())),
            "bench" => Ok(Command::Bench(after)),
            "doctor" => Ok(Command::Doctor(after)),
            "completion" => Ok(Command::Completion(after)),
            "man" => Ok(Command::Man(after)),
            "openapi" => Ok(Command::OpenApi),
            "demo" => Ok(Command::Demo(after)),
            "dashboards" => Ok(Command::Dashboards(after)),
            "version" | "--version" | "-version" | "-V" => Ok(Command::Version),
            "help" => Ok(Command::Help(after.first().map(String::as_str))),
            "--help" | "-help" | "-h" => Ok(Command::Help(None)),
            flag if flag.starts_with('-') => Ok(Command::Up(rest)),
            other => {
                let hint = match suggest::nearest(other, COMMANDS) {
                    Some(near) => format!("did you mean `forebay {near}`? `forebay help` lists the commands"),
                    None => "`forebay help` lists the commands".to_owned(),
                };
                Err((2, Problem::new(format!("unknown command {}", quote(other))).hint(hint)))
            }
        }
    }
}

/// Does what the command line asks for.
pub fn run(arguments: &[String], env: &Environment) -> ExitCode {
    match Command::read(arguments) {
        Ok(Command::Up(args)) => start(&UP, up::load(args, env, server::default_host()), |c| &c.log, roles::up),
        Ok(Command::Server(args)) => {
            start(&SERVER, etcd::load(args, env, server::default_host()), |c| &c.log, roles::server)
        }
        Ok(Command::Gateway(args)) => start(&GATEWAY, gateway::load(args, env), |c| &c.log, roles::gateway),
        Ok(Command::Top(args)) => ask("top", observe::top(args)),
        Ok(Command::Quota(args)) => ask("quota", observe::quota(args)),
        Ok(Command::Tap(args)) => ask("tap", observe::tap(args)),
        Ok(Command::Utl(args)) => utl::run(&args, |problems| complain("utl", problems)),
        Ok(Command::Bench(args)) => bench::run(args).unwrap_or_else(|(status, problems)| {
            complain("bench", &problems);
            ExitCode::from(status)
        }),
        Ok(Command::Policy(args)) => tell("policy", &policy::run(args)),
        Ok(Command::Doctor(args)) => tell("doctor", &doctor::run(args)),
        Ok(Command::Completion(args)) => tell("completion", &completion::run(args)),
        Ok(Command::Man(args)) => tell("man", &manual::run(args)),
        Ok(Command::OpenApi) => print(&openapi::text()),
        Ok(Command::Demo(args)) => tell("demo", &demo::run(args)),
        Ok(Command::Dashboards(args)) => tell("dashboards", &dashboards::run(args)),
        Ok(Command::Version) => print(&version::page()),
        Ok(Command::Help(None)) => print(&help::overview()),
        Ok(Command::Help(Some(topic))) => match help::topic(topic) {
            Some(page) => print(&page),
            None => {
                let hint = match suggest::nearest(topic, help::TOPICS.iter().copied()) {
                    Some(near) => format!("did you mean `forebay help {near}`?"),
                    None => format!("there is {}", help::TOPICS.join(", ")),
                };
                complain("forebay", &[Problem::new(format!("no help on {}", quote(topic))).hint(hint)]);
                ExitCode::from(2)
            }
        },
        Err((status, problem)) => {
            complain("forebay", &[problem]);
            ExitCode::from(status)
        }
    }
}

/// How a role speaks before it runs.
struct Role {
    name: &'static str,
    help: fn() -> String,
    /// Whether refusals are log lines, as etcd's are, or sentences.
    logs_refusals: bool,
}

const UP: Role = Role { name: "up", help: help::up, logs_refusals: false };
const SERVER: Role = Role { name: "server", help: help::server, logs_refusals: true };
const GATEWAY: Role = Role { name: "gateway", help: help::gateway, logs_refusals: false };

fn start<C, F: Future<Output = anyhow::Result<Ended>>>(
    role: &Role,
    asked: Result<Asked<C>, Box<Failure>>,
    log_of: fn(&C) -> &LogConfig,
    run: fn(C) -> F,
) -> ExitCode {
    let ready = match asked {
        Ok(Asked::Help) => return print(&(role.help)()),
        Ok(Asked::Version) => return print(&version::page()),
        Ok(Asked::Print(text)) => return print(&text),
        Ok(Asked::Run(ready)) => ready,
        Err(failure) => return refuse(role, *failure),
    };
    let logger = match Logger::open(log_of(&ready.config)) {
        Ok(logger) => logger,
        Err(error) => {
            let problem = Problem::new(error).hint("--log-outputs takes stderr, stdout and files");
            let failure = Failure { problems: vec![problem], notices: ready.notices, kind: FailureKind::Invalid };
            return refuse(role, failure);
        }
    };
    logger.install();
    logger.write(
        Level::Info,
        "starting forebay",
        &[
            ("role", role.name.to_owned()),
            ("version", version::FOREBAY_VERSION.to_owned()),
            ("etcd-version", version::ETCD_VERSION.to_owned()),
        ],
    );
    for notice in &ready.notices {
        logger.notice(notice);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            logger.write(Level::Fatal, "cannot start threads", &[("error", error.to_string())]);
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(ready.config));
    // What still runs has been told to stop; a task that blocks must not keep the process.
    runtime.shutdown_background();
    match ended {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Told(stop)) => signals::end_by(stop),
        Err(error) => {
            logger.write(Level::Fatal, &format!("{} failed", role.name), &[("error", format!("{error:#}"))]);
            ExitCode::FAILURE
        }
    }
}

/// Ends a command that found something.
fn tell(name: &str, report: &Report) -> ExitCode {
    let printed = print(&report.page);
    complain(name, &report.problems);
    if report.status == 0 { printed } else { ExitCode::from(report.status) }
}

/// Ends a command that asked a gateway something.
fn ask(name: &str, answered: Result<ExitCode, Problem>) -> ExitCode {
    answered.unwrap_or_else(|problem| {
        complain(name, &[problem]);
        ExitCode::FAILURE
    })
}

/// Says why a role does not run.
fn refuse(role: &Role, failure: Failure) -> ExitCode {
    let status = ExitCode::from(failure.kind.exit_status());
    if !role.logs_refusals || failure.kind == FailureKind::Usage {
        let name = if failure.kind == FailureKind::Usage && role.logs_refusals { "" } else { role.name };
        complain(name, &failure.problems);
        if failure.kind == FailureKind::Usage {
            say(&format!("`forebay help {}` lists every flag.\n", role.name));
        }
        return status;
    }
    let Ok(logger) = Logger::open(&LogConfig::default()) else { return status };
    for notice in &failure.notices {
        logger.notice(notice);
    }
    for Problem { text, hint } in failure.problems {
        let hint = hint.map(|hint| ("hint", hint));
        if failure.kind == FailureKind::Conflict {
            logger.write(Level::Fatal, &text, &hint.into_iter().collect::<Vec<_>>());
        } else {
            let fields: Vec<_> = [("error", text)].into_iter().chain(hint).collect();
            logger.write(Level::Warn, "failed to verify flags", &fields);
        }
    }
    status
}

/// One sentence a problem, and what to do about it in the next line.
fn complain(who: &str, problems: &[Problem]) {
    say(&sentences(who, problems));
}

/// What comes from outside, an argument or a variable, moves no cursor and begins no line.
fn sentences(who: &str, problems: &[Problem]) -> String {
    let prefix = if who.is_empty() { String::new() } else { format!("{who}: ") };
    let mut sentences = String::new();
    for Problem { text, hint } in problems {
        sentences += &format!("{prefix}{}\n", syntax::one_line(text));
        if let Some(hint) = hint {
            sentences += &format!("  {}\n", syntax::one_line(hint));
        }
    }
    sentences
}

/// To stderr; nobody is told when that is closed.
fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// To stdout. A reader that went away early, like `head`, is no failure.
pub(crate) fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn the_first_word_picks_the_command() {
        for (line, want) in [
            ("forebay", "Up([])"),
            ("/usr/bin/forebay --name=a", "Up([\"--name=a\"])"),
            ("forebay up --name=a", "Up([\"--name=a\"])"),
            ("forebay server --name a", "Server([\"--name\", \"a\"])"),
            ("forebay gateway", "Gateway([])"),
            ("forebay policy check a.yaml", "Policy([\"check\", \"a.yaml\"])"),
            ("forebay bench put", "Bench([\"put\"])"),
            ("forebay version", "Version"),
            ("forebay --version", "Version"),
            ("forebay -h", "Help(None)"),
            ("forebay help server", "Help(Some(\"server\"))"),
            ("/usr/local/bin/etcd", "Server([])"),
            ("etcd server", "Server([\"server\"])"),
            ("etcd --version", "Server([\"--version\"])"),
            ("forebay utl hashkv db", "Utl([\"hashkv\", \"db\"])"),
            ("/bin/etcdutl hashkv db", "Utl([\"hashkv\", \"db\"])"),
            ("etcd-dump-db hash d", "Utl([\"dump-db\", \"hash\", \"d\"])"),
            ("etcd-dump-logs d", "Utl([\"dump-logs\", \"d\"])"),
        ] {
            let words = words(line);
            assert_eq!(format!("{:?}", Command::read(&words).expect("a command")), want, "{line}");
        }
        assert_eq!(Command::read(&[]), Ok(Command::Up(&[])));
    }

    #[test]
    fn a_problem_is_one_line_and_its_hint_another() {
        let problem = Problem::new("no \u{1b}[31msuch\nflag: é").hint("try\r\nthis");
        assert_eq!(sentences("up", &[problem]), "up: no \\u{1b}[31msuch\\nflag: é\n  try\\r\\nthis\n");
    }

    #[test]
    fn an_unknown_command_names_the_nearest() {
        let line = words("forebay gatway");
        let (status, problem) = Command::read(&line).expect_err("no such command");
        assert_eq!((status, problem.text.as_str()), (2, "unknown command \"gatway\""));
        assert!(problem.hint.expect("a hint").contains("`forebay gateway`"));
    }

    #[test]
    fn etcds_other_commands_are_refused_by_name() {
        for proxy in ["gateway", "grpc-proxy"] {
            let line = words(&format!("etcd {proxy} start"));
            let (status, problem) = Command::read(&line).expect_err("not built in");
            assert_eq!(status, 1);
            assert!(problem.text.contains(proxy));
        }
    }
}
