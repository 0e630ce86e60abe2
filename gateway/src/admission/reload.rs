//! The policy file: read at the start, and again whenever it changes.

use std::{fs, io, path::PathBuf, time::Duration};

use forebay_policies::{
    Policy,
    file::{self, Problem},
};
use tokio::time::{self, MissedTickBehavior};

use super::{Admission, WINDOW};

/// How often the file is looked at. It is read and compared: a Kubernetes mount swaps links, an editor
/// renames, and neither shows in the same way in what the file system says of a file.
const LOOK: Duration = Duration::from_secs(1);

/// A policy file.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: PathBuf,
    /// Whether rules and quotas only count.
    shadow: bool,
}

/// Why a file gives no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy file {}: {error}", .path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its content is no policy.
    #[error("{}: {}", .path.display(), list(.problems))]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
}

impl PolicyFile {
    /// A file; with `shadow`, its rules and quotas only count what they would do.
    pub fn new(path: PathBuf, shadow: bool) -> PolicyFile {
        PolicyFile { path, shadow }
    }

    /// Reads the policy.
    pub fn load(&self) -> Result<Policy, PolicyError> {
        self.parse(&self.text()?)
    }

    fn text(&self) -> Result<String, PolicyError> {
        fs::read_to_string(&self.path).map_err(|error| PolicyError::Unreadable { path: self.path.clone(), error })
    }

    fn parse(&self, text: &str) -> Result<Policy, PolicyError> {
        let loaded = file::load(text).map_err(|problems| PolicyError::Invalid { path: self.path.clone(), problems })?;
        for warning in &loaded.warnings {
            tracing::warn!(policy = %self.path.display(), "{warning}");
        }
        Ok(if self.shadow { loaded.policy.shadowed() } else { loaded.policy })
    }
}

impl Admission {
    /// Keeps things up to date for as long as it is polled: the policy as its file has it, and what
    /// the metrics say of the moment. A file that cannot be used changes nothing: the last good policy
    /// stays in force, and the log and a metric say so.
    pub async fn run(&self, file: Option<PolicyFile>) {
        let mut seen = file.as_ref().and_then(|file| file.text().ok());
        let mut looks = time::interval(LOOK);
        let mut windows = time::interval(WINDOW);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = looks.tick() => self.0.observe(),
                _ = windows.tick() => {
                    self.0.accounting.lock().turn();
                    continue;
                }
            }
            if let Some(file) = &file {
                let reading = file.clone();
                let Ok(read) = tokio::task::spawn_blocking(move || reading.text()).await else { continue };
                if read.as_ref().ok() != seen.as_ref() {
                    self.load(file, read.as_deref());
                    seen = read.ok();
                }
            }
        }
    }

    fn load(&self, file: &PolicyFile, text: Result<&str, &PolicyError>) {
        let metrics = &self.0.metrics;
        let parsed = text.map_err(ToString::to_string);
        match parsed.and_then(|text| file.parse(text).map_err(|error| error.to_string())) {
            Ok(policy) => {
                tracing::info!(policy = %file.path.display(), name = policy.name, "policy loaded");
                self.set_policy(policy);
                metrics.policy_reloads.with_label_values(&["loaded"]).inc();
                metrics.policy_is_current.set(1);
            }
            Err(error) => {
                tracing::error!(error, "the policy file cannot be used; the last good policy stays in force");
                metrics.policy_reloads.with_label_values(&["refused"]).inc();
                metrics.policy_is_current.set(0);
            }
        }
    }
}
