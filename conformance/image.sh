#!/usr/bin/env bash
# Builds packaging/Dockerfile with podman and does with the image what its users do: run it as it is, talk to it, stop it,
# run it again on its volume, run it as etcd, and as a gateway on a read-only root.
# Usage: conformance/image.sh               (the build takes minutes)
#        IMAGE=forebay:0.1.0 conformance/image.sh      an image that is there already
# STAND_INS=1 makes both base images here, under their names, for where no registry can be reached: of Debian's packages, as
# they are made, and of this machine's Rust. It needs root, debootstrap and Rust 1.95.
# PODMAN and PODMAN_RUN are podman's command and what `podman run` needs besides, where the defaults do not work:
#   PODMAN="podman --runtime runc --cgroup-manager cgroupfs" PODMAN_RUN="--ulimit nofile=4096:4096 --ulimit nproc=4096:4096"
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
etcdctl=${FOREBAY_PEERS:-$HOME/.cache/forebay-peers}/3.7/etcdctl
read -ra podman <<<"${PODMAN:-podman}"
read -ra run <<<"${PODMAN_RUN:-}"

skip() { echo "skipped: $1" >&2; exit 0; }
command -v "${podman[0]}" >/dev/null || skip "no podman; apt-get install podman runc"
[ -x "$etcdctl" ] || skip "no etcdctl; conformance/install-peers.sh go"

work=$(mktemp -d)
image=${IMAGE:-forebay:conformance}
name=forebay-conformance-$$
stop() {
  "${podman[@]}" rm -ft 0 "$name" "$name-gateway" >/dev/null 2>&1 || true
  "${podman[@]}" volume rm -f "$name" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap stop EXIT
fail() { echo "failed: $1" >&2; "${podman[@]}" logs "$name" 2>&1 | tail -n 20 >&2; exit 1; }
ok() { echo "ok: $1"; }

stand_ins() {
  command -v debootstrap >/dev/null || skip "no debootstrap; apt-get install debootstrap"
  rustc --version | grep -q ' 1\.95\.' || skip "the image is built with Rust 1.95; rustup default 1.95"
  debootstrap --variant=minbase --include=gcc,libc6-dev,ca-certificates bookworm "$work/build" >"$work/log" 2>&1 \
    || { tail "$work/log" >&2; exit 1; }
  local rust; rust=$(rustc --print sysroot)
  cp -r "$rust/bin" "$rust/lib" "$work/build/usr/local/"
  # Whom this machine trusts, for fetching crates.
  cp -L /etc/ssl/certs/ca-certificates.crt "$work/build/etc/ssl/certs/"
  tar -C "$work/build" -c . | "${podman[@]}" import -q -c 'ENV CARGO_HOME=/usr/local/cargo' \
    -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin' - docker.io/library/rust:1.95-bookworm
  rm -rf "$work/build"
  mkdir -p "$work/debs" "$work/root"/{etc,tmp,home/nonroot}
  (
    cd "$work/debs"
    apt-get download -qq base-files netbase tzdata ca-certificates libc6 libgcc-s1 gcc-12-base libssl3 libstdc++6 libgomp1 2>/dev/null
    for deb in *.deb; do dpkg-deb -x "$deb" ../root; done
  )
  printf 'root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n' >"$work/root/etc/passwd"
  printf 'root:x:0:\nnonroot:x:65532:\n' >"$work/root/etc/group"
  chown 65532:65532 "$work/root/home/nonroot"; chmod 1777 "$work/root/tmp"
  tar -C "$work/root" -c . | "${podman[@]}" import -q -c 'USER 65532' -c 'WORKDIR /home/nonroot' \
    -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - gcr.io/distroless/cc-debian12:nonroot
}

if [ -z "${IMAGE:-}" ]; then
  flags=()
  if [ -n "${STAND_INS:-}" ]; then
    stand_ins
    # The crates that are here already, and no rights that a build would not need.
    flags=(--pull=never --isolation chroot --network host -v "${CARGO_HOME:-$HOME/.cargo}/registry:/usr/local/cargo/registry")
  fi
  "${podman[@]}" build "${flags[@]}" -q -f "$here/../packaging/Dockerfile" -t "$image" "$here/.."
fi
size=$("${podman[@]}" image inspect -f '{{.Size}}' "$image")
[ "$size" -lt 100000000 ] || fail "the image has $size bytes"
ok "the image has $((size / 1000000)) MB"

read -r client metrics front <<<"$(python3 -c '
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in held))')"
ctl() { "$etcdctl" --endpoints "127.0.0.1:$client" "$@"; }
ready() { # port container
  for _ in $(seq 150); do
    curl -sf --max-time 2 "http://127.0.0.1:$1/readyz" >/dev/null 2>&1 && return
    sleep 0.2
  done
  fail "$2 is not ready"
}
up() {
  "${podman[@]}" run -d --name "$name" "${run[@]}" -p "127.0.0.1:$client:2379" -p "127.0.0.1:$metrics:2381" \
    -v "$name:/data" "$image" >/dev/null
  ready "$metrics" "$name"
}
ended() { # container: how it ended after it was asked to
  local began=$SECONDS
  "${podman[@]}" stop -t 20 "$1" >/dev/null
  local status; status=$("${podman[@]}" inspect -f '{{.State.ExitCode}}' "$1")
  [ $((SECONDS - began)) -lt 10 ] || fail "$1 took $((SECONDS - began)) s to stop"
  # etcd's status for having been stopped, or that of who ends in order; 137 would be a SIGKILL.
  [ "$status" = 0 ] || [ "$status" = 143 ] || fail "$1 ended with $status"
  echo "status $status after $((SECONDS - began)) s"
}

up
pid=$("${podman[@]}" inspect -f '{{.State.Pid}}' "$name")
[ "$(awk '/^Uid:/ {print $2}' "/proc/$pid/status")" = 65532 ] || fail "it does not run as nonroot"
ctl put greeting hello >/dev/null
[ "$(ctl get --print-value-only greeting)" = hello ] || fail "the value is not there"
curl -sf "http://127.0.0.1:$metrics/metrics" >"$work/metrics"
grep -q '^etcd_server_has_leader 1' "$work/metrics" || fail "no metrics"
ok "user 65532 writes to /data, serves clients, /readyz and /metrics"

# Writers until nobody answers: what was acknowledged is there afterwards.
(for n in $(seq 100000); do ctl --command-timeout=2s put "k$n" "$n" >/dev/null 2>&1 || break; echo "$n" >"$work/last"; done) &
writer=$!
sleep 1
said=$(ended "$name")
wait "$writer"
"${podman[@]}" rm "$name" >/dev/null
up
last=$(cat "$work/last")
[ "$(ctl get --print-value-only "k$last")" = "$last" ] || fail "k$last was acknowledged and is gone"
ok "SIGTERM drains ($said); another container goes on with the volume, k$last included"

"${podman[@]}" run --rm "${run[@]}" --entrypoint etcd "$image" --version >"$work/version"
grep -q '^etcd Version: 3' "$work/version" || fail "it is no etcd"
ok "the name of etcd finds a member"

"${podman[@]}" run -d --name "$name-gateway" "${run[@]}" --read-only --read-only-tmpfs=false --cap-drop all --network host "$image" \
  gateway "--endpoints=127.0.0.1:$client" "--listen-client-urls=http://127.0.0.1:$front" >/dev/null
ready "$front" "$name-gateway"
[ "$("$etcdctl" --endpoints "127.0.0.1:$front" get --print-value-only greeting)" = hello ] || fail "not through the gateway"
ok "a gateway needs no file to write and no capability ($(ended "$name-gateway"))"
