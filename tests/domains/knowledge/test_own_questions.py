"""What the policy is asked for when it asks itself, and which of its questions are let pass."""

from __future__ import annotations

import time

import pytest

from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.knowledge import KnowledgeDomain, OwnQuestions, Passage, Question, load_examples

PASSAGE = Passage.named(
    title="Two Stones",
    context="The first stone, one of the stones found in 1742 by Torquil Imrayson, is green. The second weighs 8 tonnes.",
    questions=[Question(question_id="gold", question="Which?", answers=("gold",))],
)


def written(text: str, **settings: object) -> list[tuple[str, str]]:
    domain = KnowledgeDomain(own_questions=OwnQuestions(**settings))  # type: ignore[arg-type]
    return list(domain.parse_questions(PASSAGE, text))


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (
            "Question 1: Who found the first stone?\nAnswer: Torquil Imrayson\n\nQuestion 2: When?\nAnswer: 1742.",
            [("Who found the first stone?", "Torquil Imrayson"), ("When?", "1742")],
        ),
        ("question: Who?\nanswer: torquil\n  imrayson", [("Who?", "torquil")]),
        ("1. **Question 1:** Who found it?\n**Answer:** Torquil Imrayson", [("Who found it?", "Torquil Imrayson")]),
        ('Question 1: What colour is it? Answer: "green"', [("What colour is it?", "green")]),
        ("Question 1: Which\n stone?\nAnswer 1: The first\n\nIt says so.", [("Which stone?", "The first")]),
        ("Sure, here they are:\nQuestion 1: How heavy?\nAnswer: 8 tonnes", [("How heavy?", "8 tonnes")]),
        ("Question 1: How heavy?\nAnswer:\n8 tonnes", [("How heavy?", "8 tonnes")]),
    ],
)
def test_written_questions_are_parsed(text: str, pairs: list[tuple[str, str]]) -> None:
    assert written(text) == pairs


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The first stone is green.",
        "Question 1: What colour is it?",
        "Question 1: What colour is it?\nAnswer:",
        "Question 1: What colour is it?\nAnswer: ...",
        "Question 1:\nAnswer: green",
        "Answer: green\nQuestion 1: What colour is it?",
        "Question 1: What colour is it?\nAnswer: blue",
        "Question 1: Who found it?\nAnswer: Imrayson Torquil",
        "Question 1: How heavy?\nAnswer: 8 ton",
        "Question 1: Who found it in Berlin?\nAnswer: Torquil Imrayson",
        "Question 1: Who found it in 1743?\nAnswer: Torquil Imrayson",
        "Question 1: What are they?\nAnswer: the stones",
        "Question 1: Is the green stone green?\nAnswer: green",
        "Question 1: What" + " very" * 80 + " colour?\nAnswer: green",
    ],
)
def test_unusable_questions_are_dropped(text: str) -> None:
    assert written(text) == []


def test_settings_decide() -> None:
    text = "Question 1: What colour is it?\nAnswer: blue\nQuestion 2: WHAT colour, is it\nAnswer: green"
    assert written(text) == [("WHAT colour, is it", "green")]
    assert written(text, extractive=False) == [("What colour is it?", "blue")]
    assert written(text, max_answer_chars=4) == []
    assert written("Question 1: What colour is Rome?\nAnswer: green", grounded=False) == [
        ("What colour is Rome?", "green")
    ]
    assert written(text, extractive=False, max_question_chars=18) == [("What colour is it?", "blue")]


@pytest.mark.parametrize("settings", [{"max_question_chars": 0}, {"max_answer_chars": 0}, {"num_examples": -1}])
def test_invalid_settings_are_config_errors(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="OwnQuestions"):
        OwnQuestions(**settings)


def test_a_base_prompt_shows_examples_and_says_how_many() -> None:
    prompt = KnowledgeDomain(own_questions=OwnQuestions(num_examples=1)).question_prompt(PASSAGE, 7)
    example = load_examples()[0]
    assert isinstance(prompt, str)
    assert "write 7 questions" in prompt
    assert prompt.index(example.context) < prompt.index(example.self_qa[-1][0]) < prompt.index(PASSAGE.context)
    assert prompt.endswith("Questions and answers:\n")
    assert "Which?" not in prompt, "the gold questions stay unseen"
    assert KnowledgeDomain().question_stop() == ("\n===",)


def test_a_chat_prompt_is_turns() -> None:
    domain = KnowledgeDomain(style="chat", own_questions=OwnQuestions(num_examples=2))
    prompt = domain.question_prompt(PASSAGE, 3)
    assert [turn.role for turn in prompt] == ["user", "assistant", "user", "assistant", "user"]  # type: ignore[union-attr]
    assert all("write 3 questions" in turn.content for turn in prompt[::2])  # type: ignore[union-attr]
    assert domain.question_stop() == ()


def test_braces_in_an_instruction_are_text() -> None:
    domain = KnowledgeDomain(own_questions=OwnQuestions(instruction="{x} {num_questions}", num_examples=0))
    assert str(domain.question_prompt(PASSAGE, 2)).startswith("{x} 2\n")


def test_only_own_questions_need_its_examples() -> None:
    domain = KnowledgeDomain(own_questions=OwnQuestions(num_examples=99))
    with pytest.raises(ConfigError, match="num_examples is 99"):
        domain.question_prompt(PASSAGE, 1)


def test_the_exam_asks_them_instead() -> None:
    domain = KnowledgeDomain()
    task = domain.with_questions(PASSAGE, [("How heavy?", "8 tonnes"), ("Who?", "Torquil Imrayson")])
    assert (task.task_id, task.context) == (PASSAGE.task_id, PASSAGE.context)
    prompts = domain.exam(task)
    assert [(p.question_id, p.target) for p in prompts] == [("own-1", " 8 tonnes"), ("own-2", " Torquil Imrayson")]
    assert "How heavy?" in str(prompts[0].prompt)


@pytest.mark.parametrize("piece", ["Question:", "Question 1: a\nAnswer:", " ", "\n", "Answer: ", "**", "Question 1"])
def test_read_entities_is_linear(piece: str) -> None:
    start = time.process_time()
    written(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 5
