"""An OpenAI-compatible server on loopback that behaves as it is told: well, or in one of the ways servers fail."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Hands each request to the next behaviour; the last one stays."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length))
        with self.server.lock:
            self.server.requests.append(body)
            self.server.headers.append({name.title(): value for name, value in self.headers.items()})
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            behaviours = self.server.behaviours
            behaviour = behaviours.pop(0) if len(behaviours) > 1 else behaviours[0]
        try:
            behaviour(self, body)
        except OSError:
            self.close_connection = True  # the client has gone
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def send(self, status: int, content: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """What it was asked, and how it behaves."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours = list(behaviours)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def serving(*behaviours: Behaviour) -> Iterator[Server]:
    server = Server(behaviours)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def completion(content: str | None, finish_reason: str = "stop", usage: bool = True, **message: Any) -> bytes:
    body: dict[str, Any] = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": content, **message},
            }
        ],
    }
    if usage:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105}
    return json.dumps(body).encode()


def says(content: str | None, **options: Any) -> Behaviour:
    return lambda handler, body: handler.send(200, completion(content, **options))


def decides(content: str) -> Behaviour:
    """What a server with schemas says: JSON."""
    return says(json.dumps({"option": content}))


def fails(status: int, content: bytes = b'{"error": {"message": "no"}}', **headers: str) -> Behaviour:
    return lambda handler, body: handler.send(status, content, **headers)


def sends(content: bytes, kind: str = "application/json", **headers: str) -> Behaviour:
    return lambda handler, body: handler.send(200, content, kind, **headers)


def hangs(seconds: float) -> Behaviour:
    def behave(handler: Handler, body: dict[str, Any]) -> None:
        time.sleep(seconds)
        handler.send(200, completion('{"option": "yes"}'))

    return behave


def drips(handler: Handler, body: dict[str, Any]) -> None:
    """A byte now and then: no single wait is long."""
    content = completion('{"option": "yes"}')
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def cuts(handler: Handler, body: dict[str, Any]) -> None:
    """Half of what was announced, then the connection is closed."""
    content = completion('{"option": "yes"}')
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def hangs_up(handler: Handler, body: dict[str, Any]) -> None:
    """Not a byte."""
    handler.close_connection = True
    handler.connection.close()


def knows_no_schema(handler: Handler, body: dict[str, Any]) -> None:
    if "response_format" in body:
        handler.send(400, b'{"error": {"message": "response_format is unknown here"}}')
    else:
        handler.send(200, completion("Yes."))
