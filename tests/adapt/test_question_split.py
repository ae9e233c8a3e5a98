"""Questions are dealt so that none both chooses and examines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.adapt.material import dealt, with_own_questions
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
def test_both_halves_together_are_all_and_share_none(counts: list[int]) -> None:
    found = dealt(passages(counts), "the user")
    choosing, examining = ids(found.choosing), ids(found.examining)
    assert not choosing & examining
    assert len(choosing) + len(examining) == sum(counts)
    assert len(examining) - len(choosing) in (0, 1)
    assert len(found.choosing) == len(counts)
    assert all(passage.questions for passage in found.examining)


def test_single_questions_examine_and_choose_in_turn() -> None:
    found = dealt(passages([1, 1, 1, 1]), "the model")
    assert ids(found.examining) == {"0-0", "2-0"}
    assert ids(found.choosing) == {"1-0", "3-0"}


def test_the_models_own_choose_where_a_users_do_not() -> None:
    given_ones = dealt(passages([1, 2]), "the user")
    own = {p.task_id: p for p in passages([3, 3])}
    found = with_own_questions(given_ones, own)
    assert [len(p.questions) for p in found.choosing] == [3, 1]
    assert found.examining == given_ones.examining
    assert found.by == "the user"
