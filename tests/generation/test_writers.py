"""The policy as a writer: what it asks for, and malformed edits sampled again, in bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from fakes import ToyDomain, ToyTask, ToyTasks

from seal_lightning.core import (
    AdaptationPlan,
    Choice,
    Completion,
    FinishReason,
    GenerationRequest,
    SamplingSpec,
    ScoreRequest,
    SelfEdit,
    TextSchema,
)
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.core.interfaces import Engine
from seal_lightning.core.seeds import derive_seed
from seal_lightning.generation import PolicyWriter, TransformersEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.training.module import SealModule

SAMPLING = SamplingSpec(temperature=1.0, max_new_tokens=12, stop=("!",))
TASKS = ToyTasks(2).load()


def seeds_of(num_edits: int, run_seed: int = 0) -> dict[tuple[str, int], int]:
    return {(t.task_id, i): derive_seed(run_seed, t.task_id, i) for t in TASKS for i in range(num_edits)}


class Echo(Engine):
    """Writes each request's seed, and remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[list[GenerationRequest]] = []

    def bind(self, language_model: LanguageModel) -> None: ...

    def generate(self, requests: Sequence[GenerationRequest]) -> Sequence[Completion]:
        self.calls.append(list(requests))
        return [Completion(text=str(r.seed), token_ids=(1, 2), finish_reason=FinishReason.STOP) for r in requests]

    def score(self, requests: Sequence[ScoreRequest]) -> Sequence[Sequence[float]]:
        raise NotImplementedError


class Picky(ToyDomain):
    """Takes the edits that a rule takes."""

    def __init__(self, takes: Callable[[SelfEdit], bool]) -> None:
        super().__init__()
        self.takes = takes
        self.num_asked = 0

    def plan(self, task: ToyTask, edit: SelfEdit) -> AdaptationPlan:
        self.num_asked += 1
        if not self.takes(edit):
            raise MalformedEdit("refused", edit.text)
        return super().plan(task, edit)


class Colours(ToyDomain):
    """Edits by constrained decoding."""

    def edit_schema(self, task: ToyTask) -> TextSchema:
        return (f"The {task.key} is ", Choice(name="colour", options=("red", "blue")), ".")


def test_policy_writer_orders_edits_and_adds_stops() -> None:
    engine = Echo()
    seeds = seeds_of(3)
    edits = PolicyWriter(ToyDomain(), engine, SAMPLING).write(TASKS, 3, seeds)
    assert [(e.task_id, e.edit_index) for e in edits] == [(t.task_id, i) for t in TASKS for i in range(3)]
    assert [e.seed for e in edits] == [int(e.text) for e in edits] == list(seeds.values())
    ((*requests,),) = engine.calls
    assert {r.sampling.stop for r in requests} == {("!", "\n\n")}
    assert all(r.schema is None for r in requests)
    assert {(e.rejected, e.chosen, e.log_prob) for e in edits} == {((), None, None)}


def test_policy_writer_without_retries_checks_nothing() -> None:
    domain, engine = Picky(lambda edit: False), Echo()
    PolicyWriter(domain, engine, SAMPLING).write(TASKS, 2, seeds_of(2))
    assert domain.num_asked == 0
    assert len(engine.calls) == 1


@pytest.mark.parametrize("num_retries", [1, 3])
def test_policy_writer_keeps_last_malformed_edit(num_retries: int) -> None:
    engine = Echo()
    seeds = seeds_of(2)
    writer = PolicyWriter(Picky(lambda edit: False), engine, SAMPLING, num_retries)
    edits = writer.write(TASKS, 2, seeds)
    assert [len(call) for call in engine.calls] == [4] * (num_retries + 1)
    for edit, seed in zip(edits, seeds.values(), strict=True):
        assert edit.seed == seed
        assert edit.rejected == ("refused",) * num_retries
        assert edit.text == str(derive_seed(seed, "retry", num_retries))


def test_policy_writer_retries_malformed_edits_only() -> None:
    """Each slot for itself until its edit is taken: one at once, one after a retry, one after two, one never."""
    seeds = seeds_of(2)
    slots = list(seeds)
    needed = dict(zip(slots, (0, 1, 2, 9), strict=True))
    drawn = {str(seed if n == 0 else derive_seed(seed, "retry", n)): n for seed in seeds.values() for n in range(10)}
    domain = Picky(lambda edit: drawn[edit.text] >= needed[edit.task_id, edit.edit_index])
    engine = Echo()
    edits = PolicyWriter(domain, engine, SAMPLING, 3).write(TASKS, 2, seeds)
    assert [len(call) for call in engine.calls] == [4, 3, 2, 1]
    assert [(e.task_id, e.edit_index) for e in edits] == slots
    assert [len(e.rejected) for e in edits] == [0, 1, 2, 3]
    assert [drawn[e.text] for e in edits] == [0, 1, 2, 3]
    assert [e.seed for e in edits] == list(seeds.values())
    again = PolicyWriter(domain, Echo(), SAMPLING, 3).write(TASKS[1:], 2, seeds)
    assert list(again) == list(edits[2:]), "other tasks of the call change nothing"


def test_policy_writer_retries_are_reproducible(tiny: LanguageModel) -> None:
    engine = TransformersEngine()
    engine.bind(tiny)
    writer = PolicyWriter(Picky(lambda edit: len(edit.text) % 3 == 0), engine, SAMPLING, 4)
    edits = writer.write(TASKS, 4, seeds_of(4))
    assert list(writer.write(TASKS, 4, seeds_of(4))) == list(edits)
    assert len({len(e.rejected) for e in edits}) >= 3
    assert writer.tokens_per_second is not None
    assert writer.tokens_per_second > 0


def test_policy_writer_returns_choices_as_directives(tiny: LanguageModel) -> None:
    engine = TransformersEngine()
    engine.bind(tiny)
    edits = PolicyWriter(Colours(), engine, SAMPLING, 2).write(TASKS, 6, seeds_of(6))
    for edit in edits:
        key = edit.task_id.replace("-", " ")
        assert edit.text == f"The {key} is {edit.directives['colour']}."
        assert edit.finish_reason is FinishReason.STOP
        assert edit.log_prob is not None
        assert edit.log_prob < 0
        assert edit.chosen is not None
        assert sum(edit.chosen) == 1
        assert len(edit.chosen) == len(edit.token_ids)
        assert edit.rejected == ()
    assert {edit.directives["colour"] for edit in edits} == {"red", "blue"}


@pytest.mark.parametrize("edit_retries", [-1, 101])
def test_seal_module_bounds_edit_retries(edit_retries: int) -> None:
    with pytest.raises(ConfigError, match=f"edit_retries: {edit_retries} is not allowed"):
        SealModule(domain=ToyDomain(), edit_retries=edit_retries)
