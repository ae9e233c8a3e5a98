"""A Hugging Face hub on loopback, as far as ``huggingface_hub`` asks it to create a repository and commit files to it.

It keeps what it is given in memory. Routes are those of the client's own source (2.4): ``/api/models/…``,
``/api/repos/create``, ``/api/validate-yaml``, preupload, the LFS batch with a plain upload, and the commit of JSON lines.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_token_of_a_test"


@dataclass
class Hub:
    """What the server holds, and how it is to fail."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    fail: dict[str, int] = field(default_factory=dict)
    """A part of a path, and the HTTP status that it gets."""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The hub, for the length of the block."""
    hub = Hub()

    class Handler(_Handler):
        held = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    held: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub, path = self.held, self.path
        hub.requests.append(f"{self.command} {path}")
        status = next((status for part, status in hub.fail.items() if part in path), None)
        if status is not None:
            return self._answer(status, {"error": "as the test wants it"})
        if path.startswith("/upload/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/upload/")
            hub.blobs[path.removeprefix("/upload/")] = body
            return self._answer(200, {})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"warnings": [], "errors": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/objects/batch"):
            return self._batch(json.loads(body))
        return self._of_repository(path, body)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = "/".join(part for part in (wanted.get("organization"), wanted["name"]) if part)
        self.held.repositories[name] = {}
        private = wanted.get("visibility") == "private" if "visibility" in wanted else bool(wanted.get("private"))
        self.held.private[name] = private
        self._answer(200, {"url": f"{self.held.url}/{name}", "name": name})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.held.url}/upload/{each['oid']}"}}}
            for each in wanted["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _of_repository(self, path: str, body: bytes) -> None:
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        repo = f"{owner}/{name.split('?')[0]}"
        if repo not in self.held.repositories:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if not rest:
            return self._answer(200, {"id": repo, "modelId": repo, "sha": "0" * 40, "siblings": [], "tags": []})
        if rest[0] == "preupload":
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": modes})
        assert rest[0] == "commit", path
        return self._commit(repo, [json.loads(line) for line in body.splitlines()])

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.held.repositories[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.held.repositories[repo][value["path"]] = self.held.blobs[value["oid"]]
        url = f"{self.held.url}/{repo}/commit/{'1' * 40}"
        self._answer(200, {"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})

    def _answer(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
