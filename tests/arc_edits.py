"""ARC self-edits made to order."""

from __future__ import annotations

import json
from typing import Any

from seal_lightning.domains.arc import ArcDirectives
from seal_lightning.domains.arc.augmenters import MENU
from seal_lightning.domains.arc.edits import SchemaName

_STRATEGIES = {
    "all_tokens": "train_using_all_tokens",
    "last_output": "train_using_output_tokens",
    "all_outputs": "train_using_all_outputs",
}


def write_edit(directives: ArcDirectives, schema: SchemaName) -> str:
    """The edit that says this, as constrained decoding writes it: the inverse of ``read_edit``."""
    groups = [group for group in MENU if group != "geometric" or schema == "extended"]
    content: dict[str, Any] = {"version": 2} if schema == "extended" else {}
    content["data_generation"] = {f"use_{group}_augmentations": group in directives.augmentations for group in groups}
    content["training"] = {
        "strategy": _STRATEGIES[directives.loss],
        "learning_rate": directives.learning_rate,
        "num_train_epochs": directives.num_epochs,
    }
    return json.dumps(content)
