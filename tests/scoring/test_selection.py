"""Selection by reward without Lightning."""

from __future__ import annotations

from seal_lightning.core import Attempt, AttemptStatus, Candidate, SelfEdit
from seal_lightning.scoring.selection import best_of_k, first_per_task, group_candidates


class FakeTask:
    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


def attempt(task: str, index: int, repeat: int = 0, reward: float = 0.0) -> Attempt:
    edit = SelfEdit(task_id=task, edit_index=index, text="")
    return Attempt(
        attempt_id=f"{task}-{index}-{repeat}",
        round=0,
        repeat=repeat,
        seed=0,
        edit=edit,
        status=AttemptStatus.SCORED,
        reward=reward,
    )


def test_best_of_k_on_all_released_passages() -> None:
    """The size of the paper's largest set, 2,067 passages of 5 edits; a quadratic filter takes half a minute."""
    candidates = [
        Candidate(task_id=f"t{t}", edit_index=i, attempts=(attempt(f"t{t}", i, reward=float((i * 3 + t) % 5)),))
        for t in range(2067)
        for i in range(5)
    ]
    best = best_of_k(candidates, 1)
    assert [c.task_id for c in best] == [f"t{t}" for t in range(2067)]
    assert {c.reward for c in best} == {4.0}


def test_first_per_task_may_keep_none() -> None:
    assert first_per_task([Candidate(task_id="a", edit_index=0, attempts=())], 0) == []


def test_group_candidates_drops_duplicates_and_other_tasks() -> None:
    attempts = [attempt("b", 1), attempt("a", 0, 1), attempt("a", 0, 0), attempt("a", 0, 1), attempt("gone", 0)]
    found = group_candidates(attempts, [FakeTask("a"), FakeTask("b")])  # type: ignore[list-item]
    assert [(c.task_id, c.edit_index, [a.repeat for a in c.attempts]) for c in found] == [
        ("a", 0, [0, 1]),
        ("b", 1, [0]),
    ]
