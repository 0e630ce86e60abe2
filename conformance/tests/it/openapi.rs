//! The description of the JSON API before a fuzzer that believes it: what it says may be sent is answered as it says.

use std::process::{Command, Stdio};

use forebay_conformance::{
    peers,
    target::{Kind, Target},
};

/// Endless answers are left out, and what would end the member, change who it is, or raise an alarm that stops writes.
const TRIED: &str = "/v3/(kv|lease|maintenance/(status|hash|hashkv|defragment)|cluster/member/list)";
const LEFT_OUT: &str = "keepalive";
const CHECKS: &str = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_driven_fuzzer_finds_no_answer_that_the_description_does_not_tell() {
    let test = "openapi::a_schema_driven_fuzzer_finds_no_answer_that_the_description_does_not_tell";
    let Some(schemathesis) = peers::schemathesis() else { return peers::skip(test, peers::INSTALL) };
    if let Some(missing) = Kind::Server.missing() {
        return peers::skip(test, missing);
    }
    let target = Target::start(Kind::Server, &[]).await.unwrap();
    // It leaves notes where it runs.
    let dir = tempfile::TempDir::with_prefix("conformance-openapi-").unwrap();
    let output = Command::new(schemathesis)
        .current_dir(dir.path())
        .arg("run")
        .arg(format!("{}/openapi.json", target.url()))
        .args(["--url", &target.url(), "--phases", "fuzzing", "--max-examples", "10", "--seed", "1", "--no-color"])
        .args(["--include-path-regex", TRIED, "--exclude-path-regex", LEFT_OUT, "--checks", CHECKS])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
