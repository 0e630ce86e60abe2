#!/usr/bin/env python3
"""Runs a random program on a real etcd and writes it down with the HashKV answers, for tests/it/hash.rs.

    record-hashes.py ~/.cache/forebay-peers/3.7/etcd SEED STEPS > hash-SEED.txt

One command a line: `put KEY LENGTH LEASE` (of the value, which is so many `v`), `delete KEY END` (END `-` for one key), `txn` with commands
behind `;`, `compact REVISION`, `hash REVISION HASH COMPACT_REVISION HASH_REVISION`, and `at REVISION` after a write.
"""
import base64, json, os, random, socket, subprocess, sys, tempfile, time, urllib.error, urllib.request


def text(value):
    return base64.b64encode(value.encode()).decode()


def call(url, path, body):
    request = urllib.request.Request(f"{url}/v3/{path}", data=json.dumps(body).encode())
    return json.load(urllib.request.urlopen(request, timeout=10))


def hash_kv(url, revision):
    etcdctl = os.path.join(os.path.dirname(sys.argv[1]), "etcdctl")
    command = [etcdctl, "--endpoints", url, "endpoint", "hashkv", "--rev", str(revision), "-w", "json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[0]["HashKV"]


def command_and_request(pick):
    key = lambda: pick.choice(["a", "a/b", "b"]) + str(pick.randrange(12))
    if pick.randrange(3):
        key, length, lease = key(), pick.randrange(150), pick.choice([0, 0, 7, 8])
        put = {"key": text(key), "value": text("v" * length), "lease": lease}
        return f"put {key} {length} {lease}", {"request_put": put}
    key, end = key(), pick.choice(["-", "-", key()])
    range_end = {"-": ""}.get(end, end)
    return f"delete {key} {end}", {"request_delete_range": {"key": text(key), "range_end": text(range_end)}}


def run(url, seed, steps):
    pick = random.Random(seed)
    for lease in (7, 8):
        call(url, "lease/grant", {"ID": lease, "TTL": 100000})
    revision, compacted = 1, 0
    for _ in range(steps):
        kind = pick.randrange(12)
        if kind < 8:
            count = 1 if kind < 6 else pick.randrange(5)
            commands = [command_and_request(pick) for _ in range(count)]
            body = {"success": [request for _, request in commands]}
            try:
                revision = int(call(url, "kv/txn", body)["header"]["revision"])
            except urllib.error.HTTPError as error:
                assert "duplicate key" in error.read().decode()
                continue
            print(" ; ".join(["txn"] + [command for command, _ in commands]) if count != 1 else commands[0][0])
            print("at", revision)
        elif kind == 8 and pick.randrange(4) == 0 and revision > compacted:
            compacted = pick.randint(compacted + 1, revision)
            call(url, "kv/compaction", {"revision": compacted, "physical": True})
            print("compact", compacted)
        else:
            asked = pick.choice([0, revision, pick.randint(max(compacted, 1), revision)])
            answer = hash_kv(url, asked)
            # etcd before 3.6 does not say which revision it hashed.
            print("hash", asked, answer["hash"], answer["compact_revision"], answer.get("hash_revision", asked or revision))


def main():
    binary, seed, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    client, peer = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    with tempfile.TemporaryDirectory() as data:
        flags = ["--data-dir", data, "--log-level", "error", "--listen-client-urls", client]
        flags += ["--advertise-client-urls", client, "--listen-peer-urls", peer]
        flags += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
        etcd = subprocess.Popen([binary, *flags], stderr=subprocess.DEVNULL)
        try:
            for _ in range(100):
                try:
                    version = call(client, "maintenance/status", {})["version"]
                    break
                except OSError:
                    time.sleep(0.1)
            print(f"# etcd {version}, record-hashes.py, seed {seed}")
            run(client, seed, steps)
        finally:
            etcd.terminate()
            etcd.wait()


main()
