"""The settings of an adaptation, in layers: a recipe of this package, what the model was trained with, files, options."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from seal_lightning.adapt.spec import AdaptSpec
from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.domains.knowledge import KnowledgeDomain
from seal_lightning.evaluation import ContinualSelfEdits, ContinuedPretraining
from seal_lightning.models.pretrained import EMBEDDED
from seal_lightning.storage.run_dir import read_settings
from seal_lightning.training.module import SealModule

RECIPES = Path(__file__).with_name("recipes")
_PARTS = ("model", "adapt")
_OF_A_FIT = ("run_dir", "trainer", "data", "seed_everything", "ckpt_path", "weights_only")
"""Parts of a run's configuration that mean nothing here: such a file may be given all the same."""
_SOURCES = ("--model.pretrained.source", "--model.pretrained.revision")
_MAX_REASON = 2_000


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration and what it stands for."""

    module: SealModule
    spec: AdaptSpec
    settings: dict[str, Any]
    """All of it as plain values."""


def configured(
    model: Mapping[str, Any],
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    adapt: Mapping[str, Any] | None = None,
    *,
    source_is_given: bool = False,
) -> Configuration:
    """What the layers say together; a later one wins.

    Args:
        model: what is known of the model that is adapted, beyond the recipe for its kind.
        files: configurations with the parts ``model`` and ``adapt``; a run's own parts are ignored.
        overrides: ``--model.num_edits 3`` and the like, as words.
        adapt: as ``model``, of the part ``adapt``.
        source_is_given: whether the model was named apart from them: files then do not choose another.

    Raises :class:`ConfigError` for what cannot be parsed, or is no setting.
    """
    given = [_of_file(name) for name in files]
    if source_is_given:
        given = [_without_source(layer) for layer in given]
        if strange := [word for word in overrides if word.startswith(_SOURCES)]:
            raise ConfigError(
                f"{strange[0]} is not allowed beside --policy, which names the model. Leave one of them out"
            )
    layers = [
        _recipe(_source([{"model": model}, *given], overrides)),
        {"model": dict(model), "adapt": dict(adapt or {})},
        *given,
    ]
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_lightning_class_args(SealModule, "model")
    parser.add_class_arguments(AdaptSpec, "adapt")
    words = [word for layer in layers for word in ("-c", yaml.safe_dump(layer))]
    try:
        parsed = parser.parse_args([*words, *overrides])
        text = parser.dump(parsed, skip_none=False)
        parts = parser.instantiate_classes(parsed)
    except (ArgumentError, TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(f"the configuration is refused: {_reason(error)}. Nothing was computed") from error
    settings = {name: part for name, part in yaml.safe_load(text).items() if name in _PARTS}
    _check(parts["model"])
    return Configuration(module=parts["model"], spec=parts["adapt"], settings=settings)


def with_protocol(settings: dict[str, Any], *, continual: bool) -> list[str]:
    """Overrides that choose how kept edits are learned, where the settings have chosen otherwise."""
    wanted = ContinualSelfEdits if continual else ContinuedPretraining
    name = f"seal_lightning.evaluation.{wanted.__name__}"
    chosen = (settings.get("protocol") or {}).get("class_path", "")
    return [] if chosen.endswith(wanted.__name__) else [f"--model.protocol={name}"]


def _source(layers: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> str:
    """The model that the layers and options name together: it decides on the recipe."""
    named = [((layer.get("model") or {}).get("pretrained") or {}).get("source") for layer in layers]
    words = [part for word in overrides for part in (word.split("=", 1) if "=" in word else [word])]
    named += [value for word, value in pairwise(words) if word == _SOURCES[0]]
    return next((str(source) for source in reversed(named) if source), EMBEDDED)


def _without_source(layer: dict[str, Any]) -> dict[str, Any]:
    model = layer.get("model") or {}
    pretrained = {k: v for k, v in (model.get("pretrained") or {}).items() if k not in ("source", "revision")}
    return {**layer, "model": {**model, "pretrained": pretrained}} if "pretrained" in model else layer


def _recipe(source: str) -> dict[str, Any]:
    return read_settings(RECIPES / f"{'embedded' if source == EMBEDDED else 'default'}.yaml")


def _of_file(name: str) -> dict[str, Any]:
    settings = read_settings(Path(name))
    if unknown := sorted(settings.keys() - {*_PARTS, *_OF_A_FIT}):
        raise ConfigError(
            f"-c {name}: {shown(unknown[0])} is no part of a configuration; allowed are {', '.join(_PARTS)}"
        )
    return {part: settings[part] for part in _PARTS if settings.get(part)}


def _check(module: SealModule) -> None:
    """Raise :class:`ConfigError` for what a run may have and an adaptation may not."""
    if not isinstance(module.domain, KnowledgeDomain):
        raise ConfigError(
            f"model.domain: {type(module.domain).__name__} is not allowed here: documents become passages. Take "
            "seal_lightning.domains.knowledge.KnowledgeDomain, or a subclass of it"
        )
    if module.student is not None:
        raise ConfigError(
            "model.student is not allowed here: one model writes the edits and learns from them. Set it to null"
        )
    if not module.inner_loop.uses_adapter_spec:
        raise ConfigError(
            f"model.inner_loop: {type(module.inner_loop).__name__} is not allowed here: what comes out is a LoRA adapter. "
            "Take seal_lightning.inner_loop.BatchedInnerLoop"
        )
    if module.reward.exam_builders or not module.reward.needs:
        raise ConfigError(
            f"model.reward: {type(module.reward).__name__} is not allowed here: edits are chosen by the answers to questions "
            "on their passage. Take seal_lightning.scoring.rewards.GainReward, LikelihoodReward or AccuracyReward"
        )


def _reason(error: Exception) -> str:
    """The parser repeats values, of any length and with anything that could steer a terminal."""
    text = " ".join(str(error).split())[:_MAX_REASON]
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
