"""Log filters for the command line: libraries' developer notes, and warnings about deliberate settings."""

from __future__ import annotations

import logging
import warnings

import transformers


def silence_libraries() -> None:
    """Install the filters; a program that imports this package keeps its own settings."""
    transformers.logging.disable_progress_bar()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "Tip:" not in r.getMessage())
    for name in ("httpx", "httpx2", "huggingface_hub", "fsspec"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(
        logging.ERROR
    )  # a kernel that would be fetched from a hub
    for message in (
        "LightningCLI.s args parameter",
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        "`is_gradient_checkpointing` is deprecated",
        r"Found \d+ module\(s\) in eval mode",  # deliberate: no dropout in the base
        "You have overridden `transfer_batch_to_device`",
        "Total length of `list` across ranks is zero",  # no validation tasks
        "The number of training batches",
        "The `srun` command is available",  # raised under torchrun too; a wrong launch is our own error
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")
