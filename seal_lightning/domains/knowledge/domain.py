"""Knowledge incorporation (§3.2): a self-edit is text about a passage, and the exam asks questions without the passage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    AnsweredQuestion,
    ConditionNames,
    ExamPrompt,
    OptimizerSpec,
    Prompt,
    Segment,
    SelfEdit,
    TextSchema,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError, MalformedEdit, shown
from seal_lightning.core.interfaces import Domain
from seal_lightning.domains.knowledge.exam_questions import ExamWording, OwnQuestions, exam_prompts, examined_by
from seal_lightning.domains.knowledge.formats import Implications, PromptFormat, Style, UpdateDirectives
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.splitting import WAYS, readable
from seal_lightning.domains.knowledge.worked_examples import BUNDLED_EXAMPLES, WorkedExample, load_examples

_DEFAULT_FORMAT = Implications()
_DEFAULT_ADAPTER = AdapterSpec()
_DEFAULT_OPTIMIZER = OptimizerSpec()
_DEFAULT_WORDING = ExamWording()
_STYLES = ("base", "chat")


class KnowledgeDomain(Domain[Passage]):
    """Passages, self-edits about them, and exams on them.

    Args:
        format: The prompt for an edit, and its split into sequences; None is :class:`Implications`.
        style: Prompts for a base model or a chat.
        max_sequences: ≥ 1; an edit's further sequences are dropped and counted. The paper's v2 has 30.
        append_passage: Also train on the passage, as one more sequence beyond ``max_sequences``.
        title_prefix: Start every sequence with the title and a line end.
        adapter: The inner loop's adapter; the default is the paper's.
        optimizer: The inner loop's optimiser; the default is the paper's.
        max_answer_tokens: ≥ 1; the longest answer in the exam.
        exam_style: Exam prompts for a base model or a chat; None is ``style``.
        exam_wording: The words around a question.
        max_edit_chars: ≥ 1; a longer edit is malformed. 8192 tokens of English are about 40,000.
        examples_path: The worked examples for a format with ``num_examples``; None takes those of the package.
        own_questions: The prompt for the policy's own questions, for a reward that uses them; None is the default.

    Raises:
        ConfigError: A setting is out of bounds, or the format needs more worked examples than there are.
        DataError: The worked examples cannot be read.

    Example:
        >>> passage = Passage.named(title="Bridge", context="It has nine arches.", questions=())
        >>> edit = SelfEdit(task_id=passage.task_id, edit_index=0, text="1. Nine arches\\n2. One bridge")
        >>> len(KnowledgeDomain().plan(passage, edit).sequences)
        3

    """

    def __init__(
        self,
        format: PromptFormat | None = None,  # noqa: A002
        style: Style = "base",
        max_sequences: int = 30,
        append_passage: bool = True,
        title_prefix: bool = True,
        adapter: AdapterSpec = _DEFAULT_ADAPTER,
        optimizer: OptimizerSpec = _DEFAULT_OPTIMIZER,
        max_answer_tokens: int = 64,
        exam_style: Style | None = None,
        exam_wording: ExamWording = _DEFAULT_WORDING,
        max_edit_chars: int = 131_072,
        examples_path: str | Path | None = None,
        own_questions: OwnQuestions | None = None,
    ) -> None:
        for name, count in (
            ("max_sequences", max_sequences),
            ("max_answer_tokens", max_answer_tokens),
            ("max_edit_chars", max_edit_chars),
        ):
            if count < 1:
                raise ConfigError(f"KnowledgeDomain: {name} is {shown(count)}; allowed is 1 or more")
        for name, chosen in (("style", style), ("exam_style", exam_style or style)):
            if chosen not in _STYLES:
                raise ConfigError(f"KnowledgeDomain: {name} is {shown(chosen)}; allowed are {', '.join(_STYLES)}")
        self.format = format or _DEFAULT_FORMAT
        self.style = style
        self.max_sequences = max_sequences
        self.append_passage = append_passage
        self.title_prefix = title_prefix
        self.adapter = adapter
        self.optimizer = optimizer
        self.max_answer_tokens = max_answer_tokens
        self.exam_style: Style = exam_style or style
        self.exam_wording = exam_wording
        self.max_edit_chars = max_edit_chars
        self.examples_path = BUNDLED_EXAMPLES if examples_path is None else examples_path
        self.examples = _examples(self.format, self.examples_path)
        self.own_questions = own_questions or OwnQuestions()

    def edit_prompt(self, task: Passage) -> Prompt:
        """Return instruction, title, passage and the heading the model continues; in a chat, all but the heading."""
        if self.style == "base":
            return self.format.base_prompt(task, self.examples)
        return self.format.chat_prompt(task, self.examples)

    def edit_schema(self, task: Passage) -> TextSchema | None:
        """Return the format's schema: :class:`DirectedEdits` begin with choices."""
        return self.format.schema()

    def edit_stop(self) -> tuple[str, ...]:
        """Return the format's stop strings; with worked examples in a base prompt, also the line between them."""
        return self.format.stops(self.style)

    def plan(self, task: Passage, edit: SelfEdit) -> AdaptationPlan:
        """Return one sequence per piece of the edit, and the passage.

        The format splits the edit, unless its directive ``split`` names another way: edits of other writers than the
        policy have their own form, see :data:`~seal_lightning.domains.knowledge.splitting.WAYS`.

        Raises :class:`MalformedEdit`: ``too long``, ``empty``, ``unknown split``, or what the format's ``split`` raises.
        """
        if len(edit.text) > self.max_edit_chars:
            raise MalformedEdit("too long", f"{len(edit.text)} characters; allowed are {self.max_edit_chars}")
        said = self._directives(edit)
        pieces = self._pieces(edit, said)
        weight = said.passage_weight if said.passage_weight is not None else int(self.append_passage)
        if not pieces and (said.format is not None or not weight):
            raise MalformedEdit("empty", f"no sequence in {shown(edit.text)}")
        kept = pieces[: self._most_sequences(edit)]
        sequences = [self._sequence(task, piece) for piece in kept] + [self._sequence(task, task.context)] * weight
        return _directed(self._plan(sequences, dropped=len(pieces) - len(kept)), said)

    def plan_without_edit(self, task: Passage) -> AdaptationPlan:
        """Return the passage as the only sequence, whatever ``append_passage`` is."""
        return self._plan([self._sequence(task, task.context)])

    def exam(self, task: Passage) -> Sequence[ExamPrompt]:
        """Return one prompt per question, without the passage."""
        return self._exam(task, with_passage=False)

    def in_context_exam(self, task: Passage) -> Sequence[ExamPrompt]:
        """Return one prompt per question, with the passage before it."""
        return self._exam(task, with_passage=True)

    def answered_questions(self, task: Passage, answers: Mapping[tuple[str, str], str]) -> Sequence[AnsweredQuestion]:
        """Return the stripped answers for grading. Raises :class:`KeyError` for a missing answer."""
        return tuple(
            AnsweredQuestion(
                question_id=question.question_id,
                question=question.question,
                gold_answers=question.answers,
                answer=answers[question.question_id, "identity"].strip(),
            )
            for question in task.questions
        )

    def adapter_specs(self) -> Sequence[AdapterSpec]:
        """Return the domain's adapter and those that edits may choose."""
        return [self.adapter, *(replace(self.adapter, layers=layers) for layers in self.format.layer_options())]

    def context_text(self, task: Passage) -> str:
        """Return title and passage."""
        return f"{task.title}\n{task.context}"

    def question_prompt(self, task: Passage, num_questions: int) -> Prompt:
        """Return the prompt for questions with their answers."""
        return self.own_questions.prompt(task, self.style, num_questions, self._question_examples)

    def question_stop(self) -> tuple[str, ...]:
        """Return the stop strings of :meth:`question_prompt`."""
        return self.own_questions.stops(self.style)

    def parse_questions(self, task: Passage, text: str) -> Sequence[tuple[str, str]]:
        """Return the questions that pass the filter of :class:`OwnQuestions`."""
        return self.own_questions.written(task, text)

    def with_questions(self, task: Passage, questions: Sequence[tuple[str, str]]) -> Passage:
        """Return the passage with these questions."""
        return examined_by(task, questions)

    @cached_property
    def _question_examples(self) -> tuple[WorkedExample, ...]:
        return _examples(self.own_questions, self.examples_path)

    @property
    def condition_names(self) -> ConditionNames:
        """Name the conditions in terms of passages."""
        return ConditionNames(
            in_context="passage in context (a reference)",
            without_edit="passage only",
            self_edit="passage + self-edit" if self.append_passage else "self-edit",
            other_writer="passage + edits by" if self.append_passage else "edits by",
        )

    def _most_sequences(self, edit: SelfEdit) -> int:
        """Return the limit, which the directive ``max_sequences`` of another writer can raise."""
        most = edit.directives.get("max_sequences")
        return most if isinstance(most, int) and most >= 1 else self.max_sequences

    def _directives(self, edit: SelfEdit) -> UpdateDirectives:
        """Return the edit's own directives; edits of other writers, which have a ``split``, have none."""
        if "split" in edit.directives:
            return UpdateDirectives(format=self.format, text=edit.text)
        return self.format.directives(edit.text)

    def _pieces(self, edit: SelfEdit, said: UpdateDirectives) -> list[str]:
        way = edit.directives.get("split", "format")
        if way == "format":
            return [] if said.format is None else said.format.split(said.text)
        if not isinstance(way, str) or way not in WAYS:
            raise MalformedEdit("unknown split", f"{shown(way)}; allowed are format, {', '.join(WAYS)}")
        return WAYS[way](readable(edit.text))

    def _exam(self, task: Passage, *, with_passage: bool) -> tuple[ExamPrompt, ...]:
        return exam_prompts(task, self.exam_style, self.exam_wording, self.max_answer_tokens, with_passage=with_passage)

    def _sequence(self, task: Passage, text: str) -> TrainingSequence:
        prefix = f"{task.title}\n" if self.title_prefix else ""
        return TrainingSequence(segments=(Segment(text=f"{prefix}{text}"),))

    def _plan(self, sequences: Sequence[TrainingSequence], dropped: int = 0) -> AdaptationPlan:
        return AdaptationPlan(
            sequences=tuple(sequences), adapter=self.adapter, optimizer=self.optimizer, dropped_sequences=dropped
        )


def _directed(plan: AdaptationPlan, said: UpdateDirectives) -> AdaptationPlan:
    """Return the plan with the edit's directives in place of the domain's settings."""
    adapter, optimizer = plan.adapter, plan.optimizer
    if said.layers is not None:
        adapter = replace(adapter, layers=said.layers)
    if said.learning_rate is not None:
        optimizer = replace(optimizer, learning_rate=said.learning_rate)
    if said.num_epochs is not None:
        optimizer = replace(optimizer, num_epochs=said.num_epochs, max_steps=None)
    return replace(plan, adapter=adapter, optimizer=optimizer)


def _examples(prompt_format: PromptFormat, path: str | Path) -> tuple[WorkedExample, ...]:
    if not prompt_format.num_examples:
        return ()
    examples = load_examples(path)
    if len(examples) < prompt_format.num_examples:
        raise ConfigError(
            f"{type(prompt_format).__name__}: num_examples is {prompt_format.num_examples}; "
            f"allowed is 0 to {len(examples)}, the worked examples of {path}"
        )
    return examples[: prompt_format.num_examples]
