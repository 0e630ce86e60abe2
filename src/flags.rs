//! What the operator said, from command line, environment and file, to one validated configuration per role.
//!
//! A [`table`] lists the flags of a role and the setting each fills. [`syntax`] reads a command line into the
//! settings as Go's `flag` package does, [`file`] a YAML file. Two rules say which source counts: [`etcd`] for the
//! server, so that every command line, environment and file of etcd means the same here, and [`layered`] for our own
//! roles. The settings then become the role's configuration in one validation that reports everything wrong at once.

pub mod etcd;
pub mod file;
pub mod gates;
pub mod gateway;
pub mod go;
pub mod layered;
pub mod server;
pub mod server_config;
pub mod syntax;
pub mod table;
pub mod tls;
pub mod tracing;
pub mod up;
pub mod url;

use crate::logging::Level;

/// The environment, in no particular order.
pub type Environment = [(String, String)];

/// Something to log once logging is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub level: Level,
    pub message: String,
    pub fields: Vec<(&'static str, String)>,
}

impl Notice {
    pub fn new(level: Level, message: impl Into<String>) -> Notice {
        Notice { level, message: message.into(), fields: Vec::new() }
    }

    pub fn with(mut self, key: &'static str, value: impl ToString) -> Notice {
        self.fields.push((key, value.to_string()));
        self
    }
}

/// One thing wrong with what the operator said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub text: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    pub fn new(text: impl Into<String>) -> Problem {
        Problem { text: text.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

/// Why a role does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Never empty; the first is what etcd would report.
    pub problems: Vec<Problem>,
    /// What happened before.
    pub notices: Vec<Notice>,
    pub kind: FailureKind,
}

/// Decides how a [`Failure`] is shown and with which status the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The command line could not be read.
    Usage,
    /// It was read, and what it says cannot be.
    Invalid,
    /// As [`FailureKind::Invalid`], in a way that ends etcd in a panic.
    Panic,
    /// Two sources contradict each other.
    Conflict,
}

impl FailureKind {
    /// etcd's exit status.
    pub fn exit_status(self) -> u8 {
        match self {
            FailureKind::Usage | FailureKind::Panic => 2,
            FailureKind::Invalid | FailureKind::Conflict => 1,
        }
    }
}

/// What was asked for.
#[derive(Debug)]
pub enum Asked<C> {
    Help,
    Version,
    /// Print these lines and end.
    Print(String),
    /// Run with this configuration.
    Run(Box<Ready<C>>),
}

/// A configuration to run with, and what to log before.
#[derive(Debug)]
pub struct Ready<C> {
    pub config: C,
    pub notices: Vec<Notice>,
}
