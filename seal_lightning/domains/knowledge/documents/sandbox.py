"""Reading in a process apart: what a hostile file does to a parser ends there, in bounded time and memory.

The process gets a document's bytes and gives back its text; it opens no file and is started with the same interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO, Any

from pydantic import TypeAdapter

from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.domains.knowledge.documents.extract import Extract, Unreadable
from seal_lightning.domains.knowledge.documents.kinds import Kind
from seal_lightning.domains.knowledge.documents.reading import read_document

_EXTRACT = TypeAdapter(Extract)
_LENGTH = struct.Struct(">Q")
_LOOK_EVERY_S = 0.5


@dataclass(kw_only=True)
class ReaderSandbox:
    """A process that reads documents, started at the first one and again where one ended it."""

    max_seconds: float
    """For one document."""
    max_memory_bytes: int
    """Of the process's address space, what it starts with included."""
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> ReaderSandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def read(self, kind: Kind, content: bytes, max_chars: int) -> Extract:
        """As :func:`read_document`; raises :class:`Unreadable` also where it takes too much time or memory."""
        process = self._started()
        head = json.dumps({"kind": kind, "max_chars": max_chars, "seconds": self.max_seconds}).encode()
        try:
            _send(process.stdin, head)
            _send(process.stdin, content)
            reply = self._reply(process)
        except (BrokenPipeError, EOFError) as error:
            code = process.wait()
            self._end()
            raise Unreadable(
                f"made its reader fail (exit code {code}); it is damaged, or takes too much memory"
            ) from error
        except BaseException:
            self._end()
            raise
        found = json.loads(reply)
        if "needs" in found:
            raise ConfigError(found["needs"])
        if "reason" in found:
            raise Unreadable(found["reason"])
        return _EXTRACT.validate_python(found["extract"])

    def _reply(self, process: subprocess.Popen[bytes]) -> bytes:
        assert process.stdout is not None
        deadline = time.monotonic() + self.max_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(_LOOK_EVERY_S):
                if time.monotonic() > deadline:
                    raise Unreadable(f"took its reader more than {self.max_seconds:g} s (max_seconds)")
        return _received(process.stdout)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            self._process = subprocess.Popen(
                # -P: else what lies in the working directory, by the documents, would be imported first
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({self.max_memory_bytes})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
                start_new_session=True,  # Ctrl-C is for this process, which ends that one
            )
            try:
                ready = _received(self._process.stdout) == b"ready"
            except EOFError:
                ready = False
            if not ready:
                self._end()
                raise DataError("documents: the process that reads them does not start")
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe and pipe.close()


def serve(max_memory_bytes: int) -> None:
    """What the process apart runs: documents come in at standard input, one after the other, until it closes."""
    _limit_memory(max_memory_bytes)
    sys.setrecursionlimit(5_000)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    _send(replies, b"ready")
    while True:
        try:
            head, content = json.loads(_received(requests)), _received(requests)
        except EOFError:
            return
        _end_after(2 * head["seconds"] + 5)
        _send(replies, json.dumps(_answer(head, content)).encode())
        _end_after(None)


def _answer(head: dict[str, Any], content: bytes) -> dict[str, Any]:
    try:
        return {"extract": asdict(read_document(head["kind"], content, head["max_chars"]))}
    except Unreadable as error:
        return {"reason": str(error)}
    except ConfigError as error:
        return {"needs": str(error)}
    except (MemoryError, RecursionError):
        return {"reason": "takes too much memory to read; it unpacks or nests without end"}
    except Exception as error:  # noqa: BLE001 - a parser's own fault is the document's reason, and the rest goes on
        return {"reason": f"cannot be read: it makes its parser fail ({type(error).__name__})"}


def _limit_memory(max_bytes: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _end_after(seconds: float | None) -> None:
    """Should the process that asked be killed, this one does not go on without it."""
    if hasattr(signal, "alarm"):
        signal.alarm(0 if seconds is None else int(seconds) + 1)


def _send(pipe: IO[bytes] | None, content: bytes) -> None:
    assert pipe is not None
    pipe.write(_LENGTH.pack(len(content)))
    pipe.write(content)
    pipe.flush()


def _received(pipe: IO[bytes] | None) -> bytes:
    assert pipe is not None
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    return pipe.read(_LENGTH.unpack(head)[0])
