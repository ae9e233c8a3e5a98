"""Requests in a queue: one thread writes their answers, one after another, so each is what it would be alone.

The server's event loop and the thread share nothing but the queue and each job's events.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from seal_lightning.adapt.ask.models import AdaptedModels
from seal_lightning.adapt.ask.writing import Stopped, write
from seal_lightning.adapt.serve.errors import ApiError
from seal_lightning.core import ChatMessage, Completion, SamplingSpec
from seal_lightning.core.errors import SealError
from seal_lightning.core.seeds import derive_seed
from seal_lightning.models.out_of_memory import is_out_of_memory

_logger = logging.getLogger(__name__)

MOST_WAITING = 128
"""Requests; a further one is told to come back later."""
_LARGEST_SEED = 2**63 - 1
Prompt = str | list[int] | tuple[ChatMessage, ...]


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The prompts were read; answers follow."""

    prompt_tokens: int
    """Of all prompts."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """More of an answer."""

    index: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The end of an answer."""

    index: int
    completion: Completion


Event = Begun | Piece | Ended | ApiError
"""What becomes of a job: it begins, then pieces and the end of each choice in order; or an error at any place."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one request wants."""

    adapter: str | None
    """By name; None is the base model."""
    prompts: Sequence[Prompt]
    sampling: SamplingSpec
    num_choices: int
    """≥ 1, of each prompt."""
    seed: int

    @property
    def num_answers(self) -> int:
        """Over all prompts."""
        return len(self.prompts) * self.num_choices


class Job:
    """A request on its way. All but :meth:`tell` is for the event loop's thread."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.is_given_up = False
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> None:
        """Pass an event on to the event loop; from any thread."""
        with suppress(RuntimeError):  # the loop has ended: nobody listens
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def give_up(self, reason: ApiError) -> None:
        """Nobody wants the answers any more: those that wait end now, and so does the writing of one."""
        self.is_given_up = True
        self._events.put_nowait(reason)

    async def begun(self) -> Begun:
        """Wait for its turn. Raises :class:`ApiError`."""
        event = await self._next()
        assert isinstance(event, Begun)
        return event

    async def answers(self) -> AsyncIterator[Piece | Ended]:
        """What follows, up to the end of the last answer. Raises :class:`ApiError`."""
        missing = self.asked.num_answers
        while missing:
            event = await self._next()
            assert not isinstance(event, Begun)
            missing -= isinstance(event, Ended)
            yield event

    async def _next(self) -> Begun | Piece | Ended:
        event = await self._events.get()
        if isinstance(event, ApiError):
            raise event
        return event


class AnswerQueue:
    """Writes the answers of jobs in the order they came, in a thread of its own."""

    def __init__(self, models: AdaptedModels) -> None:
        self.models = models
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._current: Job | None = None
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    def submit(self, asked: Asked) -> Job:
        """Take a request. Raises :class:`ApiError` where too many wait, or the server is about to end."""
        job = Job(asked)
        with self._change:
            if self._is_closed:
                raise _shutting_down()
            waiting = sum(not job.is_given_up for job in self._jobs)
            if waiting >= MOST_WAITING:
                raise ApiError(503, f"{waiting} requests wait already; ask again later", code="overloaded")
            self._jobs.append(job)
            self._change.notify()
        return job

    def close(self, within_s: float = 10.0) -> None:
        """Give up what waits and what is written, and end the thread; from the event loop's thread."""
        with self._change:
            self._is_closed = True
            jobs = [*self._jobs, *([self._current] if self._current else [])]
            self._jobs.clear()
            self._change.notify()
        for job in jobs:
            job.give_up(_shutting_down())
        self._thread.join(within_s)

    def _work(self) -> None:
        while (job := self._taken()) is not None:
            try:
                self._answer(job)
            except Stopped:
                pass
            except ApiError as error:
                job.tell(error)
            except SealError as error:
                job.tell(ApiError(400, str(error)))
            except Exception as error:  # noqa: BLE001 (the next request is to find a server)
                job.tell(_failure(error))
            self.models.language_model.clear_text_cache()

    def _taken(self) -> Job | None:
        """The next job that somebody waits for; None at the end."""
        with self._change:
            self._current = None
            while not self._is_closed:
                if not self._jobs:
                    self._change.wait()
                elif not (job := self._jobs.popleft()).is_given_up:
                    self._current = job
                    return job
            return None

    def _answer(self, job: Job) -> None:
        asked = job.asked
        rows = [self._prompt_ids(prompt) for prompt in asked.prompts]
        job.tell(Begun(prompt_tokens=sum(map(len, rows))))
        for row, ids in enumerate(rows):
            for choice in range(asked.num_choices):
                index = row * asked.num_choices + choice
                completion = write(
                    self.models.language_model,
                    ids,
                    asked.sampling,
                    adapter=self.models.adapter(asked.adapter),
                    seed=choice_seed(asked.seed, choice),
                    tell=lambda text, index=index: job.tell(Piece(index=index, text=text)),  # type: ignore[misc]
                    given_up=lambda: job.is_given_up,
                )
                job.tell(Ended(index=index, completion=completion))

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        """Raises :class:`ApiError` for what the model cannot be asked."""
        model = self.models.language_model
        if isinstance(prompt, list):
            # The model has a row for each id below; an id beyond would end the process on a GPU.
            known = int(model.model.get_input_embeddings().weight.shape[0])
            if (largest := max(prompt)) >= known:
                raise ApiError(400, f"prompt: token {largest} is not allowed; the model knows 0 to {known - 1}")
        if isinstance(prompt, tuple) and not self.models.has_chat:
            raise ApiError(
                400, "the model's tokenizer has no chat template, so it cannot be asked in a chat: use /v1/completions"
            )
        ids = prompt if isinstance(prompt, list) else model.prompt_ids(prompt)
        if len(ids) >= model.max_length:
            raise ApiError(
                400,
                f"the prompt has {len(ids)} tokens; this model's maximum context length is {model.max_length} tokens and "
                "must hold the answer too",
                code="context_length_exceeded",
            )
        return ids


def choice_seed(seed: int, choice: int) -> int:
    """Of each choice its own; that of the first depends on nothing else, so it is the one of a lone request."""
    return seed & _LARGEST_SEED if choice == 0 else derive_seed(seed, choice)


def _failure(error: Exception) -> ApiError:
    """What a client is told of a failure, which is logged by its kind: its message might hold a prompt."""
    if isinstance(error, RuntimeError) and is_out_of_memory(error):
        _logger.error("out of memory")
        return ApiError(503, "there is not enough memory for this request: ask with a shorter prompt")
    _logger.error("an answer failed: %s", type(error).__name__)
    return ApiError(500, f"the answer could not be written ({type(error).__name__})")


def _shutting_down() -> ApiError:
    return ApiError(503, "the server is about to end; the answer was given up", code="shutting_down")
