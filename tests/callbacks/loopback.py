"""A stand-in for the tracker's server on the loopback interface: what the real client needs, and a memory."""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"


class Loopback:
    """Answers GraphQL, file streams and uploads; keeps every byte it was sent.

    Attributes:
        received: Bodies of all requests, as they arrived (unzipped).
        history: Rows of metrics, as they came.
        lines: The same by run and line: a client that starts again at line 0 writes over what was there.
        files: Uploaded files by path.
        operations: How often each GraphQL operation came.
        artifacts: Created artifacts, as the client described them.
        sweep: Text of the registered sweep.
        refuse: Answer 401 to everybody.
        trials: Values handed to the agent, in turn.
    """

    def __init__(self, trials: list[dict[str, Any]] | None = None) -> None:
        self.received: list[bytes] = []
        self.history: list[dict[str, Any]] = []
        self.lines: dict[str, dict[int, dict[str, Any]]] = {}
        self.files: dict[str, bytes] = {}
        self.operations: Counter[str] = Counter()
        self.artifacts: list[dict[str, Any]] = []
        self.used: list[str] = []
        self.buckets: dict[str, dict[str, Any]] = {}
        self.sweep = ""
        self.trials = list(trials or [])
        self.refuse = False
        self.states: list[dict[str, str]] = []
        handler = type("Handler", (_Handler,), {"book": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.name = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def __enter__(self) -> Loopback:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Die: later connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    def has(self, text: str) -> bool:
        """Whether the text was sent, plainly or in JSON's escapes."""
        forms = {text.encode(), json.dumps(text)[1:-1].encode(), json.dumps(json.dumps(text))[1:-1].encode()}
        return any(form in body for body in [*self.received, *self.files.values()] for form in forms)

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """The reply to one GraphQL request."""
        fields = next((f for f in _FIELDS if f in query), "?")
        self.operations[fields] += 1
        given = values.get("input") or values
        entity = {"id": "e", "name": "us"}
        number = "UHJvamVjdEludGVybmFsSWQ6MQ=="  # base64 of ProjectInternalId:1
        project = {"id": "p", "internalId": number, "name": values.get("project") or "p", "entity": entity}
        if fields == "viewer":
            return {"viewer": {"id": "v", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []},
                               "email": "", "admin": False}}  # fmt: skip
        if fields == "upsertBucket":
            bucket = self.buckets.setdefault(
                values["name"], {"id": f"b-{values['name']}", "name": values["name"]}
            )
            config = json.loads(values.get("config") or "{}")
            bucket["config"] = json.dumps(json.loads(bucket.get("config", "{}")) | config)
            bucket["displayName"] = values.get("displayName") or bucket.get("displayName") or values["name"]
            known = len(self.lines.get(values["name"], {}))
            reply = bucket | {"project": project, "sweepName": values.get("sweep"), "historyLineCount": known}
            return {"upsertBucket": {"bucket": reply, "inserted": known == 0}}
        if fields == "bucket(":
            known = self.buckets.get(values.get("name", ""))
            count = len(self.lines.get(values.get("name", ""), {}))
            lines = {"summaryMetrics": "{}", "logLineCount": 0, "historyLineCount": count,
                     "eventsLineCount": 0, "historyTail": "[]", "eventsTail": "[]", "tags": [], "notes": None,
                     "wandbConfig": "{}"}  # fmt: skip
            return {"model": {"id": "p", "name": "p", "entity": entity, "bucket": known and known | lines}}
        if fields == "createRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.url}/store/{n}"} for n in values["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if fields == "createArtifact(":
            self.artifacts.append(given)
            number = len(self.artifacts)
            if given.get("useAsInput") or given.get("type") == "cohort":
                self.used.append(
                    str(given.get("artifactCollectionName") or given.get("artifactCollectionNames"))
                )
            artifact = {
                "id": f"a{number}",
                "state": "PENDING",
                "artifactSequence": {"id": "s", "latestArtifact": None},
            }
            return {"createArtifact": {"artifact": artifact}}
        if fields in ("createArtifactManifest", "updateArtifactManifest"):
            number = len(self.artifacts)
            file = {"id": "f", "uploadUrl": f"{self.url}/store/manifest-{number}.json", "uploadHeaders": []}
            return {fields: {"artifactManifest": {"id": f"m{number}", "file": file}}}
        if fields == "createArtifactFiles":
            nodes = []
            for spec in given["artifactFiles"]:
                url = f"{self.url}/store/artifacts/{spec['artifactID']}/{spec['name']}"
                nodes.append({"node": {"id": "f", "name": spec["name"], "displayName": spec["name"], "uploadUrl": url,
                                       "uploadHeaders": [], "uploadMultipartUrls": None, "storagePath": "x",
                                       "artifact": {"id": spec["artifactID"]}}})  # fmt: skip
            return {"createArtifactFiles": {"files": {"edges": nodes}}}
        if fields == "commitArtifact":
            return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": "d"}}}
        if fields == "useArtifact":
            self.used.append(str(given))
            return {"useArtifact": {"artifact": {"id": "a"}}}
        if fields == "upsertSweep":
            self.sweep = values["config"]
            return {
                "upsertSweep": {"sweep": {"name": "sw1", "project": project}, "configValidationWarnings": []}
            }
        if fields == "createAgent":
            return {"createAgent": {"agent": {"id": "agent"}}}
        if fields == "agentHeartbeat":
            self.states.append(json.loads(values["runState"]))
            return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps([self._command()])}}
        if fields == "sweep(":
            sweep = {
                "id": "s",
                "name": "sw1",
                "state": "RUNNING",
                "config": self.sweep,
                "runs": {"edges": []},
            }
            return {"project": {"sweep": sweep}}
        if fields == "artifact(id":
            return {"artifact": self._artifact(str(values["id"]), project)}
        if fields == "artifactType":
            return {"project": None}
        if fields == "serverInfo":
            return {"serverInfo": {"features": [], "cliVersionInfo": {"max_cli_version": "9"}}}
        return {}

    def _artifact(self, artifact_id: str, project: dict[str, Any]) -> dict[str, Any]:
        made = self.artifacts[int(artifact_id[1:]) - 1]
        names = made.get("artifactCollectionNames") or [made.get("artifactCollectionName") or "a"]
        sequence = {"__typename": "ArtifactSequence", "name": names[0], "project": project}
        return {"__typename": "Artifact", "id": artifact_id, "artifactSequence": sequence, "versionIndex": 0,
                "artifactType": {"name": made.get("artifactTypeName", "model")}, "description": None, "metadata": None,
                "ttlDurationSeconds": 0, "ttlIsInherited": True, "tags": [], "historyStep": None,
                "state": "COMMITTED", "size": 1, "digest": "d", "commitHash": "c", "fileCount": 1,
                "createdAt": "2026-01-01T00:00:00", "updatedAt": None, "aliases": []}  # fmt: skip

    def _command(self) -> dict[str, Any]:
        busy = self.states and any(self.states[-1].values())
        if busy:
            return {"type": "wait"}
        if not self.trials:
            return {"type": "exit"}
        number = self.operations["trial"] = self.operations["trial"] + 1
        values = {key: {"value": value} for key, value in self.trials.pop(0).items()}
        return {"type": "run", "run_id": f"trial{number}", "id": "c", "program": "p", "args": values}


_FIELDS = (
    "upsertBucket", "createRunFiles", "createArtifactManifest", "updateArtifactManifest", "createArtifactFiles",
    "createArtifact(", "commitArtifact", "useArtifact", "upsertSweep", "createAgent", "agentHeartbeat", "bucket(",
    "artifact(id", "sweep(", "serverInfo", "viewer", "artifactType",
)  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    book: Loopback

    def log_message(self, *_: object) -> None:
        pass

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data
        self.book.received.append(self.path.encode() + b"\n" + data)
        return data

    def _reply(self, value: Any, code: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        self.book.files[self.path.removeprefix("/store/")] = self._body()
        self._reply({})

    def do_POST(self) -> None:
        data = self._body()
        if self.book.refuse:
            self._reply({"errors": [{"message": "unauthorized"}]}, 401)
        elif self.path.endswith("/file_stream"):
            sent = json.loads(data).get("files", {}).get("wandb-history.jsonl", {})
            lines = self.book.lines.setdefault(self.path.split("/")[-2], {})
            for number, line in enumerate(sent.get("content", []), start=int(sent.get("offset") or 0)):
                lines[number] = json.loads(line)
                self.book.history.append(lines[number])
            self._reply({"exitcode": None, "limits": {}})
        elif self.path.endswith("/graphql"):
            request = json.loads(data)
            self._reply({"data": self.book.answer(request["query"], request.get("variables") or {})})
        else:
            self._reply({})
