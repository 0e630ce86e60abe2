//! Programs that are run on a member's files, etcd's and ours.

use std::{ffi::OsStr, path::PathBuf, process::Command};

use anyhow::{Context as _, ensure};

use crate::peers;

/// A program and the words that come before all others.
#[derive(Clone, Debug)]
pub struct Tool {
    program: PathBuf,
    words: Vec<&'static str>,
}

impl Tool {
    /// A tool of etcd by folder and name, such as `3.7/etcdutl`, if it is installed.
    pub fn etcd(name: &str) -> Option<Tool> {
        Some(Tool { program: peers::tool(name)?, words: Vec::new() })
    }

    /// Ours for the same, if it is built.
    pub fn ours(words: &[&'static str]) -> Option<Tool> {
        Some(Tool { program: peers::forebay()?, words: [&["utl"], words].concat() })
    }

    /// What it prints on standard output. It must end well.
    pub fn run<W: AsRef<OsStr>>(&self, words: &[W]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.program);
        command.args(&self.words).args(words);
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        ensure!(output.status.success(), "{command:?}: {}\n{}", output.status, text(&output.stderr));
        Ok(text(&output.stdout))
    }
}
