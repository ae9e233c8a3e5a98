"""Coroutines run on a background thread, while the main thread watches for a stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from seal_lightning.distributed import interruption

POLL_INTERVAL_S = 0.1


def on_main_thread() -> bool:
    """Return True on the thread that may check for a stop: signals and ranks are the main thread's."""
    return threading.current_thread() is threading.main_thread()


def run_in_background(work: Coroutine[Any, Any, None], name: str) -> None:
    """Run a coroutine on a thread (a notebook's own thread has a loop already) and wait for it.

    A stop of the run cancels the work and is raised.
    """
    done: Future[None] = Future()
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def main() -> None:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        await work

    def run() -> None:
        try:
            done.set_result(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - raised on the waiting thread
            done.set_exception(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_INTERVAL_S)
            if on_main_thread():
                interruption.check()
    except BaseException:
        for loop, task in running:
            if task is not None:
                with suppress(RuntimeError):  # the loop has ended already
                    loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    done.result()
