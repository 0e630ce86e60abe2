"""What the etcd3 client of PyPI makes of a server, one line a fact, without anything that depends on the run.

Usage: smoke.py HOST PORT
"""

import io
import json
import queue
import sys

import etcd3


def fact(name, value):
    print(f"{name}: {json.dumps(value, sort_keys=True, default=lambda value: value.decode())}")


def refusal(name, call):
    try:
        call()
        fact(name, "no refusal")
    except Exception as error:  # the client wraps some errors and passes others on
        code = getattr(error, "code", lambda: None)()
        fact(name, [type(error).__name__, str(code), getattr(error, "details", lambda: "")()])


def main(host, port):
    client = etcd3.client(host=host, port=int(port), timeout=10)

    client.put("a", "1")
    client.put("a", "2")
    value, meta = client.get("a")
    fact("get", [value, meta.version, meta.create_revision, meta.mod_revision, meta.lease_id])
    fact("get nothing", client.get("nothing")[0])
    client.put("b", "1")
    fact("prefix", [(value, meta.key) for value, meta in client.get_all()])
    fact("sorted", [meta.key for _, meta in client.get_all(sort_order="descend", sort_target="key")])
    fact("keys only", [value for value, _ in client.get_prefix("a", keys_only=True)])
    fact("put_if_not_exists", [client.put_if_not_exists("c", "1"), client.put_if_not_exists("c", "2")])
    fact("replace", [client.replace("c", "1", "3"), client.replace("c", "1", "4"), client.get("c")[0]])
    succeeded, responses = client.transaction(
        compare=[client.transactions.value("a") == "2", client.transactions.version("b") > 0],
        success=[client.transactions.put("t", "yes"), client.transactions.get("a")],
        failure=[client.transactions.delete("a")],
    )
    fact("txn", [succeeded, len(responses), responses[1][0][0]])
    fact("delete", [client.delete("b"), client.delete("b")])
    fact("delete prefix", client.delete_prefix("t").deleted)

    lease = client.lease(1000)
    client.put("leased", "1", lease=lease)
    fact("lease", [lease.ttl, lease.granted_ttl, list(lease.keys), 990 < lease.remaining_ttl <= 1000])
    fact("keep alive", [response.TTL for response in lease.refresh()])
    lease.revoke()
    fact("after revoke", client.get("leased")[0])
    refusal("a lease that is not there", lambda: client.put("k", "v", lease=404))

    events = queue.Queue()
    watch = client.add_watch_prefix_callback("w", lambda response: [events.put(event) for event in response.events])
    client.put("w/1", "x")
    client.put("w/1", "y")
    client.delete("w/1")
    seen = [events.get(timeout=10) for _ in range(3)]
    fact("watch", [(type(event).__name__, event.key, event.value, event.mod_revision) for event in seen])
    client.cancel_watch(watch)
    iterator, cancel = client.watch("w/1", start_revision=seen[0].mod_revision)
    fact("watch the past", [next(iterator).value for _ in range(2)])
    cancel()

    with client.lock("held", ttl=60) as lock:
        fact("lock", lock.is_acquired())
    refusal("compacted", lambda: (client.compact(3, physical=True), client.compact(3)))
    status = client.status()
    fact("status", [status.db_size > 0, status.leader.name, status.raft_term > 0])
    fact("members", [(member.name, len(list(member.client_urls))) for member in client.members])
    fact("alarms", list(client.list_alarms()))
    client.defragment()
    snapshot = io.BytesIO()
    client.snapshot(snapshot)
    fact("snapshot", (len(snapshot.getvalue()) - 32) % 4096)
    fact("hash", client.hash() > 0)
    client.close()


main(*sys.argv[1:])
