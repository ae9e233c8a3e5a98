"""Sandbox for readers: a process with bounded time and memory that parses documents, so that a hostile file ends there.

The process receives a document's bytes and returns its text. It opens no file.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from types import TracebackType

from pydantic import TypeAdapter

from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge.documents.decoding import Kind, Unreadable
from seal_lightning.domains.knowledge.documents.markdown import ParsedDocument

_PARSED = TypeAdapter(ParsedDocument)
_START_S = 120.0


@dataclass(kw_only=True)
class ReaderSandbox:
    """A process that reads documents, started for the first one and again after a document ended it."""

    max_seconds: float
    """Per document."""
    max_memory_bytes: int
    """Of the process's address space."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _pipe: Connection[bytes, bytes] | None = field(default=None, init=False)

    def __enter__(self) -> ReaderSandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def read(self, kind: Kind, content: bytes, max_chars: int) -> ParsedDocument:
        """Read a document as ``converters.read_document`` does.

        Raises :class:`Unreadable` also for a document that takes too much time or memory.
        """
        pipe = self._started()
        try:
            pipe.send_bytes(json.dumps({"kind": kind, "max_chars": max_chars, "seconds": self.max_seconds}).encode())
            pipe.send_bytes(content)
            if not pipe.poll(self.max_seconds):
                raise Unreadable(f"took its reader more than {self.max_seconds:g} s (max_seconds)")
            reply = pipe.recv_bytes()
        except (OSError, EOFError) as error:
            self._end()
            raise Unreadable("ended its reader; it is damaged, or takes too much memory") from error
        except BaseException:
            self._end()
            raise
        if reply.startswith(b"!"):
            raise Unreadable(reply[1:].decode())
        return _PARSED.validate_json(reply)

    def _started(self) -> Connection[bytes, bytes]:
        if self._pipe is None:
            self._pipe, child = Pipe()
            program = f"from {__name__} import serve; serve({child.fileno()}, {self.max_memory_bytes})"
            self._process = subprocess.Popen(
                # -P: else modules in the working directory, beside the documents, would be imported first
                [sys.executable, "-P", "-c", program],
                pass_fds=[child.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
            )
            child.close()
            try:
                ready = self._pipe.poll(_START_S) and self._pipe.recv_bytes() == b"ready"
            except EOFError:
                ready = False
            if not ready:
                self._end()
                raise DataError("documents: the process that reads them does not start")
        return self._pipe

    def _end(self) -> None:
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if process is not None and pipe is not None:
            process.kill()
            process.wait()
            pipe.close()


def serve(descriptor: int, max_memory_bytes: int) -> None:
    """Answer requests until the pipe closes: the main function of the sandbox's process."""
    from seal_lightning.domains.knowledge.documents.converters import read_document

    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(5_000)
    pipe: Connection[bytes, bytes] = Connection(descriptor)
    pipe.send_bytes(b"ready")
    with contextlib.suppress(EOFError):
        while True:
            request, content = json.loads(pipe.recv_bytes()), pipe.recv_bytes()
            signal.alarm(int(2 * request["seconds"]) + 6)  # ends this process if its parent was killed
            try:
                reply = _PARSED.dump_json(read_document(request["kind"], content, request["max_chars"]))
            except Unreadable as error:
                reply = f"!{error}".encode()
            except (MemoryError, RecursionError):
                reply = b"!takes too much memory to read; it unpacks or nests without end"
            except Exception as error:  # noqa: BLE001 - a parser's own failure is the document's, and the rest continues
                reply = f"!cannot be read: its parser fails ({type(error).__name__})".encode()
            pipe.send_bytes(reply)
            signal.alarm(0)
