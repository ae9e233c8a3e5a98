"""The axes of a grid, and the paired comparison of its points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pytest

from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    Attempt,
    AttemptStatus,
    Choice,
    ExamScores,
    OptimizerSpec,
    PlanSummary,
    QuestionScore,
    SelfEdit,
    TextSchema,
)
from seal_lightning.core.errors import ConfigError
from seal_lightning.core.estimates import Estimate
from seal_lightning.domains.arc.edits import edit_schema
from seal_lightning.evaluation.grid import (
    cheapest_within_noise,
    check_effective,
    edit_choices,
    grid_rows,
    is_within_noise,
    read_grid,
)


def test_read_grid_combines_typed_values() -> None:
    texts = ["schedule=linear,cosine", "rank=4", "target_modules=q_proj+v_proj,all-linear,null", "layers=0,0+1"]
    found = read_grid([*texts, "learning_rate=1e-4", "max_grad_norm=null,0.5", "use_rslora=true"], 1000)
    assert len(found) == 2 * 3 * 2 * 2
    plan = AdaptationPlan(sequences=(), adapter=AdapterSpec(rank=32, alpha=7.0), optimizer=OptimizerSpec(num_epochs=9))
    first, last = found[0].applied(plan), found[-1].applied(plan)
    modules = ("q_proj", "v_proj")
    assert first.adapter == AdapterSpec(rank=4, alpha=7.0, target_modules=modules, layers=(0,), use_rslora=True)
    assert first.optimizer == OptimizerSpec(num_epochs=9, learning_rate=1e-4, max_grad_norm=None, schedule="linear")
    assert (last.adapter.target_modules, last.adapter.layers) == (None, (0, 1))
    assert (last.optimizer.max_grad_norm, last.optimizer.schedule) == (0.5, "cosine")
    assert found[0].name.startswith(
        "rank=4,target_modules=q_proj+v_proj,layers=0,use_rslora=true,learning_rate=0.0001,"
    )
    assert len({setting.name for setting in found}) == len(found)
    assert [one.name for one in read_grid(["rank=4", "alpha=8"], 9)] == [
        one.name for one in read_grid(["alpha=8", "rank=4"], 9)
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["speed=1"], r"Fields: rank \(int\), .*schedule \(linear, cosine, constant\)"),
        (["rank"], "FIELD=VALUE"),
        (["rank=1", "rank=2"], "each field once"),
        (["rank=1,x"], r"--grid rank: 'x' is not allowed; it must be int"),
        (["rank=2,"], "rank: '' is not allowed"),
        (["rank=null"], "it must be int"),
        (["rank=2+4"], "it must be int"),
        (["rank=0"], "adapter.rank: 0 is not allowed; it must be at least 1"),
        (["learning_rate=nan"], "above 0 and finite"),
        (["schedule=steep"], "'steep' is not allowed; it must be linear, cosine, constant"),
        (["layers=a"], r"it must be 0\+1\+…, null"),
        (["target_modules=q_proj+"], "NAME"),
        (["learning_rate=1e-3,0.001"], "0.001 is given twice"),
        (["rank=1,2,3", "alpha=1,2,3"], "9 settings; allowed are 8 candidates"),
        ([], "--grid is empty"),
    ],
)
def test_read_grid_refuses_invalid_fields(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_grid(texts, 8)


def test_check_effective_refuses_overruled_fields() -> None:
    plan = AdaptationPlan(sequences=(), adapter=AdapterSpec(), optimizer=OptimizerSpec(max_steps=5))
    with pytest.raises(ConfigError, match=r"num_epochs has no effect while max_steps is 5; .* set max_steps=null"):
        check_effective(read_grid(["num_epochs=1,2"], 9), [plan])
    check_effective(read_grid(["num_epochs=1,2", "max_steps=null"], 9), [plan])
    with pytest.raises(ConfigError, match="num_epochs has no effect while max_steps is 3"):
        check_effective(read_grid(["num_epochs=1,2", "max_steps=3"], 9), [plan])
    with pytest.raises(ConfigError, match="rank has no effect: the run's inner loop trains all weights"):
        check_effective(read_grid(["rank=1,2"], 9), [plan], adapters=False)
    check_effective(read_grid(["rank=1,2"], 9), [plan])


SCHEMA: TextSchema = (
    "colour:",
    Choice(name="colour", options=(" red", " green", " blue")),
    ", size: ",
    Choice(name="size", options=("1", "10")),
    ", open:",
    Choice(name="open", options=(" true", " false")),
    ".",
)


def test_edit_choices_order_first_choice_slowest() -> None:
    found = edit_choices(SCHEMA, {})
    assert [c.index for c in found] == list(range(12))
    assert [tuple(c.choices.values()) for c in found] == list(
        product((" red", " green", " blue"), ("1", "10"), (" true", " false"))
    )
    assert found[5].choices == {"colour": " green", "size": "1", "open": " false"}
    assert edit_choices(SCHEMA, {}) == found
    of_arc = edit_choices(edit_schema("extended", (1e-5, 1e-4, 1e-3), (1, 2, 3, 4)), {})
    assert [c.index for c in of_arc] == list(range(2**5 * 3 * 3 * 4))


def test_edit_choices_keep_index_with_fewer_options() -> None:
    everything = {c.index: c for c in edit_choices(SCHEMA, {})}
    found = edit_choices(SCHEMA, {"colour": ["blue", "green"], "open": [" true"]})
    assert len(found) == 4
    assert all(everything[c.index] == c for c in found)
    assert [c.index for c in found] == sorted(c.index for c in found)
    assert {c.choices["colour"] for c in found} == {" green", " blue"}
    assert {c.choices["open"] for c in found} == {" true"}


def test_edit_choices_samples_by_seed() -> None:
    everything = edit_choices(SCHEMA, {})
    draws = {seed: edit_choices(SCHEMA, {}, 4, seed) for seed in range(30)}
    for drawn in draws.values():
        assert len({c.index for c in drawn}) == 4
        assert [c.index for c in drawn] == sorted(c.index for c in drawn)
        assert all(everything[c.index] == c for c in drawn)
    assert draws[3] == edit_choices(SCHEMA, {}, 4, 3)
    assert len({tuple(c.index for c in drawn) for drawn in draws.values()}) > 20
    assert {c.index for drawn in draws.values() for c in drawn} == set(range(12))
    few = edit_choices(SCHEMA, {"colour": ["red"]}, 3, 1)
    assert len(few) == 3
    assert {c.choices["colour"] for c in few} == {" red"}


@pytest.mark.parametrize("limit", [12, 13, 10**9])
def test_edit_choices_limit_above_total(limit: int) -> None:
    assert edit_choices(SCHEMA, {}, limit) == edit_choices(SCHEMA, {})


def test_edit_choices_samples_large_menus() -> None:
    rates, epochs = [1e-6 * (1 + n) for n in range(20)], list(range(1, 21))
    drawn = edit_choices(edit_schema("extended", rates, epochs), {}, 2_000)
    assert len({tuple(c.choices.items()) for c in drawn}) == 2_000


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        ({"hue": ["red"]}, "'hue' is not a choice of the edit's schema; its choices are colour, size, open"),
        ({"colour": ["pink"]}, "colour='pink': allowed are blue, green, red"),
        ({"colour": ["red", "re"]}, "colour='re': allowed"),
        ({"size": ["1.0"]}, "size='1.0': allowed are 1, 10"),
    ],
)
def test_edit_choices_refuses_unknown_options(allowed: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        edit_choices(SCHEMA, allowed)


def attempt(task: str, after: float | None, num_tokens: int) -> Attempt:
    def exam(log_prob: float) -> ExamScores:
        return ExamScores(questions=(QuestionScore(question_id="q", log_prob=log_prob),))

    plan = PlanSummary(num_sequences=1, num_steps=1, num_tokens=num_tokens, learning_rate=1.0, rank=1)
    return Attempt(
        attempt_id=task,
        round=0,
        repeat=0,
        seed=0,
        edit=SelfEdit(task_id=task, edit_index=0, text="x"),
        status=AttemptStatus.SCORED if after is not None else AttemptStatus.DIVERGED,
        plan=plan,
        before=exam(-5.0),
        after=None if after is None else exam(after),
        reward=after,
    )


def rows(scores: Mapping[int, Sequence[float | None]], tokens: Mapping[int, int], **more: Any) -> list[Any]:
    """By rank, the scores of tasks a, b …, tried once; a failed attempt counts as −5."""
    attempts = [
        (setting, [attempt("abcd"[i], score, tokens[rank]) for i, score in enumerate(scores[rank])])
        for setting in read_grid([f"rank={','.join(map(str, scores))}"], 9)
        for rank in [setting.adapter["rank"]]
    ]
    return grid_rows(attempts, lambda a: -5.0 if a.reward is None else a.reward, **more)


def test_grid_rows_pairs_by_task_and_names_cheapest() -> None:
    """Tasks differ by far more than settings do; even so rank 2 is surely worse than rank 1, and rank 3 maybe."""
    scores = {
        1: [-1.0, -11.0, -21.0, -31.0],
        2: [-1.2, -11.3, -21.1, -31.2],
        3: [-1.5, -11.5, -20.3, -30.9],
    }
    found = rows(scores, {1: 100, 2: 10, 3: 50})
    assert [row.point.adapter["rank"] for row in found] == [1, 3, 2]
    assert [row.within_noise for row in found] == [None, True, False]
    assert found[2].difference.mean == pytest.approx(-0.2)
    assert found[2].difference.standard_error == pytest.approx((0.02 / 3) ** 0.5 / 2)
    assert cheapest_within_noise(found) is found[1]


def test_grid_rows_counts_failed_attempts() -> None:
    scores: dict[int, list[float | None]] = {1: [-6.0, -6.0], 2: [-1.0, None]}
    found = rows(scores, {1: 10, 2: 10})
    assert [row.point.adapter["rank"] for row in found] == [2, 1]
    assert found[0].by_task == {"a": -1.0, "b": -5.0}
    assert (found[0].num_failed, found[1].num_failed) == (1, 0)
    assert [row.point.adapter["rank"] for row in rows(scores, {1: 10, 2: 10}, failed_last=True)] == [1, 2]
    alone = rows({1: [-1.0], 2: [-2.0]}, {1: 10, 2: 10})
    assert alone[1].within_noise is None


def test_is_within_noise_uses_students_interval() -> None:
    """Of few tasks the standard error is rough itself."""
    for n, critical in ((2, 12.706), (3, 4.303), (6, 2.571), (1000, 1.962)):
        assert is_within_noise(Estimate(mean=-0.99 * critical, standard_error=1.0, n=n)) is True
        assert is_within_noise(Estimate(mean=-1.01 * critical, standard_error=1.0, n=n)) is False
    assert is_within_noise(Estimate(mean=0.0, standard_error=0.0, n=2)) is True
    assert is_within_noise(Estimate(mean=-1.0, standard_error=None, n=1)) is None
