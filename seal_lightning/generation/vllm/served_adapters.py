"""Adapters on a vLLM server: written to a shared folder, loaded, and unloaded."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import torch

from seal_lightning.core.errors import ConfigError, RunError, SealError, shown
from seal_lightning.generation.openai_client import OpenAIClient, RequestFailed
from seal_lightning.models.lora import LoraAdapter, save_adapter, sum_adapters

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that ``--max-lora-rank`` allows."""
_LOAD, _UNLOAD = "/load_lora_adapter", "/unload_lora_adapter"
_UNLOAD_TIMEOUT_S = 10.0
"""Short, because a run that is stopping waits for it."""

_log = logging.getLogger(__name__)


class VllmAdapters:
    """Adapters of one process on one server. Names are random, so that no two processes ever meet.

    Args:
        folder: of the PEFT folders; None is a temporary one, deleted at the end.
        folder_at_server: the same folder as the server sees it; None is the same path.
        max_rank: the server's ``--max-lora-rank``.
        base_model: the name in the adapters' files.
        dtype: of the model; with half precision, weights are written in it, as the server would round them.
    """

    def __init__(
        self, folder: str | None, folder_at_server: str | None, max_rank: int, base_model: str, dtype: torch.dtype
    ) -> None:
        self.max_rank = max_rank
        self._at_server = folder_at_server
        self._base_model = base_model
        self._half = dtype if dtype in (torch.bfloat16, torch.float16) else None
        try:
            if folder is not None:
                Path(folder).mkdir(parents=True, exist_ok=True)
            self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="seal-adapters-")
            self.folder = Path(folder or (self._temporary and self._temporary.name) or "").absolute()
            if not os.access(self.folder, os.W_OK):
                raise PermissionError("not writable")
        except OSError as error:
            raise ConfigError(f"engine.adapter_dir: {shown(folder)} cannot be written to: {error}") from error

    def merged(self, adapters: Sequence[LoraAdapter]) -> LoraAdapter:
        """Return one adapter with the sum of the updates. Raises :class:`ConfigError` for a rank above the server's."""
        check_rank(sum(adapter.spec.rank for adapter in adapters), self.max_rank)
        return sum_adapters([adapter.detached_copy() for adapter in adapters])

    @asynccontextmanager
    async def loaded(self, client: OpenAIClient, adapters: Sequence[LoraAdapter]) -> AsyncIterator[list[str]]:
        """Load adapters and yield their names at the server; at the end they are unloaded and their folders deleted."""
        folders: list[Path] = []
        try:
            for adapter in adapters:
                folders.append(await self.load(client, adapter))
            yield [folder.name for folder in folders]
        finally:
            for folder in folders:
                await self.unload(client, folder)

    async def load(self, client: OpenAIClient, adapter: LoraAdapter) -> Path:
        """Load an adapter and return its folder, which has its name at the server.

        Raises :class:`ConfigError` where the server was not started for adapters, or does not see the folder.
        """
        folder = self._written(adapter)
        path = str(folder) if self._at_server is None else str(PurePosixPath(self._at_server) / folder.name)
        try:
            await client.request("post", _LOAD, str, {"lora_name": folder.name, "lora_path": path})
        except RequestFailed as error:
            if "already been loaded" in str(error):
                return folder  # a retry: the request before it succeeded, its reply was lost
            await self.unload(client, folder)  # it may be loaded all the same
            raise self._explained(error, adapter.spec.rank, path) from error
        except BaseException:
            await self.unload(client, folder)
            raise
        return folder

    async def unload(self, client: OpenAIClient, folder: Path) -> None:
        """Unload an adapter and delete its folder; a failure is logged, since its name is never used again."""
        options = {"max_retries": 1, "timeout": _UNLOAD_TIMEOUT_S}
        try:
            await client.request("post", _UNLOAD, str, {"lora_name": folder.name}, **options)
        except RequestFailed as error:
            if error.status != 404:  # 404: it is not loaded
                _log.warning("the server could not unload the adapter %s: %s", folder.name, error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _written(self, adapter: LoraAdapter) -> Path:
        if self._half is not None:
            weights = {name: (a.to(self._half), b.to(self._half)) for name, (a, b) in adapter.weights.items()}
            adapter = replace(adapter, weights=weights)
        folder = self.folder / f"seal-{uuid.uuid4().hex}"
        try:
            save_adapter(adapter, folder, self._base_model)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise RunError(
                f"engine.adapter_dir: an adapter cannot be written to {folder}: {error}. Make room and resume with "
                "`seal fit --resume RUN`"
            ) from error
        return folder

    def _explained(self, error: RequestFailed, rank: int, path: str) -> SealError | RequestFailed:
        """Return an error that names what the server needs; the request's own error for a server that is down."""
        # vLLM answers with 500 for some of what it was not started for.
        if error.is_temporary and not any(part in str(error) for part in ("No adapter found", "add_lora")):
            return error
        return ConfigError(
            f"engine: the server does not load an adapter of rank {rank} at {path}: {error}. Start it as "
            f"VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve … --enable-lora --max-lora-rank {step_for(rank)}, with a "
            "folder that it sees (engine.adapter_dir, engine.adapter_dir_at_server)"
        )


def check_rank(rank: int, max_rank: int) -> None:
    """Raise :class:`ConfigError` for a rank above the server's."""
    if rank <= max_rank:
        return
    problem = (
        f"engine.max_lora_rank: the policy's merged rounds and an adapted copy's LoRA have rank {rank} together, and "
        f"{max_rank} is the server's maximum. "
    )
    if rank > LORA_RANKS[-1]:
        raise ConfigError(
            f"{problem}vLLM's largest is {LORA_RANKS[-1]}: lower model.policy_adapter.rank, the domain's adapter.rank or "
            "model.rounds, or use engine seal_lightning.generation.TransformersEngine"
        )
    step = step_for(rank)
    raise ConfigError(f"{problem}Start it with --max-lora-rank {step} and set engine.max_lora_rank to {step}")


def step_for(rank: int) -> int:
    """Return the smallest ``--max-lora-rank`` that holds a rank; the largest where none does."""
    return next((step for step in LORA_RANKS if step >= rank), LORA_RANKS[-1])
