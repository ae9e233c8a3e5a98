"""What every domain must do; a new one needs a line in ``DOMAINS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from arc_edits import write_edit
from implementations import implementations

from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    ChatMessage,
    ExamPrompt,
    OptimizerSpec,
    Prompt,
    SelfEdit,
    Task,
    fill_choices,
)
from seal_lightning.core.errors import MalformedEdit
from seal_lightning.core.interfaces import AnyDomain, Domain
from seal_lightning.domains.arc import ArcDirectives, ArcDomain, ArcTask, Demonstration, GridText, TestPair
from seal_lightning.domains.knowledge import (
    ChainOfThought,
    Implications,
    ImplicationsLong,
    ImplicationsVeryLong,
    KnowledgeDomain,
    NoInstruction,
    Passage,
    Question,
    Rewrites,
    SelfQA,
)
from seal_lightning.evaluation.grid import edit_choices

ADAPTER = AdapterSpec(rank=3, alpha=5.0)
OPTIMIZER = OptimizerSpec(learning_rate=3e-3, num_epochs=7, batch_size=2)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A domain with ``ADAPTER`` and ``OPTIMIZER``, and one of its tasks, whose questions have different answers."""

    make: Callable[[], AnyDomain]
    task: Task
    edit: str
    """One that means something."""
    context: Sequence[str]
    """The texts that the task's context consists of, as a model reads them."""
    taught_by_edit: Sequence[str]
    """What must be in the trained text of the edit's plan."""
    taught_without_edit: Sequence[str]
    """And in that of the plan without one."""
    exam_has_context: bool = False
    """Whether the exam shows the context; then there is no other exam that does."""
    edit_sets_optimizer: bool = False
    """Whether learning rate and epochs are what the edit says, and not what ``OPTIMIZER`` does."""


MILL = Passage.named(
    title="Mill of Tarnow",
    context="The mill of Tarnow ground rye from 1620 on. A flood took its wheel in 1788.",
    questions=[
        Question(question_id="q-a", question="What did the mill grind?", answers=("rye", "Rye")),
        Question(question_id="q-b", question="When was the wheel lost?", answers=("1788",)),
    ],
)
LINES = "1. The mill ground rye.\n2. It lost its wheel in 1788."
LINES_AFTER_THOUGHT = f"Hm.\n\nImplications:\n{LINES}"


def knowledge(edit: str = LINES, **settings: object) -> Case:
    def make() -> KnowledgeDomain:
        return KnowledgeDomain(adapter=ADAPTER, optimizer=OPTIMIZER, **settings)  # type: ignore[arg-type]

    return Case(
        make=make,
        task=MILL,
        edit=edit,
        context=[MILL.context],
        taught_by_edit=["rye"],
        taught_without_edit=[MILL.context],
    )


FLIPS = ArcTask(
    task_id="flips",
    demonstrations=tuple(
        Demonstration(input=rows, output=tuple(row[::-1] for row in rows))
        for rows in (((1, 2), (3, 4)), ((5, 0, 0),), ((6, 0), (7, 0), (8, 9)))
    ),
    tests=(TestPair(input=((7, 8),), output=((8, 7),)), TestPair(input=((9, 1, 0),), output=((0, 1, 9),))),
)
DIGITS = GridText()
LETTERS = GridText(symbols="abcdefghij", cell_separator=" ", row_start=" ")


def arc(text: GridText = DIGITS, **settings: object) -> Case:
    def make() -> ArcDomain:
        return ArcDomain(adapter=ADAPTER, optimizer=OPTIMIZER, grid_text=text, **settings)  # type: ignore[arg-type]

    directives = ArcDirectives(augmentations=("size",), learning_rate=5e-5, num_epochs=3)
    outputs = [text.encode(one.output) for one in FLIPS.demonstrations]
    return Case(
        make=make,
        task=FLIPS,
        edit=write_edit(directives, make().schema),
        context=[text.encode(one.input) for one in FLIPS.demonstrations] + outputs,
        taught_by_edit=[*outputs, text.encode(((0, 0, 0, 0, 5, 5),) * 2)],
        taught_without_edit=outputs,
        exam_has_context=True,
        edit_sets_optimizer=True,
    )


DOMAINS: dict[str, Case] = {
    "knowledge": knowledge(),
    "knowledge, chat": knowledge(style="chat"),
    "knowledge, chat edits and base exam": knowledge(style="chat", exam_style="base"),
    "knowledge, worked examples": knowledge(format=Implications(num_examples=2)),
    "knowledge, worked examples in a chat": knowledge(format=Implications(num_examples=2), style="chat"),
    "knowledge, edits alone": knowledge(append_passage=False, title_prefix=False),
    "knowledge, long": knowledge(format=ImplicationsLong()),
    "knowledge, very long": knowledge(format=ImplicationsVeryLong()),
    "knowledge, one sequence": knowledge(format=Implications(one_sequence=True)),
    "knowledge, rewrites": knowledge("The mill ground rye.\n---\nRye was ground.", format=Rewrites()),
    "knowledge, self-QA": knowledge("Question 1: What?\nAnswer: rye\n\nQuestion 2: When?\n1788", format=SelfQA()),
    "knowledge, chain of thought": knowledge(LINES_AFTER_THOUGHT, format=ChainOfThought()),
    "knowledge, no instruction": knowledge(format=NoInstruction()),
    "knowledge, no cap": knowledge(max_edit_chars=10**7),
    "knowledge, rewrites without a cap": knowledge(format=Rewrites(), max_edit_chars=10**7),
    "knowledge, self-QA without a cap": knowledge(format=SelfQA(), max_edit_chars=10**7),
    "knowledge, thoughts without a cap": knowledge(LINES_AFTER_THOUGHT, format=ChainOfThought(), max_edit_chars=10**7),
    "arc": arc(),
    "arc, constrained": arc(constrained=True, max_steps=10**6),
    "arc, extended": arc(schema="extended", constrained=True, max_steps=10**6),
    "arc, letters": arc(LETTERS, instruction="", leave_two_out=False),
}


def test_every_domain_of_the_package_is_held_to_this() -> None:
    found = implementations(Domain)
    assert found
    missing = found - {type(case.make()) for case in DOMAINS.values()}
    assert not missing, f"add a line to DOMAINS for {sorted(kind.__qualname__ for kind in missing)}"


@pytest.fixture(params=DOMAINS)
def case(request: pytest.FixtureRequest) -> Case:
    return DOMAINS[request.param]


@pytest.fixture
def domain(case: Case) -> AnyDomain:
    return case.make()


def edit_of(case: Case, text: str) -> SelfEdit:
    return SelfEdit(task_id=case.task.task_id, edit_index=0, text=text)


def text_of(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(turn.content for turn in prompt)


def trained_text(plan: AdaptationPlan) -> str:
    return "\n".join(segment.text for s in plan.sequences for segment in s.segments if segment.trained)


def right_answers(exam: Sequence[ExamPrompt]) -> Mapping[tuple[str, str], str]:
    return {(prompt.question_id, prompt.view): f"{prompt.target}\n" for prompt in exam}


def test_methods_are_pure(case: Case, domain: AnyDomain) -> None:
    """The same task gives the same result, of this domain and of another one made alike."""

    def everything(of: AnyDomain) -> list[object]:
        exam = list(of.exam(case.task))
        return [
            of.edit_prompt(case.task),
            of.edit_stop(),
            of.plan(case.task, edit_of(case, case.edit)),
            of.plan_without_edit(case.task),
            exam,
            list(of.in_context_exam(case.task)),
            of.edit_schema(case.task),
            of.condition_names,
            list(of.answered_questions(case.task, right_answers(exam))),
        ]

    first = everything(domain)
    assert everything(domain) == first
    assert everything(case.make()) == first


def test_the_edit_prompt_shows_the_context_and_stops_are_text(case: Case, domain: AnyDomain) -> None:
    assert all(text in text_of(domain.edit_prompt(case.task)) for text in case.context)
    assert all(isinstance(stop, str) and stop for stop in domain.edit_stop())


def test_prompts_are_text_or_a_chat_that_awaits_an_answer(case: Case, domain: AnyDomain) -> None:
    asked = [*domain.exam(case.task), *domain.in_context_exam(case.task)]
    for prompt in [domain.edit_prompt(case.task), *(one.prompt for one in asked)]:
        assert text_of(prompt).strip()
        text_of(prompt).encode()
        if not isinstance(prompt, str):
            assert all(isinstance(turn, ChatMessage) and turn.content.strip() for turn in prompt)
            assert prompt[-1].role == "user"


def test_an_edit_and_the_settings_are_in_its_plan(case: Case, domain: AnyDomain) -> None:
    plan = domain.plan(case.task, edit_of(case, case.edit))
    _check(case, plan)
    assert plan.dropped_sequences == 0
    assert all(text in trained_text(plan).lower() for text in case.taught_by_edit)
    assert plan != domain.plan_without_edit(case.task)
    if case.edit_sets_optimizer:
        assert (plan.optimizer.learning_rate, plan.optimizer.num_epochs) == (5e-5, 3)


def test_the_plan_without_edit_has_the_context(case: Case, domain: AnyDomain) -> None:
    plan = domain.plan_without_edit(case.task)
    _check(case, plan)
    assert all(text in trained_text(plan) for text in case.taught_without_edit)


def test_all_that_a_schema_can_produce_is_a_plan(case: Case, domain: AnyDomain) -> None:
    schema = domain.edit_schema(case.task)
    if schema is None:
        return
    drawn = edit_choices(schema, {}, limit=12)
    texts = {"".join(part for part in fill_choices(schema, one.choices) if isinstance(part, str)) for one in drawn}
    assert len(texts) == 12
    for text in texts:
        edit = SelfEdit(task_id=case.task.task_id, edit_index=0, text=text)
        _check(case, domain.plan(case.task, edit))


def test_conditions_have_different_names(domain: AnyDomain) -> None:
    names = domain.condition_names
    said = [names.unadapted, names.in_context, names.without_edit, names.self_edit]
    assert all(name.strip() for name in said)
    assert len(set(said)) == len(said)


def _check(case: Case, plan: AdaptationPlan) -> None:
    assert isinstance(plan, AdaptationPlan)
    assert plan.adapter == ADAPTER
    free = {"learning_rate": 1.0, "num_epochs": 1} if case.edit_sets_optimizer else {}
    assert replace(plan.optimizer, **free) == replace(OPTIMIZER, **free)
    assert plan.sequences
    for sequence in plan.sequences:
        assert any(segment.trained and segment.text.strip() for segment in sequence.segments)
        for segment in sequence.segments:
            assert "\0" not in segment.text
            segment.text.encode()  # a lone surrogate would raise here, and in every tokenizer
    assert plan.dropped_sequences >= 0


MALFORMED = {
    "empty": "",
    "nul": "\0",
    "lone surrogate": "\ud800",
    "lone low surrogates": "\udfff \udc00\n",
    "blank": " \r\n\t\u3000\u2028\n",
    "dashes": "---\n----\r---",
}
LARGE = {
    "megabyte of a letter": "a" * 1_000_000,
    "megabyte of short lines": "a\n" * 500_000,
    "megabyte of line ends": "\n" * 1_000_000,
    "megabyte of blanks": " " * 1_000_000,
    "megabyte of dashes": "-" * 1_000_000,
    "megabyte of numbers": "1. " * 333_333,
    "megabyte of questions": "Question 1:\n" * 83_333,
    "megabyte of headings": "Implications:\n" * 71_428,
    "megabyte of blanks inside a line": "Implications:\nrye\n" + " " * 1_000_000 + "wheat",
    "megabyte of surrogates": "\ud800" * 1_000_000,
}
ODD = {
    "nul and surrogates inside": "Implications:\n1. rye\0 and \ud800wheat\n2. \udfff",
    "line ends of all kinds": "Implications:\ra\r\nb\u2028c\u0085d\x0be",
    "many lines": "Implications:\n" + "\n".join(f"fact {i}" for i in range(500)),
    "markup": 'Implications:\n```json\n{"rye": [1620]}\n``` <|endoftext|>',
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_an_edit_without_meaning_is_malformed(case: Case, domain: AnyDomain, text: str) -> None:
    with pytest.raises(MalformedEdit) as caught:
        domain.plan(case.task, edit_of(case, text))
    assert caught.value.kind
    str(caught.value).encode()  # it is stored with the attempt


@pytest.mark.parametrize("text", [*LARGE.values(), *ODD.values()], ids=[*LARGE, *ODD])
@pytest.mark.timeout(20)
def test_any_other_edit_is_a_plan_or_malformed(case: Case, domain: AnyDomain, text: str) -> None:
    try:
        plan = domain.plan(case.task, edit_of(case, text))
    except MalformedEdit as error:
        message = str(error)
    else:
        message = "a plan"
        _check(case, plan)
    assert 0 < len(message.encode()) < 1000  # it is stored with the attempt


@pytest.mark.parametrize("in_context", [False, True])
def test_every_question_is_asked_once_and_has_a_target(case: Case, domain: AnyDomain, in_context: bool) -> None:
    exam = list(domain.in_context_exam(case.task) if in_context else domain.exam(case.task))
    assert bool(exam) != (in_context and case.exam_has_context)
    assert len({(e.question_id, e.view) for e in exam}) == len(exam)
    identity = [e.question_id for e in exam if e.view == "identity"]
    assert sorted(identity) == sorted({e.question_id for e in exam})
    for prompt in exam:
        assert prompt.target.strip()
        assert prompt.max_new_tokens >= 1
        assert all(prompt.stop)


def test_one_exam_has_the_context(case: Case, domain: AnyDomain) -> None:
    """The in-context exam, which is the other one with the context; or the other one, and there is no in-context exam."""
    exam, in_context = list(domain.exam(case.task)), list(domain.in_context_exam(case.task))
    if case.exam_has_context:
        assert not in_context
        assert all(text in text_of(e.prompt) for e in exam if e.view == "identity" for text in case.context)
        return
    assert not any(text in text_of(e.prompt) for e in exam for text in case.context)
    assert all(text in text_of(e.prompt) for e in in_context for text in case.context)
    assert [(e.question_id, e.view, e.target) for e in in_context] == [(e.question_id, e.view, e.target) for e in exam]


def test_every_answer_reaches_its_question(case: Case, domain: AnyDomain) -> None:
    exam = list(domain.exam(case.task))
    answered = domain.answered_questions(case.task, right_answers(exam))
    assert [a.question_id for a in answered] == [e.question_id for e in exam if e.view == "identity"]
    for one in answered:
        assert one.question.strip()
        assert all(gold.strip() for gold in one.gold_answers)
        assert [one.answer in other.gold_answers for other in answered] == [other is one for other in answered]
        assert not one.further_answers
        assert one.num_views == sum(e.question_id == one.question_id for e in exam)
        assert one.num_invalid == 0
        assert one.partial_credit in (None, 1.0)


@pytest.mark.parametrize("text", ["", " \n", "\0", "\ud800", "?" * 100_000], ids=ascii)
def test_any_text_is_an_answer(case: Case, domain: AnyDomain, text: str) -> None:
    """If no right one."""
    exam = list(domain.exam(case.task))
    for one in domain.answered_questions(case.task, dict.fromkeys(right_answers(exam), text)):
        assert one.answer not in one.gold_answers
        assert 0 <= one.num_invalid <= one.num_views
