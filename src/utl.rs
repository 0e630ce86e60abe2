//! `forebay utl`: etcdutl, etcd-dump-db and etcd-dump-logs in one, by their own names too.
//!
//! What is done stands in the crate `forebay-utl`; here are words, flags and shapes of output.

mod arguments;
pub mod dump_db;
pub mod dump_logs;
pub mod heal;
pub mod live;
pub mod offline;
pub mod snapshot;
pub mod space;

use std::{
    io::{self, BufWriter, Write as _},
    process::ExitCode,
};

use forebay_utl::Error;

use crate::{
    flags::{Problem, go::quote},
    help, suggest, version,
};

/// Why a command ends without a result.
#[derive(Debug)]
pub enum Failure {
    /// The command line cannot be read.
    Usage(Vec<Problem>),
    /// It cannot be done.
    Failed(Problem),
    /// The reader of the output went away.
    Unread,
}

impl Failure {
    fn usage(text: impl Into<String>) -> Failure {
        Failure::Usage(vec![Problem::new(text).hint("`forebay help utl` tells how")])
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        if let Error::Output(error) = error {
            return error.into();
        }
        Failure::Failed(Problem { text: error.to_string(), hint: error.hint() })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::Unread,
            _ => Failure::Failed(Problem::new(format!("cannot write the output: {error}"))),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Failed(Problem::new(format!("{error:#}")))
    }
}

type Done = Result<(), Failure>;

/// What a command writes to.
type Out<'o> = &'o mut dyn io::Write;

const COMMANDS: [&str; 10] =
    ["snapshot", "hashkv", "check", "heal", "space", "dump-logs", "dump-db", "defrag", "migrate", "version"];

/// Does what the words after `forebay utl` ask for. Nothing is written to standard error but by `complain`.
pub fn run(args: &[String], complain: impl Fn(&[Problem])) -> ExitCode {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = dispatch(args, &mut out).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Usage(problems)) => {
            complain(&problems);
            ExitCode::from(2)
        }
        Err(Failure::Failed(problem)) => {
            // What was printed before the failure comes before its reason.
            let _ = out.flush();
            complain(&[problem]);
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String], out: Out<'_>) -> Done {
    let (shape, args) = arguments::shape(args)?;
    let Some((command, rest)) = args.split_first() else { return Err(Failure::usage("utl needs a command")) };
    match command.as_str() {
        "-h" | "--help" | "-help" | "help" => Ok(out.write_all(help::utl().as_bytes())?),
        "snapshot" => snapshot::run(rest, shape, out),
        "hashkv" => offline::hashkv(rest, shape, out),
        "check" => offline::check(rest, shape, out),
        "heal" => heal::run(rest, out),
        "space" => space::run(rest, shape, out),
        "defrag" => offline::defrag(rest, out),
        "migrate" => offline::migrate(rest, out),
        "dump-logs" => dump_logs::run(rest, shape, out),
        "dump-db" => dump_db::run(rest, out),
        "version" => {
            let [etcd, api] = [version::ETCD_VERSION, version::API_VERSION];
            Ok(write!(out, "etcdutl version: {etcd}\nAPI version: {api}\n")?)
        }
        other => Err(unknown("command", other, &COMMANDS)),
    }
}

/// A word that is none of those there are.
fn unknown(what: &str, word: &str, words: &[&str]) -> Failure {
    let hint = match suggest::nearest(word, words.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("there is {}", words.join(", ")),
    };
    Failure::Usage(vec![Problem::new(format!("unknown {what} {}", quote(word))).hint(hint)])
}
