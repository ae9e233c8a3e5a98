"""Adapters at a vLLM server: written where it can read them, loaded, and taken away again."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch

from seal_lightning.core.errors import ConfigError, RunError, SealError, shown
from seal_lightning.generation.endpoints import Refused
from seal_lightning.generation.vllm.client import NotFinite, VllmClient, headers, together
from seal_lightning.models.lora import LoraAdapter, joined, save_adapter

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be."""
_LOAD, _UNLOAD = "/load_lora_adapter", "/unload_lora_adapter"
_UNLOAD_TIMEOUT_S = 10.0
"""Short: a run that is told to stop waits for it."""
_START = "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve … --enable-lora --max-lora-rank {rank}"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LoadedAdapter:
    """An adapter that the server has."""

    name: str
    """The ``model`` of requests to it."""
    folder: Path


class VllmAdapters:
    """Gets adapters to one server. Names are of their content and of this process: no two ever meet.

    Args:
        folder: where they are written, a PEFT folder each; None is a folder of its own among the system's temporary ones.
        folder_at_server: the same folder as the server sees it; None is by the same path.
        max_rank: the server's ``--max-lora-rank``.
        base_model: that they belong to, as their files say.
        dtype: of the model; where it is a half precision, weights are written in it, as the server would round them.
    """

    def __init__(
        self, folder: str | None, folder_at_server: str | None, max_rank: int, base_model: str, dtype: torch.dtype
    ) -> None:
        self.max_rank = max_rank
        self._at_server = folder_at_server
        self._base_model = base_model
        self._half = dtype if dtype in (torch.bfloat16, torch.float16) else None
        self._process = uuid.uuid4().hex[:8]
        self._numbers = itertools.count()
        try:
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
            self._own = None if folder is not None else tempfile.mkdtemp(prefix="seal-adapters-")
            self.folder = Path(folder or self._own or "").absolute()
            if not os.access(self.folder, os.W_OK):
                raise PermissionError("not writable")
        except OSError as error:
            raise ConfigError(f"engine.adapter_dir: {shown(folder)} cannot be written to: {error}") from error

    def sum_of(self, adapters: Sequence[LoraAdapter]) -> LoraAdapter:
        """One adapter with the sum of the updates; raises what :meth:`check` does."""
        self.check(adapters)
        return joined([adapter.detached_copy() for adapter in adapters])

    def check(self, adapters: Sequence[LoraAdapter]) -> None:
        """Raise :class:`ConfigError` where the rank of their sum is above the server's."""
        check_rank(sum(adapter.spec.rank for adapter in adapters), self.max_rank)

    @asynccontextmanager
    async def loaded(self, client: VllmClient, adapters: Sequence[LoraAdapter]) -> AsyncIterator[list[str]]:
        """Their names at the server while the block lasts; then they are unloaded and their folders deleted."""
        there: list[LoadedAdapter] = []
        try:
            for adapter in adapters:
                there.append(await self.load(client, adapter))
            yield [one.name for one in there]
        finally:
            await together([self.unload(client, one) for one in there])

    async def load(self, client: VllmClient, adapter: LoraAdapter) -> LoadedAdapter:
        """Raises :class:`ConfigError` where the server was not started for it, or does not see the folder."""
        one = self._written(adapter)
        path = str(one.folder) if self._at_server is None else str(PurePosixPath(self._at_server) / one.name)
        try:
            await client.ask("POST", _LOAD, {"lora_name": one.name, "lora_path": path}, bytes)
        except BaseException as error:
            if isinstance(error, Refused) and "already been loaded" in str(error):
                return one  # a try before this one came through, its answer did not
            if isinstance(error, Refused):
                shutil.rmtree(one.folder, ignore_errors=True)
            else:
                await self.unload(client, one)  # who knows
            if isinstance(error, Refused | RunError):
                raise self._refusal(error, adapter.spec.rank, path) from error
            raise
        return one

    async def unload(self, client: VllmClient, one: LoadedAdapter) -> None:
        """Where it fails, the server keeps what nobody will ask for: that is told and no reason to stop."""
        try:
            await client.ask("POST", _UNLOAD, {"lora_name": one.name}, bytes, num_tries=2, timeout_s=_UNLOAD_TIMEOUT_S)
        except (Refused, NotFinite, SealError) as error:
            if not (isinstance(error, Refused) and error.status == 404):  # 404: it is not there
                _log.warning("the server could not unload the adapter %s: %s", one.name, shown(str(error), 300))
        finally:
            shutil.rmtree(one.folder, ignore_errors=True)

    def forget(self, folders: Sequence[Path]) -> None:
        """Delete these, and the folder of them all where it was made here."""
        own = [] if self._own is None else [Path(self._own)]
        for folder in [*folders, *own]:
            shutil.rmtree(folder, ignore_errors=True)

    def _written(self, adapter: LoraAdapter) -> LoadedAdapter:
        if self._half is not None:
            weights = {name: (a.to(self._half), b.to(self._half)) for name, (a, b) in adapter.weights.items()}
            adapter = replace(adapter, weights=weights)
        name = f"seal-{_digest(adapter)[:16]}-{self._process}-{next(self._numbers)}"
        folder = self.folder / name
        try:
            save_adapter(adapter, folder, self._base_model)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"engine.adapter_dir: an adapter cannot be written to {folder}: {error}. What is stored is kept; make room "
                "and go on with: seal fit --resume RUN"
            ) from error
        return LoadedAdapter(name=name, folder=folder)

    def _refusal(self, error: Refused | RunError, rank: int, path: str) -> SealError:
        """What a server that does not take an adapter was not told."""
        words = str(error.__cause__ if isinstance(error, RunError) else error)
        start = _START.format(rank=step_for(rank))
        if "is greater than max_lora_rank" in words:
            return ConfigError(
                f"engine.max_lora_rank is {self.max_rank}, but the server takes less: {shown(words, 300)}. Start it with "
                f"--max-lora-rank {step_for(rank)} or more ({', '.join(map(str, LORA_RANKS))})"
            )
        if "No adapter found" in words:
            return ConfigError(
                f"engine.adapter_dir: the server does not see the adapter at {path}. Both must see one folder: name it with "
                "engine.adapter_dir, and its path at the server with engine.adapter_dir_at_server"
            )
        if "LoRA is not enabled" in words or (isinstance(error, Refused) and error.status in (404, 405)):
            return ConfigError(f"engine: the server loads no adapters ({shown(words, 200)}). Start it as: {start}")
        if isinstance(error, RunError):
            return error
        return ConfigError(f"engine: the server refuses an adapter: HTTP {error.status}: {shown(words, 300)}")


def check_rank(rank: int, max_rank: int) -> None:
    """Raise :class:`ConfigError` for a rank above the server's."""
    if rank <= max_rank:
        return
    what = (
        f"engine.max_lora_rank: the policy's merged rounds and an adapted copy's LoRA have rank {rank} together, and "
        f"{max_rank} is what the server takes. "
    )
    if rank > LORA_RANKS[-1]:
        raise ConfigError(
            f"{what}vLLM's largest is {LORA_RANKS[-1]}: lower model.policy_adapter.rank, the domain's adapter.rank or "
            "model.rounds, or take engine seal_lightning.generation.TransformersEngine"
        )
    raise ConfigError(
        f"{what}Start it with --max-lora-rank {step_for(rank)} and set engine.max_lora_rank to {step_for(rank)}"
    )


def step_for(rank: int) -> int:
    """The smallest ``--max-lora-rank`` that holds a rank; the largest where none does."""
    return next((step for step in LORA_RANKS if step >= rank), LORA_RANKS[-1])


def unload_at_exit(base_url: str, key: str, names: Sequence[str]) -> None:
    """Ask once, without a thread, and take no for an answer: the process is ending."""
    import httpx2

    with suppress(Exception), httpx2.Client(headers=headers(key), timeout=5.0) as http:
        for name in names:
            http.post(base_url.rstrip("/") + _UNLOAD, json={"lora_name": name})


def _digest(adapter: LoraAdapter) -> str:
    digest = hashlib.sha256(repr((adapter.spec.rank, adapter.spec.alpha, list(adapter.weights))).encode())
    for tensor in adapter.tensors():
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
