"""Checkpoints on the disk: written atomically, never with a NaN, and read without running what they hold."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.names import is_url
from seal_lightning.storage.atomic_files import replacing
from seal_lightning.storage.checkpoints import check_content, remove_checkpoint, write_manifest
from seal_lightning.storage.run_dir import RunDir

_WEIGHTS = ("state_dict", "optimizer_states", "seal")
"""Parts of a Lightning checkpoint that must be finite; metrics of callbacks may well be infinite."""
_PLAIN = {type(None), bool, int, float, complex, str}
_PLAIN |= {torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device}
"""Types that ``weights_only=True`` loads again, containers aside."""


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints as one file and a manifest with its SHA-256; see :mod:`seal_lightning.storage.checkpoints`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.ckpt"
        ...     AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}}, path)
        ...     AtomicCheckpointIO().load_checkpoint(path)["state_dict"]["w"].tolist()
        [1.0, 1.0]
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a temporary file, flush it, rename it into place. Raises :class:`RunError`; an older checkpoint stays."""
        target = local_path(path)
        check_savable(checkpoint, target)
        with replacing(target) as file:
            torch.save(checkpoint, cast(BinaryIO, file))
            write_manifest(target, file.size, file.sha256)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Return the checkpoint, as tensors and plain containers. Raises :class:`RunError`.

        ``weights_only`` is always on, whatever the caller or the environment says.
        """
        source = local_path(path)
        try:
            with source.open("rb") as file:
                check_content(source, file)
                file.seek(0)
                checkpoint: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
        except OSError as error:
            raise RunError(f"the checkpoint {source} cannot be read: {error.strerror or error}") from error
        except RunError:
            raise
        except Exception as error:  # a forged file makes torch raise anything, from AttributeError to struct.error
            reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
            raise RunError(f"{source} is not a checkpoint of tensors and plain values ({reason})") from error
        if not isinstance(checkpoint, dict):
            raise RunError(f"{source} is not a checkpoint: it holds a {type(checkpoint).__name__}")
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint and its manifest."""
        remove_checkpoint(local_path(path))


def local_path(path: Any) -> Path:
    """Return the path, on this machine or a mounted disk. Raises :class:`RunError` for a URL."""
    if is_url(str(path)):
        raise RunError(f"the checkpoint {shown(str(path))} is a URL; download it and pass the file's path")
    return Path(path)


def check_savable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise :class:`RunError` for a value that would not load again, and for weights or optimiser states not finite."""
    for key, part in checkpoint.items():
        for name, value in _leaves(part, key):
            if type(value) not in _PLAIN:
                raise RunError(
                    f"{path} was not written: {name} is a {type(value).__name__}, and only tensors, numbers, strings and "
                    "containers of them can be loaded again. Change the state of that callback or module"
                )
            if key in _WEIGHTS and isinstance(value, torch.Tensor) and not value.isfinite().all():
                raise RunError(
                    f"{path} was not written: {name} is NaN or infinite. Earlier checkpoints are unchanged; resume with a "
                    "lower model.reinforce.learning_rate"
                )


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if type(value) in (dict, OrderedDict, Counter):
        for key, item in value.items():
            yield from _leaves(key, f"a key of {name}")
            yield from _leaves(item, f"{name}.{key}")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name, value


def merged_rounds(run: RunDir) -> list[dict[str, Any]]:
    """Return the LoRA, or the folder of whole weights, of every finished round of a run.

    Raises :class:`RunError` where the run has no checkpoint with them.
    """
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise RunError(f"{run.checkpoints} holds no checkpoint, so the policies of its rounds are unknown")
    state = AtomicCheckpointIO().load_checkpoint(checkpoint).get("seal")
    merged = state.get("merged") if isinstance(state, dict) else None
    if not isinstance(merged, list):
        raise RunError(f"{checkpoint} is not a checkpoint of a SEAL run: it has no list of merged rounds")
    return merged
