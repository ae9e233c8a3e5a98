"""ARC self-edits as JSON: a strict parser, and a schema for constrained decoding.

Two schemas: ``paper`` is exactly that of §4.2; ``extended``, marked ``"version": 2``, adds the geometric
augmentations and the loss on all outputs, which are not in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError

from seal_lightning.core import Choice, TextSchema, merge_literals
from seal_lightning.core.errors import require
from seal_lightning.domains.arc.augmenters import MENU
from seal_lightning.domains.edit_json import StrictModel, malformed, read_json_edit

Loss = Literal["all_tokens", "last_output", "all_outputs"]
"""Tokens of a training puzzle in the loss: all; its held-out output; all outputs (not in the paper)."""


@dataclass(frozen=True, kw_only=True)
class ArcDirectives:
    """Update directives of a self-edit, or of a fixed test-time-training configuration.

    Example:
        >>> ArcDirectives(augmentations=("basic", "size"), num_epochs=3).loss
        'last_output'

    """

    augmentations: tuple[str, ...] = ()
    """Groups of the menu, see :data:`seal_lightning.domains.arc.augmenters.MENU`."""
    loss: Loss = "last_output"
    learning_rate: float = 1e-4
    """> 0"""
    num_epochs: int = 2
    """≥ 1"""

    def __post_init__(self) -> None:
        """Check the settings. Raises :class:`ConfigError`."""
        known, rate = {*self.augmentations} <= {*MENU}, self.learning_rate
        require(known, "without_edit.augmentations", self.augmentations, f"some of {', '.join(MENU)}")
        require(0 < rate < math.inf, "without_edit.learning_rate", rate, "above 0 and finite")
        require(self.num_epochs >= 1, "without_edit.num_epochs", self.num_epochs, "at least 1")


SchemaName = Literal["paper", "extended"]

MAX_EDIT_BYTES = 4096
"""An edit of the extended schema has about 350."""
LEARNING_RATES = (1e-7, 0.1)
"""Lowest and highest learning rate an edit may ask for."""
MAX_EPOCHS = 375
"""More would be over the cap of 375 steps whatever the data."""

_LOSSES: dict[str, Loss] = {
    "train_using_all_tokens": "all_tokens",
    "train_using_output_tokens": "last_output",
    "train_using_all_outputs": "all_outputs",
}
_GROUPS = {f"use_{name}_augmentations": name for name in ("basic", "size", "chain", "repeat", "geometric")}
_BOOLEANS = (" true", " false")


class _PaperData(StrictModel):
    use_basic_augmentations: bool
    use_size_augmentations: bool
    use_chain_augmentations: bool
    use_repeat_augmentations: bool


class _ExtendedData(_PaperData):
    use_geometric_augmentations: bool


class _Optimizer(StrictModel):
    learning_rate: Annotated[float, Field(ge=LEARNING_RATES[0], le=LEARNING_RATES[1])]
    num_train_epochs: Annotated[int, Field(ge=1, le=MAX_EPOCHS)]


class _PaperTraining(_Optimizer):
    strategy: Literal["train_using_all_tokens", "train_using_output_tokens"]


class _ExtendedTraining(_Optimizer):
    strategy: Literal["train_using_all_tokens", "train_using_output_tokens", "train_using_all_outputs"]


class _PaperEdit(StrictModel):
    data_generation: _PaperData
    training: _PaperTraining


class _ExtendedEdit(StrictModel):
    version: Annotated[int, Field(ge=2, le=2)]  # Literal[2] would take 2.0
    data_generation: _ExtendedData
    training: _ExtendedTraining


_EDITS: dict[SchemaName, type[_PaperEdit | _ExtendedEdit]] = {"paper": _PaperEdit, "extended": _ExtendedEdit}


def read_edit(text: str, schema: SchemaName) -> ArcDirectives:
    """Parse an edit: one JSON object of the schema and nothing else, in a Markdown fence or not.

    Raises :class:`MalformedEdit`:
    ``too long``, ``not JSON``, ``duplicate key``, ``missing key``, ``extra key``, ``out of bounds`` or ``wrong value``.
    """
    content = read_json_edit(text, MAX_EDIT_BYTES)
    try:
        edit = _EDITS[schema].model_validate(content)
    except ValidationError as error:
        raise malformed(error) from error
    chosen = edit.data_generation.model_dump()
    return ArcDirectives(
        augmentations=tuple(name for key, name in _GROUPS.items() if chosen.get(key)),
        loss=_LOSSES[edit.training.strategy],
        learning_rate=edit.training.learning_rate,
        num_epochs=edit.training.num_train_epochs,
    )


def edit_schema(schema: SchemaName, learning_rates: Sequence[float], epochs: Sequence[int]) -> TextSchema:
    """Return the JSON as choices: booleans, the strategy, and menus of learning rates and epochs."""
    paper = schema == "paper"
    data_kind, training_kind = (_PaperData, _PaperTraining) if paper else (_ExtendedData, _ExtendedTraining)
    strategies = get_args(training_kind.model_fields["strategy"].annotation)
    parts: list[str | Choice] = ["{" if paper else '{"version": 2, ', '"data_generation": {']
    for place, key in enumerate(data_kind.model_fields):
        parts += [f'{", " if place else ""}"{key}":', Choice(name=key, options=_BOOLEANS)]
    parts += ['}, "training": {"strategy": "', Choice(name="strategy", options=strategies)]
    parts += ['", "learning_rate": ', Choice(name="learning_rate", options=tuple(map(repr, learning_rates)))]
    parts += [', "num_train_epochs": ', Choice(name="num_train_epochs", options=tuple(map(str, epochs))), "}}"]
    return merge_literals(parts)
