"""What a reward that is made of others asks for: all that they do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from seal_lightning.core.errors import ConfigError, shown
from seal_lightning.core.interfaces import Reward

PartT = TypeVar("PartT")


def united(parts: Iterable[Mapping[str, PartT]]) -> dict[str, PartT]:
    """Examiners or raters of several rewards, by name. Raises :class:`ConfigError` where two of them share a name."""
    found: dict[str, PartT] = {}
    for named in parts:
        for name, part in named.items():
            if found.setdefault(name, part) is not part:
                raise ConfigError(
                    f"model.reward: two of its parts are named {shown(name)}; give one of them another name (init_args: "
                    "{name: …}), because what is measured for them is stored by it"
                )
    return found


def require_exam_only(reward: Reward, whose: str) -> None:
    """Raise :class:`ConfigError` unless a reward looks at one exam and at nothing else."""
    if reward.exam_builders or reward.raters or not reward.needs:
        raise ConfigError(
            f"{whose}: the base {type(reward).__name__} is not allowed; it must be a reward of the exam alone, for instance "
            "LikelihoodReward or AccuracyReward. Put others beside it in a WeightedSum"
        )
