//! A load from several processes: one alone may not be fast enough, or have too few ports.
//!
//! Each is this program again with the same arguments and a share of the work. It writes what it measured to its
//! standard output, an [`Interval`] of JSON in a line for each second, and at last how long it ran.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::{meter::Interval, run::Plan};

/// How long the processes have to start and to connect before all of them begin at once.
const MUSTER: Duration = Duration::from_millis(1500);

/// How to start the others.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// This program.
    pub program: PathBuf,
    /// What it was told.
    pub arguments: Vec<String>,
    /// How many there are.
    pub processes: usize,
}

/// What is said to one of them: the flag behind which this stands in the form of its text.
pub const SHARE: &str = "--share";

/// The part of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which process this is.
    pub index: usize,
    /// Of how many.
    pub processes: usize,
    /// Which target is meant, by its place.
    pub target: usize,
    /// When to begin.
    pub begin: SystemTime,
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let begin = self.begin.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        write!(f, "{},{},{},{begin}", self.index, self.processes, self.target)
    }
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let numbers: Vec<u64> = text.split(',').map_while(|number| number.parse().ok()).collect();
        let [index, processes, target, begin] = numbers[..] else { return Err(format!("{text} is no share")) };
        let begin = UNIX_EPOCH + Duration::from_millis(begin);
        Ok(Share { index: index as usize, processes: processes as usize, target: target as usize, begin })
    }
}

/// A line of a process.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Measured(Interval),
    Ended { seconds: f64 },
}

impl Share {
    /// Does its part, and writes what it measures to standard output.
    pub async fn run(self, plan: &Plan, target: &crate::client::Target) -> anyhow::Result<()> {
        let write = |line: &Line| println!("{}", serde_json::to_string(line).expect("a line can be written"));
        let plan = Plan { begin: Some(self.begin), ..plan.part(self.index, self.processes) };
        let seconds = plan.run(target, |interval| write(&Line::Measured(interval.clone()))).await?;
        write(&Line::Ended { seconds });
        Ok(())
    }
}

/// A process that is ended when nobody waits for it any more.
struct Member(Child);

impl Drop for Member {
    fn drop(&mut self) {
        // Either fails only for one that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Fleet {
    /// Runs all of them to their end. `tick` hears of each second once all have told of it.
    pub fn run(&self, plan: &Plan, target: usize, mut tick: impl FnMut(&Interval)) -> anyhow::Result<f64> {
        let begin = SystemTime::now() + MUSTER;
        let (sender, lines) = mpsc::channel();
        let mut members = Vec::new();
        for index in 0..self.processes {
            let share = Share { index, processes: self.processes, target, begin };
            let mut child = Command::new(&self.program)
                .args(&self.arguments)
                .args([SHARE.to_owned(), share.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {}", self.program.display()))?;
            let output = child.stdout.take().context("its output was asked for")?;
            members.push(Member(child));
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send((index, line)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut waiting: Vec<std::collections::VecDeque<Interval>> = vec![Default::default(); self.processes];
        let mut ended = vec![None; self.processes];
        for (index, line) in lines {
            match serde_json::from_str(&line).with_context(|| format!("process {index} said {line}"))? {
                Line::Measured(interval) => waiting[index].push_back(interval),
                Line::Ended { seconds } => ended[index] = Some(seconds),
            }
            // Those that have ended have nothing more to tell of this second.
            while waiting.iter().zip(&ended).all(|(waiting, ended)| !waiting.is_empty() || ended.is_some())
                && waiting.iter().any(|waiting| !waiting.is_empty())
            {
                let mut sum = Interval::default();
                waiting.iter_mut().filter_map(|waiting| waiting.pop_front()).for_each(|interval| sum.add(&interval));
                tick(&sum);
            }
        }
        let missing = ended.iter().filter(|ended| ended.is_none()).count();
        ensure!(missing == 0, "{missing} of {} processes ended before their time: see above", self.processes);
        Ok(ended.into_iter().flatten().fold(plan.duration.as_secs_f64().min(0.001), f64::max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_survives_the_command_line() {
        let begin = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let share = Share { index: 1, processes: 4, target: 2, begin };
        assert_eq!(share.to_string().parse(), Ok(share));
        assert!("1,2".parse::<Share>().is_err());
    }
}
