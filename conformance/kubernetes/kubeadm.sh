#!/usr/bin/env bash
# A control plane's etcd as kubeadm sets it up (certificates, manifests, command lines; written here by hand), and in front
# of it `forebay gateway --from-kubeadm`: with real etcd, and with our server run by etcd's very command line.
# In a network of its own, because kubeadm's ports are what they are. Takes seconds.
# Usage: conformance/kubernetes/kubeadm.sh
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
peers=${FOREBAY_PEERS:-$HOME/.cache/forebay-peers}
target=${CARGO_TARGET_DIR:-$here/../../target}
forebay=${FOREBAY_BIN:-$(ls -t "$target"/{release,debug}/forebay 2>/dev/null | head -n1 || true)}
etcdctl=$peers/3.7/etcdctl

skip() { echo "skipped: $1" >&2; exit 0; }
[ -x "$peers/3.7/etcd" ] || skip "no etcd; conformance/install-peers.sh go"
[ -x "$forebay" ] || skip "no forebay; cargo build --release"
if [ -z "${INSIDE:-}" ]; then
  unshare --map-root-user --net true 2>/dev/null || skip "this user may make no network namespace"
  INSIDE=1 FOREBAY_BIN=$forebay exec unshare --map-root-user --net bash "$0"
fi

ip link set lo up
work=$(mktemp -d)
started=()
stop() {
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
  started=()
}
trap 'stop; rm -rf "$work"' EXIT
fail() { echo "failed: $1" >&2; tail -n 20 "$work"/*.log >&2; exit 1; }
start() { # name command...
  local name=$1; shift
  env -i PATH="$PATH" "$@" >"$work/$name.log" 2>&1 &
  started+=($!)
}
answers() { # url
  for _ in $(seq 100); do
    curl -sf --max-time 2 "$1" >/dev/null 2>&1 && return
    kill -0 "${started[-1]}" 2>/dev/null || break
    sleep 0.2
  done
  fail "$1 does not answer"
}

kube=$work/kubernetes pki=$work/kubernetes/pki
mkdir -p "$pki/etcd" "$kube/manifests"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=etcd-ca -keyout "$pki/etcd/ca.key" -out "$pki/etcd/ca.crt" 2>/dev/null
certificate() { # file subject use [names]
  openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$pki/$1.key" -out "$work/csr" 2>/dev/null
  printf 'keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=%s\n%s' "$3" "${4:+subjectAltName=$4}" >"$work/ext"
  openssl x509 -req -in "$work/csr" -CA "$pki/etcd/ca.crt" -CAkey "$pki/etcd/ca.key" -CAcreateserial -days 2 \
    -extfile "$work/ext" -out "$pki/$1.crt" 2>/dev/null
}
names=DNS:node,DNS:localhost,IP:127.0.0.1,IP:::1
certificate etcd/server /CN=node serverAuth,clientAuth "$names"
certificate etcd/peer /CN=node serverAuth,clientAuth "$names"
certificate apiserver-etcd-client /CN=kube-apiserver-etcd-client clientAuth

cat >"$kube/manifests/etcd.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata:
  labels: {component: etcd, tier: control-plane}
  name: etcd
  namespace: kube-system
spec:
  containers:
  - command:
    - etcd
    - --advertise-client-urls=https://127.0.0.1:2379
    - --cert-file=$pki/etcd/server.crt
    - --client-cert-auth=true
    - --data-dir=$work/etcd
    - --feature-gates=InitialCorruptCheck=true
    - --initial-advertise-peer-urls=https://127.0.0.1:2380
    - --initial-cluster=node=https://127.0.0.1:2380
    - --key-file=$pki/etcd/server.key
    - --listen-client-urls=https://127.0.0.1:2379
    - --listen-metrics-urls=http://127.0.0.1:2381
    - --listen-peer-urls=https://127.0.0.1:2380
    - --name=node
    - --peer-cert-file=$pki/etcd/peer.crt
    - --peer-client-cert-auth=true
    - --peer-key-file=$pki/etcd/peer.key
    - --peer-trusted-ca-file=$pki/etcd/ca.crt
    - --snapshot-count=10000
    - --trusted-ca-file=$pki/etcd/ca.crt
    - --watch-progress-notify-interval=5s
    image: registry.k8s.io/etcd:3.7.1-0
    name: etcd
YAML
apiserver() { # where it finds etcd
  cat >"$kube/manifests/kube-apiserver.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
  namespace: kube-system
spec:
  containers:
  - command:
    - kube-apiserver
    - --enable-bootstrap-token-auth=true
    - --etcd-cafile=$pki/etcd/ca.crt
    - --etcd-certfile=$pki/apiserver-etcd-client.crt
    - --etcd-keyfile=$pki/apiserver-etcd-client.key
    - --etcd-servers=$1
    - --secure-port=6443
    image: registry.k8s.io/kube-apiserver:v1.37.2
    name: kube-apiserver
YAML
}
# As the API server asks.
ctl() {
  "$etcdctl" --endpoints "$1" --cacert "$pki/etcd/ca.crt" --cert "$pki/apiserver-etcd-client.crt" \
    --key "$pki/apiserver-etcd-client.key" "${@:2}"
}

mapfile -t words < <(sed -n 's/^    - //p' "$kube/manifests/etcd.yaml")
mkdir "$work/bin"; ln -s "$forebay" "$work/bin/etcd"
for member in "$peers/3.7/etcd" "$work/bin/etcd"; do
  what=$([ "$member" = "$work/bin/etcd" ] && echo "our server" || echo etcd)
  rm -rf "$work/etcd"
  apiserver https://127.0.0.1:2379
  start member "$member" "${words[@]:1}"
  # The static pod's own probes.
  answers http://127.0.0.1:2381/livez
  answers http://127.0.0.1:2381/readyz
  start gateway "$forebay" gateway "--from-kubeadm=$kube"
  answers http://127.0.0.1:23811/readyz
  ctl https://127.0.0.1:23790 put /registry/a 1 >/dev/null || fail "$what: a put through the gateway"
  [ "$(ctl https://127.0.0.1:2379 get --print-value-only /registry/a)" = 1 ] || fail "$what: it is not in etcd"
  if curl -s --max-time 2 --cacert "$pki/etcd/ca.crt" https://127.0.0.1:23790/version >/dev/null 2>&1; then
    fail "$what: the gateway lets in who shows no certificate"
  fi
  # The one line that the operator changes; a gateway that starts again after it still finds etcd.
  apiserver https://127.0.0.1:23790
  kill "${started[-1]}"; wait "${started[-1]}" 2>/dev/null || true
  start gateway "$forebay" gateway "--from-kubeadm=$kube"
  answers http://127.0.0.1:23811/readyz
  [ "$(ctl https://127.0.0.1:23790 get --print-value-only /registry/a)" = 1 ] || fail "$what: not after the change"
  echo "ok: kubeadm's $what, a gateway from its folder"
  stop
done
