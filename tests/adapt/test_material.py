"""Questions in two halves: none both selects edits and examines the result."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.adapt.material import split_questions, with_own_questions
from seal_lightning.domains.knowledge import Passage, Question


def passages(counts: list[int]) -> list[Passage]:
    return [
        Passage.named(
            title=f"t{i}",
            context=f"c{i}",
            questions=[Question(question_id=f"{i}-{j}", question=f"{i} {j}?", answers=("a",)) for j in range(count)],
        )
        for i, count in enumerate(counts)
    ]


def ids(of: tuple[Passage, ...]) -> set[str]:
    return {question.question_id for passage in of for question in passage.questions}


@given(st.lists(st.integers(0, 5), max_size=12))
def test_split_questions_gives_two_disjoint_halves(counts: list[int]) -> None:
    split = split_questions(passages(counts), "the user")
    selecting, examining = ids(split.selecting), ids(split.examining)
    assert not selecting & examining
    assert len(selecting) + len(examining) == sum(counts)
    assert len(examining) - len(selecting) in (0, 1)
    assert len(split.selecting) == len(counts)
    assert all(passage.questions for passage in split.examining)


def test_split_questions_alternates_single_questions() -> None:
    split = split_questions(passages([1, 1, 1, 1]), "the model")
    assert ids(split.examining) == {"0-0", "2-0"}
    assert ids(split.selecting) == {"1-0", "3-0"}


def test_with_own_questions_fills_passages_without_any() -> None:
    given_ones = split_questions(passages([1, 2]), "the user")
    split = with_own_questions(given_ones, {p.task_id: p for p in passages([3, 3])})
    assert [len(p.questions) for p in split.selecting] == [3, 1]
    assert split.examining == given_ones.examining
    assert split.by == "the user"
