#!/usr/bin/env bash
# What curl makes of a server, one line a fact, without anything that depends on the run.
# Usage: smoke.sh HOST:PORT
set -uo pipefail

server=http://$1

# Ids, terms and the spaces after commas are the run's own.
clean() { sed -E 's/"(cluster_id|member_id|raft_term)": ?"[0-9]+"/"\1":"…"/g; s/([,:]) /\1/g'; }
fact() { printf '%s: ' "$1"; shift; curl --silent --max-time 10 "$@" | clean; echo; }
post() { fact "$1 $2" --request POST "$server/v3/$1" --data "$2"; }

fact health "$server/health"
fact 'status and type' --output /dev/null --write-out '%{http_code} %{content_type}' "$server/version"
fact 'http2' --http2-prior-knowledge --output /dev/null --write-out '%{http_version}' \
  --header 'content-type: application/grpc' --header 'te: trailers' --data-binary @<(head -c 5 /dev/zero) \
  "$server/etcdserverpb.KV/Range"
# A message with its prefix, which begins with a flag: whether it is compressed.
framed() {
  local size=${#2}
  printf "$(printf '\\x%02x' "$1" 0 0 $((size / 2 >> 8)) $((size / 2 & 255)))"
  printf "$(sed 's/../\\x&/g' <<<"$2")"
}
hex() { od -An -v -tx1 | tr -d ' \n'; }
# grpc NAME FLAG HEX ENCODING: a put, and how it ended.
grpc() {
  printf 'grpc %s: ' "$1"
  framed "$2" "$3" | curl --silent --max-time 10 --http2-prior-knowledge --dump-header - --output /dev/null \
    --header 'content-type: application/grpc' --header 'te: trailers' ${4:+--header "grpc-encoding: $4"} \
    --data-binary @- "$server/etcdserverpb.KV/Put" | tr -d '\r' | grep -E '^grpc-(status|message): ?[^ ]' | tr '\n' ' '
  echo
}
message=0a036772701201$(printf z | hex) # grp, z
grpc 'compressed' 1 "$(printf "$(sed 's/../\\x&/g' <<<"$message")" | gzip -n | hex)" gzip
grpc 'not compressed, though it might be' 0 "$message" gzip
grpc 'compressed to a thousandth' 1 "$(head -c 4000000 /dev/zero | gzip -n | hex)" gzip
grpc 'compressed in secret' 1 "$message"
post kv/range '{"key":"Z3Jw"}'
post kv/put '{"key":"Zm9v","value":"YmFy"}'
post kv/range '{"key":"Zm9v"}'
post kv/txn '{"compare":[{"target":"MOD","key":"Zm9v","modRevision":"2"}],"success":[{"requestPut":{"key":"YQ=="}}]}'
post kv/deleterange '{"key":"Zm9v","prev_kv":true}'
post kv/range '{"key":"Zm9v","revision":"77"}'
post lease/grant '{"TTL":"100","ID":"5"}'
post lease/revoke '{"ID":"5"}'
post auth/status '{}'
fact 'large body' --request POST "$server/v3/kv/range" --header 'Expect: 100-continue' \
  --data-binary @<(printf '{"key":"%s"}' "$(head -c 300000 /dev/zero | base64 --wrap=0)")
fact 'chunked body' --request POST "$server/v3/kv/range" --header 'Transfer-Encoding: chunked' --data '{"key":"Zm9v"}'
fact 'two on a connection' "$server/health" --next --silent --max-time 10 "$server/health"
fact 'watch' --no-buffer --max-time 2 "$server/v3/watch" --data '{"create_request":{"key":"Zm9v","start_revision":"2"}}'
