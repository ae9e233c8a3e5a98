"""How checkpoints get to the disk and back: whole or not at all, never with a NaN, and without running what they hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from seal_lightning.checkpoints import check_content, remove_checkpoint, write_manifest
from seal_lightning.durable import replacing
from seal_lightning.errors import RunError, shown

_WEIGHTS = ("state_dict", "optimizer_states", "seal")
"""What of a Lightning checkpoint must be finite; metrics of callbacks may well be infinite."""


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints as one file and a manifest with its SHA-256; see :mod:`seal_lightning.checkpoints`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside the path, flush, rename into place. Raises :class:`RunError`; an older checkpoint stays then."""
        place = local_path(path)
        check_finite(checkpoint, place)
        with replacing(place) as file:
            torch.save(checkpoint, cast(BinaryIO, file))
            write_manifest(place, file.size, file.sha256)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint, as tensors and plain containers. Raises :class:`RunError`.

        ``weights_only`` is always on, whatever the caller or the environment says.
        """
        place = local_path(path)
        try:
            with place.open("rb") as file:
                check_content(place, file)
                file.seek(0)
                checkpoint: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        except OSError as error:
            raise RunError(f"the checkpoint {place} cannot be read: {error.strerror or error}") from error
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, TypeError, IndexError) as error:
            reason = str(error).strip().split("\n", 1)[0][:200]
            raise RunError(
                f"{place} is no checkpoint of tensors and plain values ({reason}); nothing was run"
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint and its manifest."""
        remove_checkpoint(local_path(path))


def local_path(path: Any) -> Path:
    """The path, of this machine or a mounted disk. Raises :class:`RunError` for a URL."""
    if "://" in str(path) or "::" in str(path):
        raise RunError(f"the checkpoint {shown(str(path))} is a URL; only files on a disk are loaded. Fetch it first")
    return Path(path)


def check_finite(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise :class:`RunError` when a weight or an optimiser state is NaN or infinite."""
    for key in _WEIGHTS:
        for name, tensor in _tensors(checkpoint.get(key), key):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise RunError(
                    f"{path} was not written: {name} is NaN or infinite. The checkpoints before it are as they were. "
                    "Resume with a lower model.reinforce.learning_rate"
                )


def _tensors(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{name}[{index}]")
