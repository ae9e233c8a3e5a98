"""One thread that writes the answers of requests in the order they came, so that each is what it would be alone."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.streaming import AnswerStopped
from seal_lightning.adapt.serve.bodies import Prompt
from seal_lightning.adapt.serve.replies import ApiError
from seal_lightning.core import Completion, SamplingSpec
from seal_lightning.core.errors import DataError, SealError
from seal_lightning.core.seeds import derive_seed
from seal_lightning.models.out_of_memory import is_out_of_memory

_logger = logging.getLogger(__name__)

MAX_PENDING = 129
"""Requests, the one being answered included; a further one is refused."""
_LARGEST_SEED = 2**63 - 1

Event = int | tuple[int, str | Completion]
"""First the tokens of all prompts; then, answer by answer, its index with each piece of text, and with its completion."""
Emit = Callable[[Event | None], None]


@dataclass(frozen=True, kw_only=True)
class AnswerRequest:
    """The answers that one HTTP request wants."""

    adapter: str | None
    """By name; None is the base model."""
    prompts: Sequence[Prompt]
    sampling: SamplingSpec
    num_choices: int
    """≥ 1, per prompt."""
    seed: int


class AnswerJob:
    """A request in the worker's queue; used by the event loop's thread."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.future: Future[None] = Future()
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()

    def cancel(self) -> None:
        """End the job: a waiting one now, a running one after its next token."""
        self.cancelled.set()
        self.future.cancel()


class AnswerWorker:
    """The thread that writes, and its queue."""

    def __init__(self, models: AdaptedModels) -> None:
        self.models = models
        self.num_pending = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="answers")
        self._closed = threading.Event()

    def submit(self, request: AnswerRequest) -> AnswerJob:
        """Queue a request. Raises :class:`ApiError` where too many wait, or the server is shutting down."""
        if self._closed.is_set():
            raise _shutting_down()
        if self.num_pending >= MAX_PENDING:
            raise ApiError(503, f"{self.num_pending} requests are waiting; try again later", code="overloaded")
        job, loop = AnswerJob(), asyncio.get_running_loop()

        def emit(event: Event | None) -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody listens
                loop.call_soon_threadsafe(job.events.put_nowait, event)

        def is_cancelled() -> bool:
            return job.cancelled.is_set() or self._closed.is_set()

        self.num_pending += 1
        job.future = self._thread.submit(self._write, request, is_cancelled, emit)
        job.future.add_done_callback(lambda _: emit(None))
        return job

    async def events(self, job: AnswerJob) -> AsyncIterator[Event]:
        """Yield a job's events up to its end. Raises :class:`ApiError`."""
        try:
            while (event := await job.events.get()) is not None:
                yield event
            job.future.result()  # raises its error
        except (AnswerStopped, CancelledError) as error:
            raise (_shutting_down() if self._closed.is_set() else ApiError(499, "the client has left")) from error
        except DataError as error:
            raise ApiError(400, str(error), code="context_length_exceeded") from error
        except SealError as error:
            raise ApiError(400, str(error)) from error
        except Exception as error:
            raise _failure(error) from error
        finally:
            job.cancel()
            self.num_pending -= 1

    def close(self) -> None:
        """Cancel all jobs and end the thread."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _write(self, request: AnswerRequest, is_cancelled: Callable[[], bool], emit: Emit) -> None:
        models = self.models
        try:
            rows = [models.prompt_ids(prompt) for prompt in request.prompts]
            emit(sum(map(len, rows)))
            for row, ids in enumerate(rows):
                for choice in range(request.num_choices):
                    index = row * request.num_choices + choice
                    completion = models.write(
                        ids,
                        request.sampling,
                        request.adapter,
                        seed=choice_seed(request.seed, choice),
                        emit=lambda text, index=index: emit((index, text)),  # type: ignore[misc]
                        is_cancelled=is_cancelled,
                    )
                    emit((index, completion))
        finally:
            models.language_model.clear_text_cache()


def choice_seed(seed: int, choice: int) -> int:
    """Return the seed of each choice; that of the first is the one of a request for one choice."""
    return seed & _LARGEST_SEED if choice == 0 else derive_seed(seed, choice)


def _failure(error: Exception) -> ApiError:
    """Return and log a failure by its kind only: its message might hold a prompt."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        _logger.error("out of memory")
        return ApiError(503, "there is not enough memory for this request; use a shorter prompt")
    _logger.error("an answer failed: %s", type(error).__name__)
    return ApiError(500, f"the answer could not be written ({type(error).__name__})")


def _shutting_down() -> ApiError:
    return ApiError(503, "server shutting down; request cancelled", code="shutting_down")
