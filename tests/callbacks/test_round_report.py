"""What a round's charts say of how edits were written."""

from __future__ import annotations

import pytest

from seal_lightning.callbacks.round_report import round_metrics
from seal_lightning.core import Attempt, AttemptStatus, Candidate, SelfEdit


def candidate(edit: SelfEdit, num_repeats: int) -> Candidate:
    attempts = [
        Attempt(
            attempt_id=f"a{edit.edit_index}-{repeat}",
            round=0,
            repeat=repeat,
            seed=1,
            edit=edit,
            status=AttemptStatus.SCORED,
            reward=1.0,
        )
        for repeat in range(num_repeats)
    ]
    return Candidate(task_id="t", edit_index=edit.edit_index, attempts=tuple(attempts))


def test_log_probabilities_and_retries_are_means_over_edits() -> None:
    """Not over attempts: an edit with more repeats weighs no more."""
    edits = [
        SelfEdit(task_id="t", edit_index=0, text="a", log_prob=-1.0, rejected=("not JSON", "not JSON")),
        SelfEdit(task_id="t", edit_index=1, text="b", log_prob=-4.0),
        SelfEdit(task_id="t", edit_index=2, text="c"),
    ]
    metrics = round_metrics([candidate(edit, 1 + 2 * i) for i, edit in enumerate(edits)], [])
    assert metrics["edit_log_prob_mean"] == pytest.approx(-2.5)
    assert metrics["valid_sample_rate"] == pytest.approx(3 / 5)


def test_what_was_not_there_is_left_out() -> None:
    metrics = round_metrics([candidate(SelfEdit(task_id="t", edit_index=0, text="a"), 1)], [])
    assert "edit_log_prob_mean" not in metrics
    assert "valid_sample_rate" not in round_metrics([], [])
    assert "edit_log_prob_mean" not in round_metrics([], [])
