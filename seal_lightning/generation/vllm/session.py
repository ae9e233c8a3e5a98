"""A vLLM server that was met: what it has of ours, and everything that is sent to it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from seal_lightning.core.errors import ConfigError, RunError, SealError, shown
from seal_lightning.distributed.background_loop import run_apart
from seal_lightning.generation.endpoints import Refused
from seal_lightning.generation.vllm.adapters import LoadedAdapter, VllmAdapters, unload_at_exit
from seal_lightning.generation.vllm.client import NotFinite, VllmClient, together
from seal_lightning.generation.vllm.reply import ServedModel, models_of
from seal_lightning.models.lora import LoraAdapter

T = TypeVar("T")
Reader = Callable[[bytes], T]


class VllmSession:
    """One server, from the first request to the last.

    Args:
        connect: makes a client of it.
        adapters: gets adapters to it.
        model: the pretrained model's name there.
        max_adapters: ≥ 1, adapters loaded at a time beside the policy's.
        leaving: the URL and the key with which adapters are unloaded when the process ends.
    """

    def __init__(
        self,
        connect: Callable[[], VllmClient],
        adapters: VllmAdapters,
        model: str,
        max_adapters: int,
        leaving: tuple[str, str],
    ) -> None:
        self.connect = connect
        self.adapters = adapters
        self.model = model
        self.max_adapters = max_adapters
        self._merged: tuple[LoraAdapter, ...] | None = None
        self._held: list[LoadedAdapter] = []
        """The policy's adapter, while it has one."""
        self.end: Callable[[], object] = weakref.finalize(self, _leave, *leaving, self._held, adapters)
        """Leaves nothing at the server; called at the process's end, if not before."""

    def meet(self) -> int | None:
        """The server's context in tokens, where it tells. Raises :class:`ConfigError` where it has no such model."""
        served: list[ServedModel] = []

        async def look(client: VllmClient) -> None:
            served.extend(await client.ask("GET", "/models", None, models_of))

        self._run(look)
        found = next((one for one in served if one.id == self.model), None)
        if found is None:
            names = [one.id for one in served]
            raise ConfigError(f"engine.model: the server has no {shown(self.model)}; it has {shown(names, 300)}")
        return found.max_model_len

    def follow(self, merged: tuple[LoraAdapter, ...]) -> bool:
        """Let the server have the policy with these LoRAs merged; whether it was another one before."""
        if merged == self._merged:
            return False
        self._merged = None

        async def go(client: VllmClient) -> None:
            while self._held:
                await self.adapters.unload(client, self._held.pop())
            if merged:
                self._held.append(await self.adapters.load(client, self.adapters.sum_of(merged)))

        self._run(go)
        self._merged = merged
        return True

    def answers(
        self, adapters: Sequence[LoraAdapter | None], bodies: Sequence[dict[str, Any]], readers: Sequence[Reader[T]]
    ) -> list[T | None]:
        """What the readers make of the completions, in order; None where the server could not write a NaN.

        Args:
            adapters: of the policy that is followed, for each request; None is the policy itself.
            bodies: of the requests, but for the ``model``.
            readers: of the replies.
        """
        merged = self._merged
        assert merged is not None, "follow a policy first"
        found: dict[int, T | None] = {}
        distinct = list({id(adapter): adapter for adapter in adapters if adapter is not None}.values())
        for adapter in distinct:
            self.adapters.check((*merged, adapter))

        async def ask(client: VllmClient, names: dict[int, str]) -> None:
            places = [i for i, adapter in enumerate(adapters) if id(adapter) in names]
            work = [_answer(client, {"model": names[id(adapters[i])], **bodies[i]}, readers[i]) for i in places]
            found.update(zip(places, await together(work), strict=True))

        async def ask_all(client: VllmClient) -> None:
            await ask(client, {id(None): self._held[0].name if self._held else self.model})
            for start in range(0, len(distinct), self.max_adapters):
                part = distinct[start : start + self.max_adapters]
                sums = [self.adapters.sum_of((*merged, adapter)) for adapter in part]
                async with self.adapters.loaded(client, sums) as names:
                    await ask(client, {id(adapter): name for adapter, name in zip(part, names, strict=True)})

        self._run(ask_all)
        return [found[i] for i in range(len(bodies))]

    def _run(self, work: Callable[[VllmClient], Coroutine[Any, Any, None]]) -> None:
        async def connected() -> None:
            async with self.connect().open() as client:
                await work(client)

        try:
            run_apart(connected(), "seal-vllm")
        except Refused as error:
            raise _explained(error, self.model) from error


async def _answer(client: VllmClient, body: dict[str, Any], read: Reader[T]) -> T | None:
    try:
        return await client.ask("POST", "/completions", body, read)
    except NotFinite:
        return None


def _explained(error: Refused, model: str) -> SealError:
    """What to do where a server refuses a request."""
    words = shown(str(error), 300)
    if error.status in (401, 403):
        return ConfigError(f"engine.api_key_env: the server does not take the key: HTTP {error.status}: {words}")
    if error.status == 404:
        return RunError(
            f"engine: the server no longer has {shown(model)} or an adapter that was loaded ({words}); was it started again? "
            "What is stored is kept: go on with: seal fit --resume RUN"
        )
    if "context length" in str(error) or "max_model_len" in str(error):
        return ConfigError(f"engine: a request does not fit the server's context: {words}. Raise its --max-model-len")
    return ConfigError(
        f"engine.base_url: the server refuses what it is asked: HTTP {error.status}: {words}. It must be vLLM, or know its "
        "completions with prompts of token ids"
    )


def _leave(base_url: str, key: str, held: list[LoadedAdapter], adapters: VllmAdapters) -> None:
    if held:
        unload_at_exit(base_url, key, [one.name for one in held])
    adapters.forget([one.folder for one in held])
    held.clear()
