"""What clients of Kubernetes do, against an API server: drive.py KIND PORT CREDENTIALS ETCD.

KIND is `sample`, with an API of its own, or `kube`, the API server of a cluster.

Each step says what it found; the first that is not as it must be ends the run with its name. Standard library only.
"""

import base64
import http.client
import json
import ssl
import sys
import threading
import time
import urllib.request

KIND, PORT, CREDENTIALS, ETCD = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
# Where the objects are, what they are, which field is changed, and where they are kept.
GROUP, RESOURCE, VERSION, NAME, FIELD, KEPT = {
    "sample": (
        "/apis/wardle.example.com/v1alpha1",
        "flunders",
        "wardle.example.com/v1alpha1",
        "Flunder",
        "spec",
        "/registry/wardle.example.com/wardle.example.com/flunders/default/",
    ),
    "kube": ("/api/v1", "configmaps", "v1", "ConfigMap", "data", "/registry/configmaps/default/"),
}[KIND]
OBJECTS = f"{GROUP}/namespaces/default/{RESOURCE}"
LIMIT = 30  # seconds that anything may take

tls = ssl._create_unverified_context()
tls.load_cert_chain(f"{CREDENTIALS}/admin.pem", f"{CREDENTIALS}/admin.key")


def ask(method, path, body=None):
    """Status and parsed answer of one request."""
    connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=tls, timeout=LIMIT)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        data = answer.read()
        is_json = answer.headers.get("Content-Type", "").startswith("application/json")
        return answer.status, json.loads(data) if is_json else data.decode()
    finally:
        connection.close()


def etcd(path, body):
    """A call of etcd's JSON API, below the API server."""
    request = urllib.request.Request(ETCD + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=LIMIT) as answer:
        return json.loads(answer.read())


def must(condition, *what):
    if not condition:
        print("not as it must be:", *what, file=sys.stderr)
        sys.exit(1)


def eventually(what, done):
    deadline = time.monotonic() + LIMIT
    while True:
        last = None
        try:
            last = done()
            if last:
                return last
        except (OSError, http.client.HTTPException) as error:
            last = error
        must(time.monotonic() < deadline, what, last)
        time.sleep(0.2)


def thing(name, **labels):
    return {
        "apiVersion": VERSION,
        "kind": NAME,
        "metadata": {"name": name, "labels": labels},
        FIELD: {"reference": "none"},
    }


def revision(thing):
    return int(thing["metadata"]["resourceVersion"])


def metric(name, **labels):
    """The sum of a metric of the API server over the series that have these labels."""
    status, page = ask("GET", "/metrics")
    must(status == 200, "metrics", status)
    total = 0.0
    for line in page.splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def consistent(success):
    return metric("apiserver_watch_cache_consistent_read_total", resource=RESOURCE, success=success)


class Watch(threading.Thread):
    """Reads a watch in the background."""

    def __init__(self, query):
        super().__init__(daemon=True)
        self.query, self.events, self.status = query, [], None
        self.start()

    def run(self):
        connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=tls, timeout=4 * LIMIT)
        connection.request("GET", f"{OBJECTS}?watch=1&{self.query}")
        answer = connection.getresponse()
        self.status = answer.status
        for line in answer:
            self.events.append(json.loads(line))

    def seen(self, kind=None):
        return [
            (event["type"], event["object"]["metadata"].get("name"))
            for event in list(self.events)
            if kind is None or event["type"] == kind
        ]


def create_and_update():
    for number in range(30):
        status, made = ask("POST", OBJECTS, thing(f"f{number:02}", parity=str(number % 2)))
        must(status == 201, "create", status, made)
    must(ask("POST", OBJECTS, thing("f00"))[0] == 409, "a second of the same name is refused")
    status, first = ask("GET", f"{OBJECTS}/f00")
    must(status == 200, "get", first)
    changed = json.loads(json.dumps(first))
    changed[FIELD]["reference"] = "other"
    status, updated = ask("PUT", f"{OBJECTS}/f00", changed)
    must(status == 200 and revision(updated) > revision(first), "update", updated)
    must(ask("PUT", f"{OBJECTS}/f00", changed)[0] == 409, "an update of what has changed is a conflict")
    must(ask("DELETE", f"{OBJECTS}/f29")[0] == 200, "delete")
    must(ask("GET", f"{OBJECTS}/f29")[0] == 404, "what was deleted is gone")
    return revision(updated)


def pages():
    names, token, versions = [], "", set()
    while True:
        status, page = ask("GET", f"{OBJECTS}?limit=7&continue={token}")
        must(status == 200, "page", page)
        names += [item["metadata"]["name"] for item in page["items"]]
        versions.add(page["metadata"]["resourceVersion"])
        token = page["metadata"].get("continue", "")
        if not token:
            break
    must(names == [f"f{number:02}" for number in range(29)], "all pages together", names)
    must(len(versions) == 1, "all pages are of one revision", versions)
    status, odd = ask("GET", f"{OBJECTS}?labelSelector=parity%3D1")
    must(status == 200 and len(odd["items"]) == 14, "a list by label", odd)


def consistent_reads():
    """Lists that must be current are answered from the API server's cache, once it asked etcd how far that is."""
    before = consistent("true")
    for number in range(10):
        name = f"now{number}"
        must(ask("POST", OBJECTS, thing(name))[0] == 201, "create")
        status, listed = ask("GET", OBJECTS)
        must(name in [item["metadata"]["name"] for item in listed["items"]], "a list is not older than a write", name)
        must(ask("DELETE", f"{OBJECTS}/{name}")[0] == 200, "delete")
    served = consistent("true") - before
    must(served >= 10, "lists are answered from the cache", served)
    failed = consistent("false")
    must(failed == 0, "and none had to be asked of etcd instead", failed)


def watches(since):
    follows = Watch(f"resourceVersion={since}&allowWatchBookmarks=true&timeoutSeconds=60")
    eventually("the past of a watch", lambda: ("DELETED", "f29") in follows.seen())
    must(ask("POST", OBJECTS, thing("seen"))[0] == 201, "create")
    eventually("a new object", lambda: ("ADDED", "seen") in follows.seen())
    must(ask("DELETE", f"{OBJECTS}/seen")[0] == 200, "delete")
    eventually("a deletion", lambda: ("DELETED", "seen") in follows.seen())
    order = [int(event["object"]["metadata"]["resourceVersion"]) for event in follows.events]
    must(order == sorted(order), "events in the order of their revisions", order)

    query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=60"
    lists = Watch(query)
    bookmark = eventually("the bookmark behind a list", lambda: [e for e in lists.events if e["type"] == "BOOKMARK"])
    must(
        bookmark[0]["object"]["metadata"]["annotations"].get("k8s.io/initial-events-end") == "true",
        "the bookmark ends the list",
        bookmark,
    )
    must(len(lists.seen("ADDED")) == 29, "a watch that lists first", lists.seen())
    must(ask("POST", OBJECTS, thing("later"))[0] == 201, "create")
    eventually("a watch that listed goes on", lambda: ("ADDED", "later") in lists.seen())
    must(ask("DELETE", f"{OBJECTS}/later")[0] == 200, "delete")
    return follows


def compaction(follows):
    """The API server compacts what is older than two of its intervals, and says so to those who ask for it."""
    status, page = ask("GET", f"{OBJECTS}?limit=7")
    token, since = page["metadata"]["continue"], page["metadata"]["resourceVersion"]
    must(ask("POST", OBJECTS, thing("newer"))[0] == 201, "create")

    def is_gone():
        # Writes, so that there is something to compact.
        ask("PUT", f"{OBJECTS}/newer", thing("newer", at=str(time.monotonic_ns())))
        return ask("GET", f"{OBJECTS}?limit=7&continue={token}")[0] == 410

    eventually("a page of a compacted revision is gone", is_gone)
    exact = f"resourceVersion={since}&resourceVersionMatch=Exact"
    must(ask("GET", f"{OBJECTS}?{exact}")[0] in (410, 200), "a list at an old revision")
    must(ask("GET", f"{OBJECTS}?limit=7")[0] == 200, "a new list")
    must(follows.is_alive() and "ERROR" not in [event["type"] for event in follows.events], "a watch goes on")
    compacted = etcd("/v3/kv/range", {"key": base64.b64encode(b"compact_rev_key").decode()})
    must(compacted.get("count") == "1", "the key by which API servers agree who compacts", compacted)


def leases():
    """The API server makes none for these objects; what it would do is done below it, and seen above it."""
    lease = etcd("/v3/lease/grant", {"TTL": "2"})["ID"]
    key = KEPT + "newer"
    stored = etcd("/v3/kv/range", {"key": base64.b64encode(key.encode()).decode()})
    must(stored.get("count") == "1", "where the API server keeps its objects", stored)
    record = stored["kvs"][0]
    etcd("/v3/kv/put", {"key": record["key"], "value": record["value"], "lease": lease})
    eventually("an object goes with its lease", lambda: ask("GET", f"{OBJECTS}/newer")[0] == 404)


def events():
    """Events go with leases that the API server makes and shares between them."""
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "seen.1"},
        "involvedObject": {"kind": "ConfigMap", "name": "newer", "namespace": "default"},
        "reason": "Seen",
        "type": "Normal",
    }
    status, made = ask("POST", "/api/v1/namespaces/default/events", event)
    must(status == 201, "an event", status, made)
    stored = etcd("/v3/kv/range", {"key": base64.b64encode(b"/registry/events/default/seen.1").decode()})
    must(stored.get("count") == "1" and int(stored["kvs"][0].get("lease", 0)) > 0, "an event has a lease", stored)
    left = etcd("/v3/lease/timetolive", {"ID": stored["kvs"][0]["lease"], "keys": True})
    must(0 < int(left["TTL"]) <= int(left["grantedTTL"]), "and the lease goes on", left)


def main():
    eventually("the API server answers", lambda: ask("GET", GROUP)[0] == 200)
    if KIND == "kube":
        # It makes the namespaces itself, a while after it answers.
        eventually("the API server is ready", lambda: ask("GET", "/readyz")[0] == 200)
        eventually("its namespaces", lambda: ask("GET", "/api/v1/namespaces/default")[0] == 200)
    # Its caches are filled at the first list.
    eventually("a first list", lambda: ask("GET", OBJECTS)[0] == 200)
    since = create_and_update()
    pages()
    consistent_reads()
    follows = watches(since)
    compaction(follows)
    leases()
    if KIND == "kube":
        events()
    print(f"{len(follows.events)} events on one watch")


main()
