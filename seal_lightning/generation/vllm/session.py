"""Session with a vLLM server: the policy's adapter on it, and all requests to it."""

from __future__ import annotations

import asyncio
import shutil
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seal_lightning.core.errors import ConfigError, RunError, SealError, shown
from seal_lightning.distributed.background_loop import run_in_background
from seal_lightning.generation.openai_client import OpenAIClient, RequestFailed
from seal_lightning.generation.vllm.adapters import VllmAdapters, unload_at_exit
from seal_lightning.generation.vllm.completions import ServedModel, models_of
from seal_lightning.models.lora import LoraAdapter

T = TypeVar("T")
Reader = Callable[[str], T]
_NAN_IN_JSON = "not JSON compliant"
"""Part of the error of a server that cannot write a NaN."""


class VllmSession:
    """One server, from the first request to the last.

    Args:
        base_url: of the server.
        key: sent as a bearer token.
        timeout_s: seconds of one request.
        num_tries: ≥ 1, of one request.
        adapters: puts adapters on the server.
        model: the pretrained model's name at the server.
        max_adapters: ≥ 1, adapters loaded at a time beside the policy's.
        max_concurrent: ≥ 1, requests in flight.
    """

    def __init__(
        self,
        *,
        base_url: str,
        key: str,
        timeout_s: float,
        num_tries: int,
        adapters: VllmAdapters,
        model: str,
        max_adapters: int,
        max_concurrent: int,
    ) -> None:
        self.base_url = base_url
        self.adapters = adapters
        self.model = model
        self.max_adapters = max_adapters
        self.max_concurrent = max_concurrent
        self._num_tries = num_tries
        self._key = key
        self._timeout_s = timeout_s
        self._merged: tuple[LoraAdapter, ...] | None = None
        self._held: list[Path] = []
        """The folder of the policy's adapter, while it has one."""
        self.end: Callable[[], object] = weakref.finalize(self, _clean_up, base_url, key, self._held, adapters)
        """Unloads the policy's adapter; called at the end of the process, if not before."""

    def context_length(self) -> int | None:
        """Return the model's context at the server in tokens, where stated. Raises :class:`ConfigError` for no model."""
        served: list[ServedModel] = []

        async def look(client: OpenAIClient) -> None:
            served.extend(await client.request("get", "/models", models_of))

        self._run(look)
        found = next((one for one in served if one.id == self.model), None)
        if found is None:
            names = [one.id for one in served]
            raise ConfigError(f"engine.model: the server has no {shown(self.model)}; it has {shown(names, 300)}")
        return found.max_model_len

    def follow(self, merged: tuple[LoraAdapter, ...]) -> bool:
        """Put the policy with these merged LoRAs on the server; return whether the policy changed."""
        if merged == self._merged:
            return False
        self._merged = None

        async def replace_adapter(client: OpenAIClient) -> None:
            while self._held:
                await self.adapters.unload(client, self._held.pop())
            if merged:
                self._held.append(await self.adapters.load(client, self.adapters.merged(merged)))

        self._run(replace_adapter)
        self._merged = merged
        return True

    def answers(
        self, adapters: Sequence[LoraAdapter | None], bodies: Sequence[dict[str, Any]], readers: Sequence[Reader[T]]
    ) -> list[T | None]:
        """Return the completions as the readers parse them, in order; None where the server could not write a NaN.

        Args:
            adapters: of the followed policy, for each request; None is the policy itself.
            bodies: of the requests, without their ``model``.
            readers: of the replies.
        """
        merged = self._merged
        assert merged is not None, "follow a policy first"
        found: dict[int, T | None] = {}
        distinct = list({id(adapter): adapter for adapter in adapters if adapter is not None}.values())
        sums = {id(adapter): self.adapters.merged((*merged, adapter)) for adapter in distinct}

        async def ask(client: OpenAIClient, free: asyncio.Semaphore, names: dict[int, str]) -> None:
            async def answer(i: int) -> None:
                async with free:
                    found[i] = await _answer(client, {"model": names[id(adapters[i])], **bodies[i]}, readers[i])

            await _together([answer(i) for i, adapter in enumerate(adapters) if id(adapter) in names])

        async def ask_all(client: OpenAIClient) -> None:
            free = asyncio.Semaphore(self.max_concurrent)
            await ask(client, free, {id(None): self._held[0].name if self._held else self.model})
            for start in range(0, len(distinct), self.max_adapters):
                ids = [id(adapter) for adapter in distinct[start : start + self.max_adapters]]
                async with self.adapters.loaded(client, [sums[one] for one in ids]) as names:
                    await ask(client, free, dict(zip(ids, names, strict=True)))

        self._run(ask_all)
        return [found[i] for i in range(len(bodies))]

    def _run(self, work: Callable[[OpenAIClient], Coroutine[Any, Any, None]]) -> None:
        async def connected() -> None:
            client = OpenAIClient(self.base_url, self._key, self._timeout_s, self._num_tries - 1)
            async with client.open():
                await work(client)

        try:
            run_in_background(connected(), "seal-vllm")
        except RequestFailed as error:
            raise self._explained(error) from error

    def _explained(self, error: RequestFailed) -> SealError:
        """Return an error that says what to do about a failed request."""
        if error.is_temporary:
            return RunError(
                f"engine.base_url: the server {self.base_url} gave no usable answer in {self._num_tries} tries ({error}). No "
                "attempt is scored by that; start the server again and resume with `seal fit --resume RUN`"
            )
        if error.status in (401, 403):
            return ConfigError(f"engine.api_key_env: the server does not take the key: {error}")
        if error.status == 404:
            return RunError(
                f"engine: the server no longer has {shown(self.model)} or a loaded adapter ({error}); was it restarted? "
                "Resume with `seal fit --resume RUN`"
            )
        if "context length" in str(error) or "max_model_len" in str(error):
            return ConfigError(f"engine: a request exceeds the server's context: {error}. Raise its --max-model-len")
        return ConfigError(f"engine.base_url: the server refuses a request: {error}. It must be vLLM")


async def _answer(client: OpenAIClient, body: dict[str, Any], read: Reader[T]) -> T | None:
    try:
        return await client.request("post", "/completions", read, body)
    except RequestFailed as error:
        if _NAN_IN_JSON in str(error):
            return None
        raise


async def _together(work: Sequence[Awaitable[None]]) -> None:
    """Run all at once; the first error cancels the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _clean_up(base_url: str, key: str, held: list[Path], adapters: VllmAdapters) -> None:
    if held:
        unload_at_exit(base_url, key, [folder.name for folder in held])
    for folder in held:
        shutil.rmtree(folder, ignore_errors=True)
    adapters.delete_folder()
    held.clear()
