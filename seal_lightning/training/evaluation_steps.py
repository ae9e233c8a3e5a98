"""The LightningModule's steps on held-out tasks: validation after each round, test and predict."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import LightningModule

from seal_lightning.attempts import AttemptRunner
from seal_lightning.core import AttemptStatus, Measurement
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.evaluation_records import ConditionName, ScoreMatrix
from seal_lightning.core.interfaces import AnyDomain, Engine, InnerLoop, Writer
from seal_lightning.core.seeds import derive_seed
from seal_lightning.distributed import interruption
from seal_lightning.evaluation.episodes import Evaluation
from seal_lightning.evaluation.held_out import HeldOutTest, rounds_to_test
from seal_lightning.evaluation.protocols import Episode, Protocol
from seal_lightning.evaluation.training_sets import written_edits
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import load_adapter, target_modules
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import EpisodeBatch, TaskBatch
from seal_lightning.training.hooks import seal_callbacks
from seal_lightning.training.policy import Policy


class EvaluationSteps(LightningModule):
    """The evaluating half of :class:`SealModule`; attributes are set there."""

    domain: AnyDomain
    engine: Engine
    inner_loop: InnerLoop
    runner: AttemptRunner
    held_out_runner: AttemptRunner
    """The same without the E-step's exploration."""
    learner: LanguageModel
    protocol: Protocol
    num_edits: int
    rounds: int
    seed: int
    test_edits: int
    test_conditions: tuple[ConditionName, ...] | None
    test_rounds: tuple[int, ...] | None
    test_needs: frozenset[Measurement]
    test_writers: Mapping[str, Writer]
    test_adapters: Mapping[str, str]
    test_matrices: dict[str, list[ScoreMatrix]]

    @property
    def loaded_policy(self) -> Policy:
        """The policy; available after :meth:`configure_model`."""
        raise NotImplementedError

    @property
    def round_index(self) -> int:
        """The current round, from 0."""
        raise NotImplementedError

    def check_fit(self, *names: str) -> None:
        """Raise :class:`DataError` for tasks and :class:`ConfigError` for adapters that do not fit the model."""
        for name in names:
            tasks = self.trainer.datamodule.tasks(name)  # type: ignore[attr-defined]
            in_context = name == "test" and "in_context" in self._conditions
            policy = self.loaded_policy.language_model
            check_prompts_fit(self.domain, tasks, policy, student=self.learner, in_context=in_context)
        specs = self.domain.adapter_specs()
        self._check_engines(max((spec.rank for spec in specs), default=0) if self.inner_loop.uses_adapter_spec else 0)
        if self.inner_loop.uses_adapter_spec:
            for spec in specs:
                target_modules(self.learner.model, spec)
        elif len({spec.layers for spec in specs}) > 1:
            raise ConfigError(
                f"model.domain: edits may choose layers, but {type(self.inner_loop).__name__} trains all weights. Remove "
                "the format's layers, or use another model.inner_loop"
            )

    def _check_engines(self, edit_rank: int) -> None:
        policy = self.loaded_policy
        num_merges = self.rounds if self.trainer.state.fn == "fit" else policy.num_finished
        of_policy, learner_engine = policy.joined_rank(num_merges), self.runner.engine
        if self.trainer.state.fn == "test" and self.inner_loop.uses_adapter_spec:
            edit_rank = self._rank_of_episodes(edit_rank)
        if learner_engine is self.engine:
            self.engine.check(of_policy + edit_rank)
        else:
            self.engine.check(of_policy)
            learner_engine.check(edit_rank)

    def _rank_of_episodes(self, edit_rank: int) -> int:
        """Return the LoRA rank that a test's adapted copies reach: merged steps add up."""
        rank = edit_rank if self.protocol.adapter is None else self.protocol.adapter.rank
        steps = max((len(episode.steps) for episode in self.test_episodes), default=1) if self.protocol.merges else 1
        return rank * steps

    def on_validation_epoch_start(self) -> None:
        """Start with no attempts."""
        self._validated = AttemptStore(None)

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Try one self-edit per held-out task, once; the inner seed is the same after every round."""
        self.loaded_policy.compute()
        if batch.tasks:
            self._validate(batch)

    def _validate(self, batch: TaskBatch) -> None:
        edits = self.held_out_runner.propose(batch.tasks, 1, "validation")
        before = self.runner.before(batch.tasks)
        auxiliary = self.runner.auxiliary_exams(batch.tasks, "validation", self._validated.all())
        trials = [
            replace(
                self.runner.trial(task, edit, self.round_index, 0),
                seed=derive_seed(self.seed, "validation", task.task_id),
            )
            for task, edit in zip(batch.tasks, edits, strict=True)
        ]
        self.runner.run(trials, self._validated, before=before, auxiliary=auxiliary)

    def on_validation_epoch_end(self) -> None:
        """Log the mean reward and the rate of failures over all ranks' tasks, the same on every rank."""
        with self.runner.time_split.spent("idle"):
            attempts = interruption.gather(self._validated.all())
        rewards = [a.reward for a in attempts if a.reward is not None]
        failed = [a.status in (AttemptStatus.MALFORMED, AttemptStatus.DIVERGED) for a in attempts]
        if attempts:
            self.log("validation/failed", sum(failed) / len(failed))
        if rewards:
            self.log("validation/reward", sum(rewards) / len(rewards))

    def on_test_start(self) -> None:
        """Forget an earlier test; refuse tasks that do not fit the model. Raises :class:`DataError`."""
        self.check_fit("test")
        evaluation = self._new_evaluation()
        evaluation.check(self.trainer.datamodule.tasks("test"))  # type: ignore[attr-defined]
        self.held_out = HeldOutTest(evaluation, self.test_episodes, self.tested_rounds).to(self.device)

    def _new_evaluation(self) -> Evaluation:
        adapters = {
            name: load_adapter(self.learner.model, Path(folder)).detached_copy(self.learner.device)
            for name, folder in self.test_adapters.items()
        }
        return Evaluation(
            self.held_out_runner,
            self.protocol,
            self.test_edits,
            self._conditions,
            writers=self.test_writers,
            adapters=adapters,
            learner=self.learner,
            share=(self.trainer.global_rank, self.trainer.world_size),
            gather=interruption.gather,
            needs=self.test_needs,
        )

    @property
    def test_episodes(self) -> list[Episode]:
        """The protocol's episodes of the test tasks. Raises :class:`ConfigError` where it needs more tasks."""
        return self.protocol.episodes(self.trainer.datamodule.tasks("test"), self.seed)  # type: ignore[attr-defined]

    @property
    def tested_rounds(self) -> list[int]:
        """See :func:`rounds_to_test`."""
        return rounds_to_test(self.test_rounds, self.loaded_policy.num_finished)

    @property
    def _conditions(self) -> Collection[str]:
        return get_args(ConditionName) if self.test_conditions is None else self.test_conditions

    def test_step(self, batch: EpisodeBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure every condition of one policy round on a batch of held-out episodes; see :class:`Evaluation`."""
        round_index = self.tested_rounds[dataloader_idx]
        self.loaded_policy.go_to(round_index)
        self.loaded_policy.compute()
        self.held_out.examine(batch.episodes, round_index)

    def on_test_epoch_end(self) -> None:
        """Gather all ranks' results and hand them to the callbacks."""
        results = interruption.gather(self.held_out.results)
        self.test_matrices = self.held_out.estimates()
        for callback in seal_callbacks(self.trainer):
            callback.on_test_results(self.trainer, self, results)

    def on_test_end(self) -> None:
        """Return to the newest policy."""
        self.loaded_policy.go_to(self.loaded_policy.num_finished)

    def predict_step(self, batch: TaskBatch, batch_idx: int) -> list[dict[str, Any]]:
        """Return self-edits for the tasks, each with its plan; nothing is trained."""
        self.loaded_policy.compute()
        return written_edits(self.held_out_runner, batch.tasks, self.num_edits)
