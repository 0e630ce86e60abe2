//! Compiles the `.proto` files with protox, so that no protoc is needed.

use std::{env, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "mvcc",
        "auth",
        "membership",
        "rpc",
        "raft_internal",
        "metadata",
        "lock",
        "election",
        "lease",
        "raft",
        "wal",
        "snap",
    ]
    .map(|name| format!("proto/{name}.proto"));
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let encoded = descriptors.encode_to_vec();
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .ignore_unknown_fields()
        .build(&[".mvccpb", ".authpb", ".membershippb", ".etcdserverpb", ".v3lockpb", ".v3electionpb"])?;
    Ok(())
}
