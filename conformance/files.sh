#!/usr/bin/env bash
# Everything about files, against real peers: directories that move between etcd 3.4, 3.5, 3.7 and ours, what each other's
# offline tools make of them, snapshots restored both ways, and damage. Installs the peers if they are not there.
set -euo pipefail
cd "$(dirname "$0")/.."
conformance/install-peers.sh all >/dev/null
cargo build
export CONFORMANCE_REQUIRE=1
cargo test -p forebay-conformance --test it -- swap:: tools:: damage::
cargo test -p forebay-storage peers
