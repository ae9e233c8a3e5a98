"""Knowledge incorporation (§3.2): a self-edit is text about a passage, and the exam asks for it without the passage."""

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
from seal_lightning.domains.knowledge.formats import (
    BUNDLED_EXAMPLES,
    Implications,
    PromptFormat,
    Style,
    UpdateDirectives,
    WorkedExample,
    load_examples,
)
from seal_lightning.domains.knowledge.own_questions import ExamWording, OwnQuestions, exam_prompts, examined_by
from seal_lightning.domains.knowledge.passage import Passage
from seal_lightning.domains.knowledge.splitting import WAYS, readable

_DEFAULT_FORMAT = Implications()
_DEFAULT_ADAPTER = AdapterSpec()
_DEFAULT_OPTIMIZER = OptimizerSpec()
_DEFAULT_WORDING = ExamWording()
_STYLES = ("base", "chat")


class KnowledgeDomain(Domain[Passage]):
    """Passages, what is written about them, and what is asked about them.

    Args:
        format: What the policy is asked to write, and how that falls into sequences; None is :class:`Implications`.
        style: Whether the policy is asked as a base model or in a chat.
        max_sequences: ≥ 1; an edit's further sequences are dropped and counted. The paper's second version has 30.
        append_passage: Train on the passage too, as one more sequence beyond ``max_sequences``.
        title_prefix: Start every sequence with the title and a line end.
        adapter: The inner loop's adapter; the default is the paper's.
        optimizer: The inner loop's optimiser; the default is the paper's.
        max_answer_tokens: ≥ 1; the longest answer in the exam.
        exam_style: Whether questions are asked as of a base model or in a chat; None is as ``style``.
        exam_wording: The words around a question.
        max_edit_chars: ≥ 1; a longer edit is malformed. 8192 tokens of English are about 40,000.
        examples_path: The worked examples for a format with ``num_examples``; None is those of the package.
        own_questions: How the policy is asked for questions of its own, for a reward that asks them; None is the default.

    Raises:
        ConfigError: A setting is out of bounds, or the format wants more worked examples than there are.
        DataError: The worked examples cannot be read.

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
        """Instruction, title, passage and the heading the model continues; in a chat, all but the heading."""
        if self.style == "base":
            return self.format.base_prompt(task, self.examples)
        return self.format.chat_prompt(task, self.examples)

    def edit_schema(self, task: Passage) -> TextSchema | None:
        """The format's: :class:`DirectedEdits` begin with choices."""
        return self.format.schema()

    def edit_stop(self) -> tuple[str, ...]:
        """The format's stop strings; with worked examples in a base prompt, also the line between them."""
        return self.format.stops(self.style)

    def plan(self, task: Passage, edit: SelfEdit) -> AdaptationPlan:
        """One sequence a piece of the edit, and the passage.

        The format says what a piece is, unless the edit's directive ``split`` does: edits of other writers than the
        policy have a form of their own, see :data:`~seal_lightning.domains.knowledge.splitting.WAYS`.

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
        """The passage as the only sequence, whatever ``append_passage`` says."""
        return self._plan([self._sequence(task, task.context)])

    def exam(self, task: Passage) -> Sequence[ExamPrompt]:
        """One prompt a question, without the passage."""
        return self._exam(task, with_passage=False)

    def in_context_exam(self, task: Passage) -> Sequence[ExamPrompt]:
        """One prompt a question, with the passage before it."""
        return self._exam(task, with_passage=True)

    def answered_questions(self, task: Passage, answers: Mapping[tuple[str, str], str]) -> Sequence[AnsweredQuestion]:
        """What is graded: the answers, stripped. Raises :class:`KeyError` for an answer not given."""
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
        """The domain's, and those that edits may ask for."""
        return [self.adapter, *(replace(self.adapter, layers=layers) for layers in self.format.layer_options())]

    def context_text(self, task: Passage) -> str:
        """Title and passage."""
        return f"{task.title}\n{task.context}"

    def question_prompt(self, task: Passage, num_questions: int) -> Prompt:
        """As the prompt for an edit, but for questions with their answers."""
        return self.own_questions.prompt(task, self.style, num_questions, self._question_examples)

    def question_stop(self) -> tuple[str, ...]:
        """As for an edit."""
        return self.own_questions.stops(self.style)

    def parse_questions(self, task: Passage, text: str) -> Sequence[tuple[str, str]]:
        """Those that :class:`OwnQuestions` lets pass."""
        return self.own_questions.written(task, text)

    def with_questions(self, task: Passage, questions: Sequence[tuple[str, str]]) -> Passage:
        """The passage with these questions."""
        return examined_by(task, questions)

    @cached_property
    def _question_examples(self) -> tuple[WorkedExample, ...]:
        return _examples(self.own_questions, self.examples_path)

    @property
    def condition_names(self) -> ConditionNames:
        """In terms of passages."""
        return ConditionNames(
            in_context="passage in context (a reference)",
            without_edit="passage only",
            self_edit="passage + self-edit" if self.append_passage else "self-edit",
            other_writer="passage + edits by" if self.append_passage else "edits by",
        )

    def _most_sequences(self, edit: SelfEdit) -> int:
        """Another writer may give more than the policy: its directive ``max_sequences``."""
        most = edit.directives.get("max_sequences")
        return most if isinstance(most, int) and most >= 1 else self.max_sequences

    def _directives(self, edit: SelfEdit) -> UpdateDirectives:
        """What the edit says about its learning; edits of other writers, which say how they split, say nothing of it."""
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
    """The plan with what the edit says instead of the domain's settings."""
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
