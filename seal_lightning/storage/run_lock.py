"""One process group at a run: a second one would take the first one's files for leftovers."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from seal_lightning.core.errors import RunError
from seal_lightning.storage.atomic_files import how_to_go_on, make_folder, reporting


class RunLock:
    """A lock on ``.lock`` of a run directory, held by the first rank for a whole fit; it goes with the process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / ".lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raise :class:`RunError` when another process holds it; where the file system cannot lock, all goes on."""
        with reporting(self.path):
            make_folder(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise RunError(
                    f"another process is at {self.path.parent}; nothing was touched. Wait for it, or stop it with SIGTERM "
                    f"and go on with {how_to_go_on()}"
                ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process go on; once is enough."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a forked process may have it open too
            os.close(self._descriptor)
            self._descriptor = None
