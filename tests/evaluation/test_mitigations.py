"""What is done against forgetting: alone, together, and counted; on the tiny model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import ToyDomain, ToyTask, ToyTasks, weights_hash
from test_protocols import BEFORE, OPTIMIZER, SELF_EDIT, TASKS, cells, evaluation, examined

from seal_lightning.core import (
    AdaptationPlan,
    Adapted,
    ConditionNames,
    ExamScores,
    Measurement,
    QuestionScore,
    SelfEdit,
    TrainingSequence,
)
from seal_lightning.core.errors import ConfigError, DataError, MalformedEdit
from seal_lightning.core.evaluation_records import MergeDecision
from seal_lightning.core.interfaces import InnerLoop, TaskSource
from seal_lightning.domains.knowledge import PassagesJsonl
from seal_lightning.evaluation import (
    Condition,
    ConditionResult,
    ContinualSelfEdits,
    Evaluation,
    KLAnchor,
    LowRankMerge,
    MergeGate,
    Mitigation,
    Replay,
    ScaledMerge,
)
from seal_lightning.evaluation.mitigations import _context_texts
from seal_lightning.evaluation.steps import EpisodeMerges
from seal_lightning.inner_loop import BatchedInnerLoop, FullFinetuning
from seal_lightning.inner_loop.schedule import batches
from seal_lightning.inner_loop.whole_weights import scratch_weights
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.packed import TokenizedSequence
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.reporting.condition_table import condition_table

DOMAIN = ToyDomain(optimizer=OPTIMIZER)
EVERYTHING: list[Mitigation] = [
    Replay(num_sequences=2),
    KLAnchor(weight=0.5, num_sequences=2, texts=ToyTasks(2, offset=20)),
    LowRankMerge(rank=1),
    ScaledMerge(factor=0.9),
    MergeGate(max_loss=0.4, texts=ToyTasks(2, offset=20)),
]


def plan_of(number: int, lines: str = "one\ntwo") -> AdaptationPlan:
    return DOMAIN.plan(TASKS[number], SelfEdit(task_id=TASKS[number].task_id, edit_index=0, text=lines))


def texts(*numbers: int) -> list[TrainingSequence]:
    return [sequence for number in numbers for sequence in plan_of(number).sequences]


def continual(
    language_model: LanguageModel,
    against: Sequence[Mitigation],
    inner_loop: InnerLoop | None = None,
    num_steps: int = 3,
    **settings: Any,
) -> list[ConditionResult]:
    protocol = ContinualSelfEdits(num_steps=num_steps, num_sequences=2, against_forgetting=list(against), **settings)
    return examined(evaluation(language_model, protocol, inner_loop, conditions=[SELF_EDIT]), TASKS)


def known(results: Sequence[ConditionResult]) -> dict[tuple[int, int, int], float | None]:
    return {place: cell.scores.log_prob for place, cell in cells(results, SELF_EDIT).items()}


# --- plans


def test_replay_mixes_in_earlier_sequences() -> None:
    own = plan_of(3)
    found = Replay(num_sequences=2).plan(own, texts(0, 1, 2), seed=5)
    assert found.sequences[:3] == own.sequences
    replayed = found.sequences[3:]
    assert len(set(replayed)) == 2
    assert set(replayed) <= set(texts(0, 1, 2))
    assert found == Replay(num_sequences=2).plan(own, texts(0, 1, 2), seed=5)
    draws = {Replay(num_sequences=2).plan(own, texts(0, 1, 2), seed).sequences for seed in range(20)}
    assert len(draws) > 5
    assert Replay().plan(own, texts(0, 1), seed=5).sequences == (*own.sequences, *texts(0, 1))
    assert len(Replay(share=0.5).plan(own, texts(0, 1), seed=5).sequences) == 6
    assert Replay(share=0.75).plan(own, texts(0, 1), seed=5).sequences == (*own.sequences, *texts(0, 1))
    assert Replay(share=0.1).plan(own, texts(0), seed=5).sequences[3:] != ()
    assert Replay().plan(own, [], seed=5) == own
    assert Replay().plan(own, own.sequences, seed=5) == own, "what is trained on anyway is not replayed"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 64])
@pytest.mark.parametrize("past", [(0,), (0, 1), (0, 1, 2)])
def test_replay_keeps_the_number_of_steps(batch_size: int, past: tuple[int, ...]) -> None:
    """Every step still sees what is new, unless steps may grow."""
    own = replace(plan_of(3), optimizer=replace(OPTIMIZER, batch_size=batch_size))
    equal = Replay().plan(own, texts(*past), seed=5)
    assert equal.num_steps == own.num_steps
    assert equal.optimizer == own.optimizer
    tokenized = [TokenizedSequence(token_ids=(i,), trained=(True,)) for i in range(len(equal.sequences))]
    seen = list(batches(tokenized, equal, seed=1))
    assert len(seen) == own.num_steps
    assert Counter(s.token_ids[0] for batch in seen for s in batch) == dict.fromkeys(
        range(len(tokenized)), OPTIMIZER.num_epochs
    ), "an epoch goes through everything once, what is new and what is replayed"
    sizes = {len(batch) for batch in seen}
    assert max(sizes) - min(sizes) <= 1
    more = Replay(equal_steps=False).plan(own, texts(*past), seed=5)
    assert more.optimizer == own.optimizer
    assert more.num_steps == OPTIMIZER.num_epochs * -(-len(more.sequences) // batch_size)


def test_replay_keeps_steps_with_uneven_batches() -> None:
    """Nine sequences in batches of three would be three steps an epoch, where four were four."""
    own = replace(plan_of(3, "one\ntwo\nthree"), optimizer=replace(OPTIMIZER, batch_size=1))
    found = Replay(num_sequences=5).plan(own, texts(0, 1), seed=5)
    assert len(found.sequences) == 9
    assert found.num_steps == own.num_steps == 4 * OPTIMIZER.num_epochs


def test_kl_anchor_takes_earlier_and_fixed_texts(tiny: LanguageModel) -> None:
    of = evaluation(tiny, ContinualSelfEdits(num_steps=2))
    anchor = KLAnchor(weight=3.0, num_sequences=2, texts=ToyTasks(2, offset=20), batch_size=1)
    anchor.bind(of.runner, tiny)
    fixed = [s for task in ToyTasks(2, offset=20).load() for s in DOMAIN.plan_without_edit(task).sequences]
    first = anchor.plan(plan_of(0), [], seed=5).anchor
    assert first is not None
    assert (first.sequences, first.weight, first.batch_size) == (tuple(fixed), 3.0, 1)
    later = anchor.plan(plan_of(3), texts(0, 1, 2), seed=5).anchor
    assert later is not None
    assert later.sequences[:2] == tuple(fixed)
    assert len(later.sequences) == 4
    assert set(later.sequences[2:]) <= set(texts(0, 1, 2))
    assert KLAnchor().plan(plan_of(0), [], seed=5).anchor is None


# --- merges


class Foxes(TaskSource):
    """A text that is nothing like the stones', so that to learn of them makes it less likely."""

    def load(self) -> Sequence[ToyTask]:
        return [ToyTask(task_id="fox", key="quick brown fox", value="jumping over the lazy dog, first and second")]


def merged(
    of: Evaluation, language_model: LanguageModel, gate: MergeGate, *before_it: Mitigation
) -> tuple[MergeDecision, EpisodeMerges]:
    """What a gate decides about the update by the first task's plan; the weights are put back."""
    (trained,) = of.runner.inner_loop.adapt([plan_of(0)], [3])
    assert isinstance(trained, Adapted)
    for mitigation in (*before_it, gate):
        mitigation.bind(of.runner, language_model)
    merging = EpisodeMerges(language_model, [*before_it, gate])
    with scratch_weights(language_model) as weights:
        decision = merging.merge(plan_of(0), trained.adapter)
        changed = any(not torch.equal(p, weights[name]) for name, p in language_model.model.named_parameters())
    assert decision is not None
    assert changed == (decision.factor > 0)
    return decision, merging


def test_merge_gate_merges_largest_allowed_share(tiny64: LanguageModel) -> None:
    """By hand, from what each share does to the probe's text."""
    of = evaluation(tiny64, ContinualSelfEdits(num_steps=2))
    shares = (1.0, 0.5, 0.25)
    bearing = MergeGate(max_loss=1e9, factors=(), texts=Foxes())
    losses = [merged(of, tiny64, bearing, ScaledMerge(share))[0].probe_loss for share in shares]
    assert losses[0] > losses[1] > losses[2] > 0, "the case must have something to decide"  # type: ignore[operator]
    for share, loss in zip(shares, losses, strict=True):
        assert loss is not None
        decision, merging = merged(of, tiny64, MergeGate(max_loss=loss + 1e-9, factors=shares[1:], texts=Foxes()))
        assert decision == MergeDecision(factor=share, probe_loss=pytest.approx(loss, abs=1e-10))  # type: ignore[arg-type]
        assert merging.past == list(plan_of(0).sequences)
    limit = losses[2] - 1e-9  # type: ignore[operator]
    decision, merging = merged(of, tiny64, MergeGate(max_loss=limit, factors=shares[1:], texts=Foxes()))
    assert decision == MergeDecision(factor=0.0, probe_loss=pytest.approx(losses[2], abs=1e-10))  # type: ignore[arg-type]
    assert merging.past == [], "what was refused is not known, so nobody replays it"


def test_merge_gate_refusals_change_nothing_and_count(tiny64: LanguageModel) -> None:
    before = weights_hash(tiny64.model)
    results = continual(tiny64, [MergeGate(max_loss=1e-9, factors=(), texts=Foxes())])
    assert weights_hash(tiny64.model) == before
    found, unadapted = cells(results, SELF_EDIT), cells(results, BEFORE)
    refused = 0
    for sequence in (0, 1):
        earlier = unadapted[sequence, 0, 0].scores
        for step in (1, 2, 3):
            cell = found[sequence, step, step - 1]
            assert cell.merge is not None
            assert cell.failure is None
            assert all(found[sequence, step, place].merge is None for place in range(step - 1)), "told once"
            if cell.merge.factor == 0:
                refused += 1
                assert found[sequence, step, 0].scores == earlier
            earlier = found[sequence, step, 0].scores
    assert refused >= 3
    (row,) = (row for row in condition_table(results, ConditionNames()) if row.condition is SELF_EDIT)
    assert (row.num_merges, row.num_scaled, row.num_refused, row.num_failed) == (6, 0, refused, 0)


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> dict[Any, Any]:
    """What is known without mitigations."""
    return known(continual(Pretrained(source=str(tiny_folder), dtype="float64").load(), []))


def test_merge_gate_without_limit_changes_nothing(plain: dict[Any, Any], tiny64: LanguageModel) -> None:
    gated = continual(tiny64, [MergeGate(max_loss=1e9)])
    assert known(gated) == plain
    (row,) = (row for row in condition_table(gated, ConditionNames()) if row.condition is SELF_EDIT)
    assert (row.num_merges, row.num_scaled, row.num_refused) == (4, 0, 0), "the first of each sequence is not probed"


def test_merges_of_the_whole_update_change_nothing(plain: dict[Any, Any], tiny64: LanguageModel) -> None:
    """A factor of 1 and the adapter's own rank."""
    assert known(continual(tiny64, [ScaledMerge(factor=1.0), LowRankMerge(rank=2)])) == plain
    assert known(continual(tiny64, [ScaledMerge(factor=0.5)])) != plain
    assert known(continual(tiny64, [LowRankMerge(rank=1)])) != plain


# --- together


@pytest.mark.slow
@pytest.mark.parametrize("loop", [BatchedInnerLoop, FullFinetuning])
def test_mitigations_compose(loop: type[InnerLoop], tiny64: LanguageModel) -> None:
    """Weights end as they were; the same again gives the same; every measure changes something."""
    before = weights_hash(tiny64.model)
    results = continual(tiny64, EVERYTHING, loop())
    assert weights_hash(tiny64.model) == before
    assert known(continual(tiny64, EVERYTHING, loop())) == known(results)
    for left_out in range(4):
        assert known(continual(tiny64, EVERYTHING[:left_out] + EVERYTHING[left_out + 1 :], loop())) != known(results)
    rows = {row.condition: row for row in condition_table(results, ConditionNames())}
    assert rows[SELF_EDIT].num_merges == 6
    assert rows[SELF_EDIT].retention is not None
    assert rows[BEFORE].retention is None


@pytest.mark.slow
def test_replay_and_anchor_reduce_forgetting(tiny64: LanguageModel) -> None:
    """Over both sequences; facts of one kind overwrite each other when nothing is done."""

    def changes(against: Sequence[Mitigation]) -> list[float]:
        found = known(continual(tiny64, against, num_steps=4))
        return [found[s, 4, p] - found[s, p + 1, p] for s in (0, 1) for p in range(3)]  # type: ignore[operator]

    plain = changes([])
    assert sum(changes([Replay()])) > sum(plain)
    held = changes([KLAnchor(weight=20.0, num_sequences=None)])
    assert sum(map(abs, held)) < sum(map(abs, plain))


def test_examine_next_measures_transfer(tiny64: LanguageModel) -> None:
    """By hand: the table's numbers from the cells; a plain run's cells are among them, unchanged."""
    plain, results = continual(tiny64, []), continual(tiny64, [], examine_next=True)
    found = known(results)
    assert {place: found[place] for place in known(plain)} == known(plain)
    assert set(found) - set(known(plain)) == {(s, k, k) for s in (0, 1) for k in (1, 2)}
    assert not any(cell.taught or cell.edits for (_, k, p), cell in cells(results, SELF_EDIT).items() if p >= k)
    (row,) = (row for row in condition_table(results, ConditionNames()) if row.condition is SELF_EDIT)
    unadapted = {place: cell.scores.log_prob for place, cell in cells(results, BEFORE).items()}
    assert row.retention is not None
    kept, learned, new, moved, left = 0.0, 0.0, [], [], (0.0, 0.0)
    for s in (0, 1):
        for p in range(3):
            before, own, last = unadapted[s, 0, p], found[s, p + 1, p], found[s, 3, p]
            assert before is not None
            assert own is not None
            assert last is not None
            new.append(own - before)
            if p < 2:
                kept, learned = kept + last - before, learned + own - before
            if p > 0:
                moved.append(found[s, p, p] - before)  # type: ignore[operator]
            if p == 1:
                left = left[0] + last - found[s, p, p], left[1] + own - found[s, p, p]  # type: ignore[operator]
    assert row.retention.new_learning is not None
    assert row.retention.new_learning.mean == pytest.approx(sum(new) / 6)
    assert row.retention.transfer is not None
    assert row.retention.transfer.mean == pytest.approx(sum(moved) / 4)
    for share, (above, below) in (
        (row.retention.retained_share, (kept, learned)),
        (row.retention.specific_share, left),
    ):
        assert share is None or share.mean == pytest.approx(above / below)
    (same,) = (row for row in condition_table(plain, ConditionNames()) if row.condition is SELF_EDIT)
    assert same.retention is not None
    assert same.retention.retained_share == row.retention.retained_share
    assert same.retention.transfer is None


def test_retained_share_from_its_cells() -> None:
    """Two sequences of two steps: 3 and 2 learned of the first tasks, 2 and 1 left of it."""
    before = {(0, 0): -5.0, (0, 1): -6.0, (1, 0): -4.0, (1, 1): -7.0}
    after = {(0, 1, 0): -2.0, (0, 1, 1): -6.5, (0, 2, 0): -3.0, (0, 2, 1): -4.0}
    after |= {(1, 1, 0): -2.0, (1, 1, 1): -6.5, (1, 2, 0): -3.0, (1, 2, 1): -5.0}

    def cell(condition: Condition, sequence: int, step: int, place: int, log_prob: float) -> ConditionResult:
        scores = ExamScores(questions=(QuestionScore(question_id="q", log_prob=log_prob),))
        found = ConditionResult(condition=condition, round=0, task_id=f"{sequence} {place}", scores=scores)
        return replace(found, sequence=sequence, step=step, place=place, taught=step == place + 1)

    results = [cell(BEFORE, s, 0, p, value) for (s, p), value in before.items()]
    results += [cell(SELF_EDIT, s, k, p, value) for (s, k, p), value in after.items()]
    (row,) = (row for row in condition_table(results, ConditionNames()) if row.condition is SELF_EDIT)
    found = row.retention
    assert found is not None
    assert found.retained_share is not None
    assert found.retained_share.mean == pytest.approx(3 / 5)
    assert found.retained_share.standard_error == pytest.approx((2 / 3 - 1 / 2) / 2)
    assert found.new_learning is not None
    assert found.new_learning.mean == pytest.approx((3 + 2 + 2 + 2) / 4)
    assert found.transfer is not None
    assert found.transfer.mean == pytest.approx(0.0)
    assert found.specific_share is not None
    assert found.specific_share.mean == pytest.approx(3 / 5), "the first task is followed, the second is not"


def test_measurements_limit_exams_to_likelihood(tiny64: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = ContinualSelfEdits(num_steps=2, num_sequences=2)
    everything = examined(evaluation(tiny64, protocol, conditions=[SELF_EDIT]), TASKS)
    of = evaluation(tiny64, protocol, conditions=[SELF_EDIT], needs=frozenset({Measurement.LIKELIHOOD}))
    monkeypatch.setattr(of.runner.engine, "generate", None)
    results = examined(of, TASKS)
    assert known(results) == known(everything)
    (row,) = (row for row in condition_table(results, ConditionNames()) if row.condition is SELF_EDIT)
    assert row.accuracy is None
    assert row.num_views == 0


# --- refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replay(num_sequences=0), "Replay.num_sequences: 0 is not allowed; it must be at least 1"),
        (lambda: Replay(share=1.0), r"Replay.share: 1.0 is not allowed; it must be in \(0, 1\)"),
        (lambda: Replay(num_sequences=1, share=0.5), "Replay.share: 0.5 is not allowed; it must be null where"),
        (lambda: KLAnchor(weight=0.0), "KLAnchor.weight: 0.0 is not allowed"),
        (lambda: KLAnchor(weight=float("nan")), "KLAnchor.weight: nan is not allowed"),
        (lambda: KLAnchor(num_sequences=0), "KLAnchor.num_sequences: 0 is not allowed"),
        (lambda: KLAnchor(batch_size=0), "KLAnchor.batch_size: 0 is not allowed"),
        (
            lambda: KLAnchor(earlier=False),
            "KLAnchor.earlier: False is not allowed; it must be true where texts is null",
        ),
        (
            lambda: ContinualSelfEdits(against_forgetting=[KLAnchor(), Replay(), KLAnchor()]),
            "2 × KLAnchor is not allowed",
        ),
        (lambda: ScaledMerge(factor=0.0), "ScaledMerge.factor: 0.0 is not allowed"),
        (lambda: ScaledMerge(factor=1.1), "ScaledMerge.factor: 1.1 is not allowed"),
        (lambda: LowRankMerge(rank=0), "LowRankMerge.rank: 0 is not allowed"),
        (lambda: MergeGate(max_loss=0.0), "MergeGate.max_loss: 0.0 is not allowed"),
        (lambda: MergeGate(factors=(0.5, 0.5)), r"MergeGate.factors: \[0.5, 0.5\] is not allowed; it must be falling"),
        (lambda: MergeGate(factors=(1.0,)), "MergeGate.factors"),
        (lambda: MergeGate(earlier=False), "MergeGate.earlier"),
        (
            lambda: ContinualSelfEdits(against_forgetting=[MergeGate(), ScaledMerge()]),
            "against_forgetting: MergeGate before ScaledMerge is not allowed",
        ),
    ],
)
def test_mitigations_refuse_invalid_settings(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_kl_anchor_refuses_inner_loop_without_anchors(tiny: LanguageModel) -> None:
    class Other(BatchedInnerLoop):
        uses_anchor = False

    protocol = ContinualSelfEdits(num_steps=2, against_forgetting=[KLAnchor()])
    with pytest.raises(ConfigError, match=r"model\.inner_loop: Other ignores a plan's anchor"):
        evaluation(tiny, protocol, Other())


def test_mitigation_settings_are_stored() -> None:
    protocol = ContinualSelfEdits(num_steps=2, against_forgetting=EVERYTHING)
    told = protocol.settings["against_forgetting"]
    assert [one["class"] for one in told] == ["Replay", "KLAnchor", "LowRankMerge", "ScaledMerge", "MergeGate"]
    assert told[0] == {"class": "Replay", "num_sequences": 2, "equal_steps": True}
    assert told[1]["texts"] == {"class": "ToyTasks", "num_tasks": 2, "offset": 20}
    assert told[4]["factors"] == [0.5, 0.25]
    assert ContinualSelfEdits().settings == {"num_steps": 8, "num_sequences": 8}


def test_mitigation_settings_of_any_source(tmp_path: Path) -> None:
    """What a source found while it was read is no setting, and whatever it was given can be written."""
    path = tmp_path / "passages.jsonl"
    good = {"title": "A", "context": "The mill stands.", "questions": [{"question": "What?", "answer": "the mill"}]}
    path.write_text(f"{json.dumps(good)}\nnonsense\n", encoding="utf-8")
    source = PassagesJsonl(path, skip_invalid=True)
    source.load()
    assert len(source.skipped) == 1
    told = ContinualSelfEdits(against_forgetting=[KLAnchor(texts=source)]).settings["against_forgetting"][0]
    assert told["texts"]["path"] == str(path)
    assert "skipped" not in told["texts"]
    json.dumps(told)


def test_mitigations_refuse_texts_that_are_learned(tiny: LanguageModel) -> None:
    for measure in (KLAnchor(texts=ToyTasks(2, offset=20)), MergeGate(texts=ToyTasks(2, offset=20))):
        of = evaluation(tiny, ContinualSelfEdits(num_steps=2, against_forgetting=[measure]))
        of.check(ToyTasks(4).load())
        with pytest.raises(DataError, match="1 tasks that the test learns too"):
            of.check(ToyTasks(3, offset=21).load())


def test_mitigations_refuse_texts_without_sequences(tiny: LanguageModel) -> None:
    class Mute(ToyDomain):
        def plan_without_edit(self, task: Any) -> AdaptationPlan:
            raise MalformedEdit("empty")

    with pytest.raises(DataError, match="none of its 2 contexts gives a training sequence"):
        _context_texts(Mute(), ToyTasks(2))


def test_merge_gate_without_probe_decides_nothing(tiny64: LanguageModel) -> None:
    results = continual(tiny64, [MergeGate(max_loss=1e9)])
    decided = {cell.step: cell.merge for cell in results if cell.taught and cell.condition is SELF_EDIT}
    assert decided[1] is None, "the first step has no earlier texts"
    assert decided[2] is not None
    assert decided[2].factor == 1.0
