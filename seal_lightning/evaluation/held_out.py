"""A test in progress: which policies it examines, what this rank found, and the matrices over all ranks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import cast

from torch.nn import Module, ModuleDict

from seal_lightning.core.errors import ConfigError
from seal_lightning.evaluation.conditions import Condition, ConditionResult
from seal_lightning.evaluation.episodes import Evaluation
from seal_lightning.evaluation.matrix import SCORES, EpisodeMatrix, MatrixEstimate
from seal_lightning.evaluation.protocols import Episode


class HeldOutTest(Module):
    """The results of one test. A module, so that its matrices go where the model goes.

    Args:
        evaluation: how episodes are examined.
        episodes: all of the protocol's, over all ranks.
        rounds: which policies are tested, as :func:`rounds_to_test` gives them.
    """

    def __init__(self, evaluation: Evaluation, episodes: Sequence[Episode], rounds: Sequence[int]) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.rounds = rounds
        self.results: list[ConditionResult] = []
        """This rank's."""
        arms = evaluation.all_arms(rounds)
        num_steps = max((len(episode.steps) for episode in episodes), default=0)
        num_places = max((len(episode.tasks) for episode in episodes), default=0)
        self.matrices = ModuleDict(
            {name: EpisodeMatrix(arms, num_steps, num_places, score) for name, score in SCORES.items()}
        )

    def examine(self, episodes: Sequence[Episode], round_index: int) -> None:
        """Every condition of one policy round on some episodes; the policy must be that round's."""
        results = self.evaluation.examine_episodes(episodes, round_index, self.rounds[0])
        for matrix in self.matrices.values():
            cast(EpisodeMatrix, matrix).update(results)
        self.results += results

    def estimates(self) -> dict[str, list[MatrixEstimate]]:
        """By score, what was found over the episodes of all ranks. A collective."""
        return {name: cast(EpisodeMatrix, matrix).estimates() for name, matrix in self.matrices.items()}


def rounds_to_test(chosen: Collection[int] | None, num_finished: int) -> list[int]:
    """Which policies to test, by the rounds they were trained for: the last one first, as matched steps want it.

    None are all there are. Raises :class:`ConfigError` for a round that was not finished.
    """
    rounds = list(range(num_finished + 1)) if chosen is None else sorted(set(chosen))
    if strange := [r for r in rounds if not 0 <= r <= num_finished]:
        raise ConfigError(f"model.test_rounds: {strange[0]} is not allowed; the run has policies 0 to {num_finished}")
    return [*rounds[-1:], *rounds[:-1]]


def check_conditions(
    rounds: Collection[int] | None, conditions: Collection[str] | None, others: Collection[str]
) -> None:
    """Raise :class:`ConfigError` for conditions that nothing would be measured under.

    Args:
        rounds: which policies are tested; None is all.
        conditions: those that were chosen; None is all there can be.
        others: names of further writers and adapters, which the pretrained policy meets.
    """
    if rounds is not None and not rounds:
        raise ConfigError("model.test_rounds: an empty list is not allowed; null tests every round")
    chosen = conditions or ()
    of_pretrained = [*others, *(name for name in (Condition.IN_CONTEXT, Condition.WITHOUT_EDIT) if name in chosen)]
    if rounds is not None and 0 not in rounds and of_pretrained:
        raise ConfigError(
            f"model.test_rounds: {list(rounds)} is not allowed with {of_pretrained[0]}, which is of the pretrained "
            "policy; add 0, or leave it out"
        )
    if Condition.WITHOUT_EDIT_MATCHED in chosen and Condition.SELF_EDIT not in chosen:
        raise ConfigError(
            "model.test_conditions: without_edit_matched takes the steps of self_edit, which must be there too"
        )
