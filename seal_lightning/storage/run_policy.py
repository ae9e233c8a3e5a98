"""The policies of a run's rounds, as its checkpoints keep them."""

from __future__ import annotations

from typing import Any

from seal_lightning.core.errors import RunError
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.storage.run_dir import RunDir


def merged_rounds(run: RunDir) -> list[dict[str, Any]]:
    """The LoRA, or the folder of whole weights, of every round that a run has finished.

    Raises :class:`RunError` where no checkpoint tells.
    """
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        raise RunError(f"{run.checkpoints} has no checkpoint: the policies of its rounds are not there")
    try:
        merged: list[dict[str, Any]] = AtomicCheckpointIO().load_checkpoint(checkpoint)["seal"]["merged"]
    except (KeyError, TypeError) as error:
        raise RunError(f"{checkpoint} is no checkpoint of a run: it has no {error}") from error
    if not isinstance(merged, list):
        raise RunError(f"{checkpoint} is no checkpoint of a run: its merged rounds are a {type(merged).__name__}")
    return merged
