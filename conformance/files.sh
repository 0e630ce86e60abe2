#!/usr/bin/env bash
# Everything about files, against real peers: directories that move between etcd 3.4, 3.5, 3.7 and ours, what each other's
# offline tools and auger make of them, snapshots restored both ways, and damage. Installs the peers if they are not there;
# nothing is skipped.
# Names of tests as arguments run only these: conformance/files.sh swap:: tools::space
set -euo pipefail
cd "$(dirname "$0")/.."
conformance/install-peers.sh all >/dev/null
# From GitHub, or what AUGER_REPOSITORY names.
conformance/install-peers.sh auger >/dev/null
cargo build --bin forebay
export CONFORMANCE_REQUIRE=1
if [ $# -gt 0 ]; then
  exec cargo test -p forebay-conformance --test it -- "$@"
fi
cargo test -p forebay-conformance --test it -- swap:: tools:: damage::
cargo test -p forebay-storage peers
