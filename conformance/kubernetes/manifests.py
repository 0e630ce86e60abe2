"""Posts every object of packaging/kubernetes to an API server: manifests.py PORT CREDENTIALS.

Each must be taken with no unknown and no repeated field, and without a warning; a pod of each Deployment must be let into
its namespace. Standard library only: the API server reads YAML itself.
"""

import http.client
import json
import pathlib
import ssl
import sys

PORT, CREDENTIALS = int(sys.argv[1]), sys.argv[2]
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "packaging" / "kubernetes"

tls = ssl._create_unverified_context()
tls.load_cert_chain(f"{CREDENTIALS}/admin.pem", f"{CREDENTIALS}/admin.key")


def ask(method, path, body=None, form="application/json"):
    """Status, parsed answer and warnings of one request."""
    connection = http.client.HTTPSConnection("127.0.0.1", PORT, context=tls, timeout=30)
    try:
        connection.request(method, path, body, {"Content-Type": form, "Accept": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read()), answer.headers.get_all("Warning") or []
    finally:
        connection.close()


def plurals(group):
    """Where the kinds of a group are, by their names."""
    at = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    _, found, _ = ask("GET", at)
    return {part["kind"]: (at, part["name"], part["namespaced"]) for part in found["resources"] if "/" not in part["name"]}


def path(version, kind, namespace):
    at, name, is_namespaced = plurals(version)[kind]
    return f"{at}/namespaces/{namespace}/{name}" if is_namespaced else f"{at}/{name}"


def take(document, file):
    # What an object is stands in lines of their own at its left margin.
    said = dict(line.split(": ", 1) for line in document.splitlines() if line.startswith(("apiVersion: ", "kind: ")))
    namespaces = [line.split(": ")[1] for line in document.splitlines() if line.startswith("  namespace: ")]
    where = path(said["apiVersion"], said["kind"], namespaces[0] if namespaces else None)
    status, answer, warnings = ask("POST", f"{where}?fieldValidation=Strict", document.encode(), "application/yaml")
    if status != 201 or warnings:
        sys.exit(f"{file}: {said['kind']}: {status} {answer.get('message')} {warnings}")
    if said["kind"] == "Deployment":
        template = answer["spec"]["template"]
        template["metadata"]["name"] = "one-of-them"
        pod = json.dumps({"apiVersion": "v1", "kind": "Pod", **template})
        status, answer, warnings = ask("POST", f"{path('v1', 'Pod', namespaces[0])}?fieldValidation=Strict", pod)
        if status != 201 or warnings:
            sys.exit(f"{file}: a pod of it: {status} {answer.get('message')} {warnings}")
    return said["kind"]


for file in sorted(FOLDER.glob("*.yaml")):
    taken = [take(document, file.name) for document in file.read_text().split("\n---\n")]
    print(f"  {file.name}: {', '.join(taken)}")
