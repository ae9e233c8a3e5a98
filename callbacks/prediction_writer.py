"""The self-edits of ``seal predict`` as a file."""

from __future__ import annotations

import json
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from seal_lightning.distributed import interruption
from seal_lightning.storage.run_dir import RunDir


class SelfEditFile(Callback):
    """Writes the self-edits of ``seal predict`` to ``results/self_edits.jsonl``, one per line.

    Example:
        >>> writer = SelfEditFile()
        >>> writer.on_predict_batch_end(None, None, [{"task_id": "a"}], None, 0)
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect a batch's edits."""
        self._rows += outputs

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all ranks' edits."""
        rows = interruption.gather(self._rows)
        if trainer.is_global_zero:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            path = RunDir.of(trainer).write_text_result("self_edits", "jsonl", lines)
            pl_module.print(f"{len(rows)} self-edits written to {path}")
