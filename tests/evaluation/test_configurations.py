"""The configurations of a schema: all of them, always in the same order, or some."""

from __future__ import annotations

import math
from itertools import product

import pytest

from seal_lightning.core import (
    Attempt,
    AttemptStatus,
    Choice,
    ExamScores,
    QuestionScore,
    SelfEdit,
    TextSchema,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.arc.edits import edit_schema
from seal_lightning.evaluation.configurations import configurations, is_solved, probability_of_solving

SCHEMA: TextSchema = (
    "colour:",
    Choice(name="colour", options=(" red", " green", " blue")),
    ", size: ",
    Choice(name="size", options=("1", "10")),
    ", open:",
    Choice(name="open", options=(" true", " false")),
    ".",
)


def test_all_of_them_with_the_first_choice_changing_slowest() -> None:
    found = configurations(SCHEMA, {})
    assert [c.index for c in found] == list(range(12))
    assert [tuple(c.choices.values()) for c in found] == list(
        product((" red", " green", " blue"), ("1", "10"), (" true", " false"))
    )
    assert found[5].choices == {"colour": " green", "size": "1", "open": " false"}
    assert configurations(SCHEMA, {}) == found
    of_arc = configurations(edit_schema("extended", (1e-5, 1e-4, 1e-3), (1, 2, 3, 4)), {})
    assert [c.index for c in of_arc] == list(range(2**5 * 3 * 3 * 4))


def test_with_some_options_only_the_places_stay() -> None:
    everything = {c.index: c for c in configurations(SCHEMA, {})}
    found = configurations(SCHEMA, {"colour": ["blue", "green"], "open": [" true"]})
    assert len(found) == 4
    assert all(everything[c.index] == c for c in found)
    assert [c.index for c in found] == sorted(c.index for c in found)
    assert {c.choices["colour"] for c in found} == {" green", " blue"}
    assert {c.choices["open"] for c in found} == {" true"}


def test_some_drawn_by_a_seed() -> None:
    everything = configurations(SCHEMA, {})
    draws = {seed: configurations(SCHEMA, {}, 4, seed) for seed in range(30)}
    for drawn in draws.values():
        assert len({c.index for c in drawn}) == 4
        assert [c.index for c in drawn] == sorted(c.index for c in drawn)
        assert all(everything[c.index] == c for c in drawn)
    assert draws[3] == configurations(SCHEMA, {}, 4, 3)
    assert len({tuple(c.index for c in drawn) for drawn in draws.values()}) > 20
    assert {c.index for drawn in draws.values() for c in drawn} == set(range(12))
    few = configurations(SCHEMA, {"colour": ["red"]}, 3, 1)
    assert len(few) == 3
    assert {c.choices["colour"] for c in few} == {" red"}


@pytest.mark.parametrize("limit", [12, 13, 10**9])
def test_a_limit_that_is_no_limit(limit: int) -> None:
    assert configurations(SCHEMA, {}, limit) == configurations(SCHEMA, {})


def test_large_menus_are_drawn_from_quickly() -> None:
    rates, epochs = [1e-6 * (1 + n) for n in range(20)], list(range(1, 21))
    drawn = configurations(edit_schema("extended", rates, epochs), {}, 2_000)
    assert len({tuple(c.choices.items()) for c in drawn}) == 2_000


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"hue": ["red"]}, "'hue' is no choice of the edit's schema; its choices are colour, size, open"),
        ({"colour": ["pink"]}, "colour='pink': allowed are blue, green, red"),
        ({"colour": ["red", "re"]}, "colour='re': allowed"),
        ({"size": ["1.0"]}, "size='1.0': allowed are 1, 10"),
    ],
)
def test_what_the_schema_does_not_have(allowed: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configurations(SCHEMA, allowed)


# --- what solves


def attempt(*statuses: VerdictStatus, examined: bool = True) -> Attempt:
    scores = ExamScores(
        questions=tuple(
            QuestionScore(question_id=str(i), verdict=Verdict(question_id=str(i), status=status))
            for i, status in enumerate(statuses)
        )
    )
    return Attempt(
        attempt_id="a",
        round=0,
        repeat=0,
        seed=0,
        edit=SelfEdit(task_id="t", edit_index=0, text=""),
        status=AttemptStatus.SCORED if examined else AttemptStatus.DIVERGED,
        after=scores if examined else None,
    )


RIGHT, WRONG, UNSCORED = VerdictStatus.CORRECT, VerdictStatus.WRONG, VerdictStatus.UNSCORED


def test_solved_is_every_question() -> None:
    assert is_solved(attempt(RIGHT, RIGHT))
    for other in (attempt(RIGHT, WRONG), attempt(RIGHT, UNSCORED), attempt(), attempt(RIGHT, examined=False)):
        assert not is_solved(other)


@pytest.mark.parametrize("offset", [0.0, -1_000.0])
def test_the_probability_of_solving(offset: float) -> None:
    """Relative to what was tried; however unlikely that is, nothing underflows."""
    tried = [attempt(RIGHT), attempt(WRONG), attempt(RIGHT), attempt(examined=False)]
    log_probs = [offset + math.log(p) for p in (0.1, 0.2, 0.3, 0.2)]
    assert probability_of_solving(tried, log_probs) == pytest.approx(0.4 / 0.8)
    assert probability_of_solving(tried[:1], log_probs[:1]) == 1.0
    assert probability_of_solving(tried[1:2], log_probs[1:2]) == 0.0
    with pytest.raises(ValueError, match="zip"):
        probability_of_solving(tried, log_probs[:-1])
