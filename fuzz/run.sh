#!/usr/bin/env bash
# Looks for new inputs on any toolchain, without cargo-fuzz: builds libFuzzer's programs with coverage and runs each
# target for so many seconds, one after the other. What is found goes to fuzz/found, what fails to fuzz/artifacts.
# Usage: fuzz/run.sh SECONDS [TARGET]...    (default: all targets)
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET]...}; shift
[ $# -gt 0 ] || set -- $(ls corpus)
host=$(rustc -vV | sed -n 's/^host: //p')

coverage=(-Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
  coverage+=("-Cllvm-args=-sanitizer-coverage-$option")
done
# A target of its own keeps build scripts free of the coverage.
RUSTFLAGS="--cfg fuzzing ${coverage[*]}" cargo build --release --target "$host" --bins

for target; do
  mkdir -p "found/$target" "artifacts/$target"
  "${CARGO_TARGET_DIR:-target}/$host/release/$target" -max_total_time="$seconds" -timeout=20 -print_final_stats=1 \
    -artifact_prefix="artifacts/$target/" "found/$target" "corpus/$target"
done
