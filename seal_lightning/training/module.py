"""The LightningModule: it holds the policy and runs E-steps in even epochs and M-steps in odd ones.

Epoch 2r is the E-step of round r, epoch 2r+1 its M-step; on the M-step's last batch the round's LoRA is merged.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from seal_lightning.attempts import AttemptRunner
from seal_lightning.attempts.exam_runner import DomainCache
from seal_lightning.core import AdapterSpec, Attempt, OptimizerSpec, SamplingSpec
from seal_lightning.core.configurable import Configurable
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.evaluation_records import ConditionName, ScoreMatrix
from seal_lightning.core.interfaces import Domain, Engine, Grader, InnerLoop, Reward, Writer
from seal_lightning.core.random_state import random_state, restore_random_state
from seal_lightning.distributed.coordination import gather_objects
from seal_lightning.evaluation.held_out import check_conditions
from seal_lightning.evaluation.protocols import Protocol, SinglePassage
from seal_lightning.evaluation.reference_exams import MeasurementName, measurements
from seal_lightning.generation import PolicyWriter, TransformersEngine
from seal_lightning.inner_loop import BatchedInnerLoop
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.scoring.graders import LocalRules
from seal_lightning.scoring.rewards import FunctionReward, LikelihoodReward
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.training.batches import RowBatch, TaskBatch
from seal_lightning.training.evaluation_steps import EvaluationSteps
from seal_lightning.training.hooks import seal_callbacks
from seal_lightning.training.loop import SelfEditLoop, restart_e_step
from seal_lightning.training.m_step import MStep
from seal_lightning.training.policy import Policy
from seal_lightning.training.policy_loading import check_placement, check_sources, load_policy
from seal_lightning.training.sharded_strategy import spread
from seal_lightning.training.trainer_checks import check_trainer

POLICY_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class SealModule(EvaluationSteps, Configurable):
    """SEAL with a ReST-EM outer loop (§3.1, algorithm 1). Defaults are the paper's for knowledge incorporation.

    Args:
        domain: defines tasks, prompts, plans and exams.
        pretrained: the model the policy starts from.
        reward: turns an attempt's scores into a number; mean log-probability of the gold answers by default. A function of
            an :class:`Attempt` becomes a :class:`FunctionReward`.
        grader: grades answers; local rules by default.
        inner_loop: trains adapters on plans; many side by side by default.
        engine: runs the policy and its adapted copies; in this process by default.
        sampling: of self-edits; held-out tasks are sampled without its ``choice_temperature``, which explores.
        policy_adapter: the LoRA that an M-step trains and merges; None trains all weights.
        reinforce: the M-step: ``num_epochs`` passes over the buffer in batches of ``batch_size`` rows over all ranks.
        rounds: ≥ 1, E-steps and M-steps.
        num_edits: k ≥ 1, self-edits per task.
        edit_retries: 0 to 100, times a malformed self-edit is sampled again before it counts.
        num_repeats: ≥ 1, inner seeds per edit; the mean of their rewards ranks the edits.
        candidates_per_call: ≥ 1, edits that the inner loop gets at once; they are stored together when all are examined.
        max_tokens_per_pass: ≥ 1, tokens per forward pass of the M-step.
        gradient_checkpointing: whether the M-step's decoder layers keep their inputs only and are recomputed in the
            backward pass; the inner loop has its own setting.
        test_edits: ≥ 1, self-edits per held-out task in ``seal test``; scores are means over them.
        test_conditions: conditions that ``seal test`` measures, each with one adaptation per task; None is all.
        test_rounds: rounds after which policies are tested, 0 being the pretrained one; None is all there are. Without 0,
            conditions that need no trained policy are skipped.
        test_measurements: measurements of ``seal test``'s exams; None is all. Generating answers takes most of a test's
            time; ``[likelihood]`` skips them, and with them accuracy.
        protocol: groups held-out tasks for learning and exams; each alone by default.
        test_writers: other writers of edits by name, each an additional condition of ``seal test``.
        test_adapters: PEFT folders by name, each an additional condition.
        student: the model that learns from the edits and is examined, where it is not the policy that writes them
            (teacher and student, §6); the policy is rewarded for what the student learned.
        seed: every seed of the run is derived from it.
    """

    def __init__(
        self,
        domain: Domain,  # type: ignore[type-arg]
        pretrained: Pretrained = Pretrained(),  # noqa: B008 - frozen records
        reward: Reward | Callable[[Attempt], float | None] | None = None,
        grader: Grader | None = None,
        inner_loop: InnerLoop | None = None,
        engine: Engine | None = None,
        sampling: SamplingSpec = SamplingSpec(),  # noqa: B008
        policy_adapter: AdapterSpec | None = AdapterSpec(rank=64, alpha=128, target_modules=POLICY_TARGETS),  # noqa: B008
        reinforce: OptimizerSpec = OptimizerSpec(learning_rate=3e-4, num_epochs=2, batch_size=10),  # noqa: B008
        rounds: int = 2,
        num_edits: int = 5,
        edit_retries: int = 0,
        num_repeats: int = 3,
        candidates_per_call: int = 48,
        max_tokens_per_pass: int = 4096,
        gradient_checkpointing: bool = False,
        test_edits: int = 1,
        test_conditions: tuple[ConditionName, ...] | None = None,
        test_rounds: tuple[int, ...] | None = None,
        test_measurements: tuple[MeasurementName, ...] | None = None,
        protocol: Protocol | None = None,
        test_writers: dict[str, Writer] | None = None,
        test_adapters: dict[str, str] | None = None,
        student: Pretrained | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False  # a checkpoint holds the LoRAs, not the base
        self.domain = domain
        self.pretrained = pretrained
        reward = LikelihoodReward() if reward is None else reward
        self.reward: Reward = reward if isinstance(reward, Reward) else FunctionReward(reward)
        self.grader: Grader = grader or LocalRules()
        self.inner_loop: InnerLoop = inner_loop or BatchedInnerLoop()
        self.engine: Engine = engine or TransformersEngine()
        self.sampling = sampling
        self.policy_adapter = policy_adapter
        self.reinforce = reinforce
        self.rounds = rounds
        self.num_edits = num_edits
        self.edit_retries = edit_retries
        self.num_repeats = num_repeats
        self.candidates_per_call = candidates_per_call
        self.max_tokens_per_pass = max_tokens_per_pass
        self.gradient_checkpointing = gradient_checkpointing
        self.test_edits = test_edits
        self.test_conditions = test_conditions
        self.test_rounds = test_rounds
        self.test_needs = measurements(test_measurements)
        self.protocol: Protocol = protocol or SinglePassage()
        self.test_writers = test_writers or {}
        self.test_adapters = test_adapters or {}
        self.student = student
        self.seed = seed
        self.policy: Policy | None = None
        self.self_edit_loop: SelfEditLoop | None = None
        self.run_dir: Path | None = None
        """The run directory, where there is no trainer."""
        self.test_matrices: dict[str, list[ScoreMatrix]] = {}
        """By score, the last test's estimates over its episodes."""
        self._check_settings()

    # --- setting up

    def _check_settings(self) -> None:
        counts = ("rounds", "num_edits", "num_repeats", "candidates_per_call", "max_tokens_per_pass", "test_edits")
        for name in counts:
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"model.{name}: {value} is not allowed; it must be at least 1")
        if not 0 <= self.edit_retries <= 100:
            raise ConfigError(f"model.edit_retries: {self.edit_retries} is not allowed; it must be from 0 to 100")
        check_conditions(self.test_rounds, self.test_conditions, [*self.test_writers, *self.test_adapters])
        if self.reinforce.max_steps is not None:
            raise ConfigError("model.reinforce.max_steps is not used by the M-step; set num_epochs (passes) instead")

    def setup(self, stage: str) -> None:
        """Raise :class:`ConfigError` for a trainer that lacks what rounds need."""
        check_trainer(self.trainer, self.rounds)

    def configure_model(self) -> None:
        """Load the policy, once; each fit gets its own self-edit loop."""
        if self.policy is None:
            self._load()
            if self._trainer is not None:
                in_place = None if self.student is not None or self.inner_loop.uses_adapter_spec else self.inner_loop
                student = None if self.student is None else self.student_model
                spread(
                    self.loaded_policy, self.trainer.strategy, self.trainer.world_size, self.engine, in_place, student
                )
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self.self_edit_loop = SelfEditLoop(
                self.trainer,
                self.runner,
                self.num_edits,
                self.num_repeats,
                self.trainer.world_size,
                self._open_store,
            )
            self.self_edit_loop.attach()

    def _load(self) -> None:
        if self._trainer is not None:
            check_sources(self.trainer, self.pretrained, self.student)
        self.policy = load_policy(
            self.pretrained,
            self.policy_adapter,
            self.seed,
            trainer=self._trainer,
            run_dir=self.run_dir,
            gradient_checkpointing=self.gradient_checkpointing,
        )
        learner_engine = self.engine if self.student is None else deepcopy(self.engine)
        self.engine.bind(self.policy.language_model)
        self.learner = self._learner(self.policy)
        if learner_engine is not self.engine:
            learner_engine.bind(self.learner)
        self.inner_loop.bind(self.learner)
        cache = DomainCache(self.domain)
        self.writer = PolicyWriter(self.domain, self.engine, self.sampling, self.edit_retries, cache.plan)
        self.runner = AttemptRunner(
            domain=self.domain,
            writer=self.writer,
            engine=learner_engine,
            inner_loop=self.inner_loop,
            grader=self.grader,
            reward=self.reward,
            seed=self.seed,
            candidates_per_call=self.candidates_per_call,
            cache=cache,
        )
        exploiting = replace(self.sampling, choice_temperature=None)
        held_out_writer = PolicyWriter(self.domain, self.engine, exploiting, self.edit_retries, cache.plan)
        self.held_out_runner = replace(self.runner, writer=held_out_writer)
        for writer in self.test_writers.values():
            writer.bind(self.domain, self.engine, exploiting)
        for examiner in self.reward.exam_builders.values():
            examiner.bind(self.domain, self.engine)

    def _learner(self, policy: Policy) -> LanguageModel:
        """Return the model that is adapted and examined."""
        if self.student is None:
            return policy.language_model
        student = self.student.load(together=self._trainer is not None)
        if self._trainer is not None:
            check_placement(student.model, self.trainer)
        self.student_model = student.model  # a submodule, so that it moves to the policy's device
        return student

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW on the policy's LoRA, or its weights; learning rate and clipping are set step by step (manual)."""
        return torch.optim.AdamW(
            [{"params": group} for group in self.loaded_policy.trained()],
            lr=self.reinforce.learning_rate,
            weight_decay=self.reinforce.weight_decay,
        )

    @property
    def loaded_policy(self) -> Policy:
        """The policy; available after :meth:`configure_model`."""
        assert self.policy is not None, "configure_model has not run"
        return self.policy

    @property
    def round_index(self) -> int:
        """The current round, from 0."""
        return self.current_epoch // 2

    @property
    def in_e_step(self) -> bool:
        """True in an E-step, False in an M-step."""
        return self.current_epoch % 2 == 0

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch as it is: tasks and text need no device."""
        return batch

    # --- training

    def on_fit_start(self) -> None:
        """Check tasks and adapters against the model and the reward, before anything is computed.

        Raises :class:`DataError` for tasks, :class:`ConfigError` for adapters.
        """
        names = ("train", "validation", "test")
        self.check_fit(*names)
        for examiner in self.reward.exam_builders.values():
            examiner.check([task for name in names for task in self.trainer.datamodule.tasks(name)])  # type: ignore[attr-defined]

    def training_step(self, batch: TaskBatch | RowBatch, batch_idx: int) -> dict[str, Tensor] | None:
        """Run the self-edit loop on a batch of tasks, or take one optimiser step on a batch of buffer rows."""
        if isinstance(batch, TaskBatch):
            self.loaded_policy.compute()
            loop, is_last = self.self_edit_loop, bool(self.trainer.is_last_batch)
            assert loop is not None, "configure_model made it"
            loop.run(batch, self.round_index, self._announce, is_last=is_last)
            if is_last:  # not in on_train_epoch_end: callbacks run before it
                loop.finish()
            return None
        self.loaded_policy.train_together()
        with self.runner.time_split.spent("reinforce"):
            loss = self._m_step().take_step(batch)
        self.log("m_step/loss", loss, sync_dist=True, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
        if self.trainer.is_last_batch:  # not in on_train_epoch_end: validation runs before it
            self.loaded_policy.merge_round()
            cast(torch.optim.Optimizer, self.optimizers()).state.clear()
            self.loaded_policy.compute()
        return {"loss": loss}

    def _m_step(self) -> MStep:
        return MStep(
            policy=self.loaded_policy,
            optimizer=cast(torch.optim.Optimizer, self.optimizers()),
            spec=self.reinforce,
            num_steps=int(self.trainer.num_training_batches),
            max_tokens_per_pass=self.max_tokens_per_pass,
            gradient_checkpointing=self.gradient_checkpointing,
            strategy=self.trainer.strategy,
            backward=self.manual_backward,
        )

    def _open_store(self, round_index: int) -> AttemptStore:
        """Return the store of a round's attempts that a callback keeps; in memory where none does."""
        stores = (callback.attempt_store(self.trainer, round_index) for callback in seal_callbacks(self.trainer))
        return next((store for store in stores if store is not None), AttemptStore(None))

    def _announce(self, attempt: Attempt) -> None:
        for callback in seal_callbacks(self.trainer):
            callback.on_attempt(self.trainer, self, attempt)

    # --- checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the weights that the current M-step trains; the base is loaded from its source."""
        return self.loaded_policy.checkpointed_state()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the merged LoRAs of past rounds, the run's position, and every rank's random states. A collective."""
        checkpoint["seal"] = {
            "merged": self.loaded_policy.merged_states(),
            "rounds": self.rounds,
            "seed": self.seed,
            "round": self.round_index,
            "phase": "e_step" if self.in_e_step else "m_step",
            "random_states": gather_objects([random_state()]),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replay past rounds' merges; restart an interrupted E-step at its first batch (stored attempts are skipped).

        Raises :class:`ModelError` when the weights are another model's, misshapen or not finite.
        """
        if not isinstance(checkpoint.get("seal"), dict) or "state_dict" not in checkpoint:
            raise RunError("not a checkpoint of a SEAL run: key 'seal' or 'state_dict' is missing")
        policy, fitting = self.loaded_policy, self._trainer is not None and self.trainer.state.fn == "fit"
        policy.check_state(checkpoint["state_dict"], prefix="policy.")
        policy.load_merged_states(checkpoint["seal"]["merged"])
        checkpoint["state_dict"] = policy.load_checkpointed_state(checkpoint["state_dict"], fitting=fitting)
        if fitting:
            states = checkpoint["seal"]["random_states"]
            if self.trainer.global_rank < len(states):
                restore_random_state(states[self.trainer.global_rank])
        restart_e_step(checkpoint)
