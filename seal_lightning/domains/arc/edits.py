"""ARC self-edits as JSON: strictly read, and as a schema whose slots a policy fills by its own probabilities.

Two schemas: ``paper`` is that of §4.2 to the letter; ``extended``, marked ``"version": 2``, adds the geometric
augmentations and the loss on all outputs, which are not in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, ValidationError

from seal_lightning.core import Choice, TextSchema, merge_literals
from seal_lightning.domains.arc.directives import ArcDirectives, Loss
from seal_lightning.domains.edit_json import StrictModel, malformed, read_json_edit

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
    """What an edit says.

    The text is one JSON object of the schema, in a Markdown fence or not, and nothing else. Raises :class:`MalformedEdit`:
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
    """The JSON with its slots: booleans, the strategy, and menus of learning rates and epochs."""
    data_kind, training_kind = _parts(schema)
    strategies = get_args(training_kind.model_fields["strategy"].annotation)
    parts: list[str | Choice] = ['{"version": 2, ' if schema == "extended" else "{", '"data_generation": {']
    for place, key in enumerate(data_kind.model_fields):
        parts += [f'{", " if place else ""}"{key}":', Choice(name=key, options=_BOOLEANS)]
    parts += ['}, "training": {"strategy": "', Choice(name="strategy", options=strategies)]
    parts += ['", "learning_rate": ', Choice(name="learning_rate", options=tuple(map(repr, learning_rates)))]
    parts += [', "num_train_epochs": ', Choice(name="num_train_epochs", options=tuple(map(str, epochs))), "}}"]
    return merge_literals(parts)


def _parts(schema: SchemaName) -> tuple[type[_PaperData], type[_PaperTraining | _ExtendedTraining]]:
    return (_PaperData, _PaperTraining) if schema == "paper" else (_ExtendedData, _ExtendedTraining)
