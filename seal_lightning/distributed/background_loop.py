"""Waiting for others on a thread apart, while the run can still be told to stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from seal_lightning.distributed import interruption

LOOK_EVERY_S = 0.1
"""How often a wait looks whether the run shall stop."""


def on_main_thread() -> bool:
    """Whether a stop may be heard here: signals and ranks are the main thread's."""
    return threading.current_thread() is threading.main_thread()


def run_apart(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run a coroutine in a thread of its own (a notebook's thread has a loop already) and wait for it.

    Where the run is told to stop meanwhile, the work is cancelled and that error raised.
    """
    done: Future[None] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def main() -> None:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        await work

    def run() -> None:
        try:
            done.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_EVERY_S)
            if on_main_thread():
                interruption.check()
    except BaseException:
        for loop, task in running:
            if task is not None:
                with suppress(RuntimeError):  # it is over already
                    loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    done.result()
