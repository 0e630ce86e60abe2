//! etcd's own command line, of several releases, against the reference and a target.
//!
//! Every line of the [script] runs on both; exit code and output must be equal once what depends on the run
//! is masked. What counts as that is listed in [`masks`].

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    outcome::{Names, Step},
    peers::{self, Release},
    runner::{Pair, judge},
    session::Session,
    target::{Kind, Target},
};

mod masks;
mod script;

pub use script::{Line, script};

/// How long one line may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Runs the script with the etcdctl of a release; the text of every difference.
pub async fn check(kind: Kind, release: Release) -> anyhow::Result<Vec<String>> {
    let etcdctl = release.etcdctl().context(peers::INSTALL)?;
    let Pair { reference, target } = Pair::start(kind, &[]).await?;
    let one = |(target, session): (Target, Session)| {
        let (etcdctl, lines) = (etcdctl.clone(), script(release));
        tokio::task::spawn_blocking(move || {
            let runner = Runner::new(&etcdctl, &target, session.names)?;
            runner.run(&lines)
        })
    };
    let (theirs, ours) = tokio::join!(one(reference), one(target));
    Ok(judge(kind, &format!("etcdctl {release}"), &theirs??, &ours??))
}

struct Runner<'a> {
    etcdctl: &'a Path,
    endpoint: String,
    names: Names,
    /// Where snapshots go.
    dir: TempDir,
    /// The id of the last lease that was granted.
    lease: String,
}

impl Runner<'_> {
    fn new<'a>(etcdctl: &'a PathBuf, target: &Target, mut names: Names) -> anyhow::Result<Runner<'a>> {
        let dir = TempDir::with_prefix("conformance-etcdctl-")?;
        names.text(&dir.path().display().to_string(), "folder");
        Ok(Runner { etcdctl, endpoint: target.client.to_string(), names, dir, lease: String::new() })
    }

    fn run(mut self, lines: &[Line]) -> anyhow::Result<Vec<Step>> {
        lines.iter().map(|line| self.run_line(line)).collect()
    }

    fn run_line(&mut self, line: &Line) -> anyhow::Result<Step> {
        let folder = self.dir.path().display().to_string();
        let args: Vec<String> =
            line.args.iter().map(|arg| arg.replace("{lease}", &self.lease).replace("{folder}", &folder)).collect();
        let mut command = Command::new(self.etcdctl);
        command.args(["--endpoints", &self.endpoint, "--command-timeout", "5s"]).args(&args);
        command.env("ETCDCTL_API", "3").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", self.etcdctl.display()))?;
        // Dropped at once, so that the command reads to its end.
        child.stdin.take().context("stdin is piped")?.write_all(line.stdin.as_bytes())?;
        let Output { exit, stdout, stderr } = collect(child, line.until)?;
        // "lease 694d8c1f granted with TTL(100s)"
        if let Some(("lease", rest)) = stdout.split_once(' ')
            && let Some((id, "granted")) = rest.split_once(' ').map(|(id, rest)| (id, &rest[..7]))
        {
            self.lease = id.to_owned();
        }
        let mask = |text: &str| -> Value { masks::mask(&self.names, text, line.numbers).into() };
        let outcome = json!({ "exit": exit, "stdout": mask(&stdout), "stderr": mask(&stderr) });
        Ok(Step { call: format!("etcdctl {}", line.args.join(" ")), outcome })
    }
}

struct Output {
    exit: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Waits for the end, or for so many lines of a command that has none.
fn collect(mut child: Child, until: Option<usize>) -> anyhow::Result<Output> {
    let (send, lines) = mpsc::channel();
    let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let reader = std::thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let mut stderr_pipe = child.stderr.take().context("stderr is piped")?;
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        // What is not text is not etcdctl's.
        let _ = stderr_pipe.read_to_string(&mut text);
        text
    });
    let deadline = Instant::now() + LIMIT;
    let mut stdout = Vec::new();
    let finished = loop {
        if until.is_some_and(|until| stdout.len() >= until) {
            break false;
        }
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => stdout.push(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    if !finished {
        child.kill()?;
    }
    let exit = child.wait()?.code();
    drop(lines);
    reader.join().expect("reading lines does not panic");
    let stderr = errors.join().expect("reading text does not panic");
    Ok(Output { exit, stdout: stdout.join("\n"), stderr })
}
