"""Settings of an adaptation, in layers: a recipe of this package, the starting model's settings, files, options."""

from __future__ import annotations

import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.cli import LightningArgumentParser

from seal_lightning.core import SamplingSpec
from seal_lightning.core.errors import ConfigError, require, shown
from seal_lightning.domains.knowledge import KnowledgeDomain
from seal_lightning.evaluation import ContinualSelfEdits, ContinuedPretraining
from seal_lightning.models.pretrained import EMBEDDED
from seal_lightning.reporting.text import label
from seal_lightning.storage.run_dir import read_settings
from seal_lightning.training.module import SealModule

RECIPES = Path(__file__).with_name("recipes")
_PARTS = ("model", "adapt")
_PARTS_OF_FIT = ("run_dir", "trainer", "data", "seed_everything", "ckpt_path", "weights_only")
"""Parts of a run's configuration that are ignored, so that such a file can be given."""
_SOURCES = ("--model.pretrained.source", "--model.pretrained.revision")
_BOUNDS = {
    "passage_tokens": (16, None),
    "num_questions": (2, 100),
    "question_retries": (0, 100),
    "keep": (0, None),
    "anchor_weight": (0, None),
    "anchor_texts": (1, None),
    "max_rank": (1, None),
}


@dataclass(frozen=True, kw_only=True)
class AdaptSpec:
    """Settings of ``seal adapt`` beside the model's own. Raises :class:`ConfigError` for a value out of bounds.

    Example:
        >>> AdaptSpec(keep=2).passage_tokens
        200
    """

    passage_tokens: int = 200
    """≥ 16, most tokens of a passage."""
    num_questions: int = 6
    """2 to 100, questions that the model writes per passage; half of them select its edits, half examine the result."""
    question_retries: int = 1
    """0 to 100, further attempts for a passage with fewer questions."""
    question_sampling: SamplingSpec = SamplingSpec(temperature=0.3, top_p=0.95, max_new_tokens=256)  # noqa: RUF009
    """How questions are sampled."""
    keep: int = 1
    """≥ 0, most edits of a passage that are learned. An edit must beat the passage alone at as many steps; with 0 no edits
    are written, and the passages alone are learned."""
    anchor_weight: float = 1.0
    """≥ 0, weight in the final training of the KL divergence from the model before it, on texts that it wrote itself; 0
    disables the anchor."""
    anchor_texts: int = 32
    """≥ 1, number of anchor texts."""
    control: bool = True
    """Whether the passages alone are learned too, for as many steps, as a control."""
    answers: bool = True
    """Whether exams also generate answers, for accuracies; this takes most of an exam's time."""
    max_rank: int = 256
    """≥ 1, of the adapter that is written: updates with a higher total rank are truncated to the nearest of this rank."""

    def __post_init__(self) -> None:
        for name, (least, most) in _BOUNDS.items():
            value = getattr(self, name)
            allowed = f"finite and at least {least}" if most is None else f"from {least} to {most}"
            require(least <= value <= (most or sys.maxsize), f"adapt.{name}", value, allowed)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration and the objects it describes."""

    module: SealModule
    spec: AdaptSpec
    settings: dict[str, Any]
    """All settings as plain values."""


def configured(
    model: Mapping[str, Any],
    files: Sequence[str] = (),
    overrides: Sequence[str] = (),
    adapt: Mapping[str, Any] | None = None,
    *,
    continual: bool = False,
) -> Configuration:
    """Combine the layers; a later one wins.

    Args:
        model: settings of the starting model, over the recipe for its kind. If they name a pretrained model, files and
            overrides cannot choose another.
        files: configurations with the parts ``model`` and ``adapt``; a run's own parts are ignored.
        overrides: ``--model.num_edits 3`` and the like, as words.
        adapt: as ``model``, for the part ``adapt``.
        continual: whether kept edits are learned one after another; if not, in one training.

    Raises :class:`ConfigError` for settings that are unknown, invalid or unusable here.
    """
    layers = [{"model": dict(model), "adapt": dict(adapt or {})}, *map(_read_file, files)]
    if named := model.get("pretrained"):
        if strange := [word for word in overrides if word.startswith(_SOURCES)]:
            raise ConfigError(f"{strange[0]} is not allowed beside --policy, which names the model. Remove one")
        layers.append({"model": {"pretrained": {name: named.get(name) for name in ("source", "revision")}}})
    layers.insert(0, _recipe(_source(layers, overrides)))

    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="config")
    parser.add_lightning_class_args(SealModule, "model")
    parser.add_class_arguments(AdaptSpec, "adapt")
    words = [word for layer in layers for word in ("-c", yaml.safe_dump(layer))]
    words += overrides
    wanted = ContinualSelfEdits if continual else ContinuedPretraining
    try:
        parsed = parser.parse_args(words)
        if not getattr(parsed.model.protocol, "class_path", "").endswith(wanted.__name__):
            parsed = parser.parse_args([*words, f"--model.protocol=seal_lightning.evaluation.{wanted.__name__}"])
        text = parser.dump(parsed, skip_none=False)
        parts = parser.instantiate_classes(parsed)
    except (ArgumentError, TypeError, ValueError, ArithmeticError) as error:
        # The parser's message repeats values of any length, with any control characters.
        raise ConfigError(f"invalid configuration: {label(str(error), 2_000)}") from error
    settings = {name: part for name, part in yaml.safe_load(text).items() if name in _PARTS}
    _check(parts["model"])
    return Configuration(module=parts["model"], spec=parts["adapt"], settings=settings)


def _source(layers: Sequence[Mapping[str, Any]], overrides: Sequence[str]) -> str:
    """Return the pretrained model that layers and overrides name together, which selects the recipe."""
    named = [((layer.get("model") or {}).get("pretrained") or {}).get("source") for layer in layers]
    words = [part for word in overrides for part in word.split("=", 1)]
    named += [value for word, value in pairwise(words) if word == _SOURCES[0]]
    return next((str(source) for source in reversed(named) if source), EMBEDDED)


def _recipe(source: str) -> dict[str, Any]:
    return read_settings(RECIPES / f"{'embedded' if source == EMBEDDED else 'default'}.yaml")


def _read_file(name: str) -> dict[str, Any]:
    settings = read_settings(Path(name))
    if unknown := sorted(settings.keys() - {*_PARTS, *_PARTS_OF_FIT}):
        raise ConfigError(f"-c {name}: unknown key {shown(unknown[0])}; allowed are {', '.join(_PARTS)}")
    return {part: settings[part] for part in _PARTS if settings.get(part)}


def _check(module: SealModule) -> None:
    """Raise :class:`ConfigError` for settings that a run may have and an adaptation may not."""
    problem = None
    if not isinstance(module.domain, KnowledgeDomain):
        problem = "model.domain: documents become passages; use seal_lightning.domains.knowledge.KnowledgeDomain"
    elif module.student is not None:
        problem = "model.student: one model writes the edits and learns from them; set it to null"
    elif not module.inner_loop.uses_adapter_spec:
        problem = "model.inner_loop: the result is a LoRA adapter; use seal_lightning.inner_loop.BatchedInnerLoop"
    elif module.reward.exam_builders or not module.reward.needs:
        problem = (
            "model.reward: edits are selected by the answers to questions on their passage; use "
            "seal_lightning.scoring.rewards.GainReward, LikelihoodReward or AccuracyReward"
        )
    if problem is not None:
        raise ConfigError(f"{problem} (configuration of seal adapt)")
