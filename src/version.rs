//! What we say we are.

use std::env::consts;

/// The release of etcd whose API, files and flags are ours. Clients read it and decide by it.
pub const ETCD_VERSION: &str = "3.7.1";

/// The version of the API, as etcdutl prints it.
pub const API_VERSION: &str = "3.7";

/// Our own release.
pub const FOREBAY_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The page of `--version`: etcd's lines, which scripts cut apart, and ours after them.
pub fn page() -> String {
    let sha = option_env!("FOREBAY_GIT_SHA").unwrap_or("Not provided");
    format!(
        "etcd Version: {ETCD_VERSION}\n\
         Git SHA: {sha}\n\
         Go Version: none (Forebay is written in Rust)\n\
         Go OS/Arch: {}/{}\n\
         Forebay Version: {FOREBAY_VERSION}\n",
        go_os(consts::OS),
        go_arch(consts::ARCH),
    )
}

fn go_os(os: &str) -> &str {
    if os == "macos" { "darwin" } else { os }
}

fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
