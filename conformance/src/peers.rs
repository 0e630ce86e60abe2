//! Where the binaries under test and their reference are, and what to do when one is not there.

use std::{
    env, fmt,
    io::Write as _,
    path::{Path, PathBuf},
};

/// A release of etcd that `install-peers.sh` installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Release {
    /// 3.4.23, from Debian.
    V3_4,
    /// 3.5.1, from PyPI.
    V3_5,
    /// 3.7.1, from the Go modules: the reference.
    V3_7,
}

impl Release {
    /// Every release, oldest first.
    pub const ALL: [Release; 3] = [Release::V3_4, Release::V3_5, Release::V3_7];

    /// The release whose behaviour is the measure.
    pub const REFERENCE: Release = Release::V3_7;

    /// The server's binary, if it is installed.
    pub fn etcd(self) -> Option<PathBuf> {
        installed(&format!("{self}/etcd"))
    }

    /// The offline tool's binary, if it is installed.
    pub fn etcdutl(self) -> Option<PathBuf> {
        installed(&format!("{self}/etcdutl"))
    }

    /// The command line's binary, if it is installed.
    pub fn etcdctl(self) -> Option<PathBuf> {
        installed(&format!("{self}/etcdctl"))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::V3_4 => "3.4",
            Release::V3_5 => "3.5",
            Release::V3_7 => "3.7",
        })
    }
}

/// A tool by the folder and the name that `install-peers.sh` gives it, such as `3.7/etcdutl`, if it is installed.
pub fn tool(name: &str) -> Option<PathBuf> {
    installed(name)
}

/// The Python that has the `etcd3` client, if it is installed.
pub fn python() -> Option<PathBuf> {
    installed("python/bin/python")
}

/// The fuzzer that reads the API's description, if it is installed.
pub fn schemathesis() -> Option<PathBuf> {
    installed("schemathesis/bin/schemathesis")
}

/// A tool of the monitoring folder: Prometheus, its promtool, Grafana's linter, or a file of etcd's mixin.
pub fn monitoring(name: &str) -> Option<PathBuf> {
    installed(&format!("monitoring/{name}"))
}

/// The binary under test: `$FOREBAY_BIN`, or what cargo has built beside this test.
pub fn forebay() -> Option<PathBuf> {
    if let Some(named) = env::var_os("FOREBAY_BIN") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "FOREBAY_BIN names {}, which is no file", named.display());
        return Some(named);
    }
    let test = env::current_exe().ok()?;
    let profile = test.parent()?.parent()?;
    let release = profile.parent()?.join("release");
    [profile, &release].into_iter().map(|dir| dir.join("forebay")).find(|path| path.is_file())
}

/// The folder of this crate, where the scripts of the language clients stand.
pub fn scripts() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/clients"))
}

/// Says on standard error that a test ran without something, or fails it when
/// `CONFORMANCE_REQUIRE=1` forbids that.
pub fn skip(test: &str, missing: &str) {
    let is_required = env::var_os("CONFORMANCE_REQUIRE").is_some_and(|value| value == "1");
    assert!(!is_required, "CONFORMANCE_REQUIRE=1, but skipped {test}: {missing}");
    skip_extra(test, missing);
}

/// Says that a test did not run for want of a tool that no run requires: it takes minutes to install, or is a browser.
pub fn skip_extra(test: &str, missing: &str) {
    // Past the capture of the test harness: a skip that nobody sees is a test that nobody runs.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {missing}");
}

/// What to tell someone who has no peers.
pub const INSTALL: &str = "not installed; run conformance/install-peers.sh";

/// What to tell someone who has no Prometheus.
pub const INSTALL_MONITORING: &str = "not installed; run conformance/install-peers.sh monitoring";

/// What to tell someone who has no auger.
pub const INSTALL_AUGER: &str = "not installed; run conformance/install-peers.sh auger";

/// What to tell someone who has not built the binary under test.
pub const BUILD: &str = "no forebay binary; run `cargo build` first or name one with FOREBAY_BIN";

fn installed(relative: &str) -> Option<PathBuf> {
    let root = match env::var_os("FOREBAY_PEERS") {
        Some(root) => PathBuf::from(root),
        None => PathBuf::from(env::var_os("HOME")?).join(".cache/forebay-peers"),
    };
    let path = root.join(relative);
    path.is_file().then_some(path)
}
