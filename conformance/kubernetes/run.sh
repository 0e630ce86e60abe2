#!/usr/bin/env bash
# API servers of Kubernetes, built from their Go modules, on real etcd, on our server, and on our gateway in front of
# each: sample-apiserver, and kube-apiserver if it is there.
# Install them first: conformance/install-peers.sh kubernetes; conformance/install-peers.sh kube-apiserver
# Usage: conformance/kubernetes/run.sh [etcd|server|gateway|gateway-etcd]...    (default: all)
# KINDS=kube or KINDS=sample runs one of the two.
# The binary of Forebay is $FOREBAY_BIN, or what cargo built last. Ends by itself within a few minutes.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
peers=${FOREBAY_PEERS:-$HOME/.cache/forebay-peers}
etcd=$peers/3.7/etcd
target=${CARGO_TARGET_DIR:-$here/../../target}
forebay=${FOREBAY_BIN:-$(ls -t "$target"/{release,debug}/forebay 2>/dev/null | head -n1 || true)}

skip() { echo "skipped: $1" >&2; exit 0; }
kinds=${KINDS:-sample kube}
[ -x "$peers/kubernetes/sample-apiserver" ] || kinds=${kinds/sample/}
[ -x "$peers/kubernetes/kube-apiserver" ] || kinds=${kinds/kube/}
[ -n "${kinds// /}" ] || skip "no Kubernetes API server; conformance/install-peers.sh kubernetes"
[ -x "$etcd" ] || skip "no etcd; conformance/install-peers.sh go"
[ -x "$forebay" ] || skip "no forebay; cargo build --release"

work=$(mktemp -d)
started=()
# At once: nothing is kept, and a kube-apiserver that is asked to end waits for its etcd without end.
stop() {
  for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  started=()
}
trap 'stop; rm -rf "$work"' EXIT

ports() { # so many ports that nothing listens at
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PY
}

start() { # name command...
  local name=$1; shift
  env -i PATH="$PATH" HOME="$work" "$@" >"$work/$name.log" 2>&1 &
  started+=($!)
}

serves() { # url name
  for _ in $(seq 300); do
    curl -sf --max-time 2 "$1/health" 2>/dev/null | grep -q true && return
    kill -0 "${started[-1]}" 2>/dev/null || break
    sleep 0.2
  done
  echo "$2 does not serve:" >&2; tail -n 30 "$work/$2.log" >&2; exit 1
}

# Who is of the group system:masters may everything, and nobody has to be asked.
credentials() {
  cd "$work"
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /O=system:masters/CN=admin -keyout admin.key -out admin.csr 2>/dev/null
  openssl x509 -req -in admin.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out admin.pem 2>/dev/null
  # The API server wants to know where other API servers are; nobody is there, and nothing here asks.
  cat >nobody.yaml <<'YAML'
apiVersion: v1
kind: Config
clusters: [{name: nobody, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: nobody, user: {}}]
contexts: [{name: nobody, context: {cluster: nobody, user: nobody}}]
current-context: nobody
YAML
  cd - >/dev/null
}

member() { # name client peer command...
  local name=$1 client=$2 peer=$3; shift 3
  start "$name" "$@" --name "$name" --data-dir "$work/$name" --log-level error \
    --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
    --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
    --initial-cluster "$name=http://127.0.0.1:$peer" --watch-progress-notify-interval=5s
  serves "http://127.0.0.1:$client" "$name"
}

apiserver() { # kind where-etcd-is port
  local common=(--etcd-servers "http://127.0.0.1:$2" --secure-port "$3" --bind-address 127.0.0.1
    --cert-dir "$work/certs" --client-ca-file "$work/ca.pem" --enable-priority-and-fairness=false
    --etcd-compaction-interval=5s)
  case $1 in
    sample)
      start apiserver "$peers/kubernetes/sample-apiserver" "${common[@]}" --kubeconfig "$work/nobody.yaml" \
        --authentication-kubeconfig "$work/nobody.yaml" --authorization-kubeconfig "$work/nobody.yaml" \
        --authentication-skip-lookup \
        --disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,ValidatingAdmissionWebhook,ValidatingAdmissionPolicy,MutatingAdmissionPolicy
      ;;
    kube)
      # It tells others where it is, and none of them is there.
      start apiserver "$peers/kubernetes/kube-apiserver" "${common[@]}" --advertise-address 192.0.2.1 \
        --endpoint-reconciler-type=none --service-cluster-ip-range 198.51.100.0/24 --authorization-mode RBAC \
        --service-account-issuer https://issuer.invalid --service-account-key-file "$work/ca.pem" \
        --service-account-signing-key-file "$work/ca.key" --disable-admission-plugins=ServiceAccount
      ;;
    *) echo "unknown kind $1" >&2; exit 2 ;;
  esac
}

run() { # kind what
  local kind=$1; shift
  rm -rf "$work"/{etcd,server} "$work"/*.log
  read -r client peer front api <<<"$(ports 4)"
  local at=$client
  case $1 in
    etcd | gateway-etcd) member etcd "$client" "$peer" "$etcd" ;;
    server | gateway) member server "$client" "$peer" "$forebay" server ;;
    *) echo "unknown target $1" >&2; exit 2 ;;
  esac
  case $1 in
    gateway*)
      at=$front
      start gateway "$forebay" gateway --endpoints "http://127.0.0.1:$client" --log-level error \
        --listen-client-urls "http://127.0.0.1:$front" --watch-progress-notify-interval=5s
      serves "http://127.0.0.1:$front" gateway
      ;;
  esac
  apiserver "$kind" "$at" "$api"
  if python3 "$here/drive.py" "$kind" "$api" "$work" "http://127.0.0.1:$at" &&
    { [ "$kind" != kube ] || python3 "$here/manifests.py" "$api" "$work"; }; then
    echo "ok: $kind-apiserver on $1"
  else
    echo "failed: $kind-apiserver on $1" >&2
    tail -n 30 "$work"/*.log >&2
    exit 1
  fi
  stop
}

credentials
for kind in $kinds; do for what in "${@:-etcd server gateway gateway-etcd}"; do for one in $what; do run "$kind" "$one"; done; done; done
