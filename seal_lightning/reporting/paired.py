"""Two sides of a comparison, question by question, and whether their difference is more than noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seal_lightning.core import QuestionScore, VerdictStatus
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.estimates import Estimate, cluster_means, estimate
from seal_lightning.core.seeds import derive_seed
from seal_lightning.reporting.result_files import SINGLE_PASSAGE, Protocol, StoredResult, TestResult
from seal_lightning.reporting.sign_flips import FlipTest, sign_flip_test
from seal_lightning.reporting.text import label

SIGNIFICANT = 0.05

QuestionKey = tuple[str, str]
"""Task id and question id."""


def _accuracy(score: QuestionScore) -> float | None:
    if score.verdict is None or score.verdict.status is VerdictStatus.UNSCORED:
        return None
    return float(score.verdict.status is VerdictStatus.CORRECT)


SCORES: dict[str, Callable[[QuestionScore], float | None]] = {
    "log_prob": lambda score: score.log_prob,
    "accuracy": _accuracy,
    "f1": lambda score: score.f1,
    "exact_match": lambda score: score.exact_match,
    "partial_credit": lambda score: score.partial_credit,
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One condition of one test: each question's score, the mean over a task's edits."""

    where: str
    label: str
    condition: str
    round: int
    name: str
    protocol: str
    scores: dict[QuestionKey, float | None]
    """None: asked, but not measured or not scored."""
    texts: dict[QuestionKey, tuple[str, tuple[str, ...]]]
    """Question and gold answers, where the file has them."""
    num_failed: int
    """Results without adaptation, because nothing could be learned."""
    unit: str
    """What was learned apart from the others: ``task``, ``sequence`` of tasks, or one ``training`` of all."""
    unit_of: dict[str, str]
    """By task, which of them it was learned in."""
    is_repeated: bool
    """Whether a task was learned in several of them."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A less B, over what was learned apart on both sides."""

    mean_a: Estimate
    mean_b: Estimate
    difference: Estimate
    test: FlipTest
    num_questions: int
    num_unmeasured: int
    """Questions that both have, but that were not measured (or scored) on one side at least."""
    num_only_a: int
    num_only_b: int
    num_changed: int
    """Questions of the same id with another text or other gold answers."""
    unit: str
    """What differences are taken over: tasks, or sequences of them."""
    is_of_trainings: bool
    """Whether the units were trained apart, so that an error over them has what differs from training to training."""

    @property
    def is_significant(self) -> bool:
        """Whether so large a difference is rarer than one in twenty by chance."""
        return self.test.p_value < SIGNIFICANT


def chosen_side(test: StoredResult, condition: str, round_index: int | None, name: str | None, score: str) -> Side:
    """The results of one condition, after the last step at which each task was examined.

    Args:
        test: a results file.
        condition: as the file calls it, for instance ``self_edit``.
        round_index: rounds the policy was trained for; None takes the last that the condition occurs with.
        name: of another writer or adapter; may be None where there is one only.
        score: one of :data:`SCORES`.

    Raises :class:`RunError` where the file has no such results, or several.
    """
    arms = dict.fromkeys((r.condition, r.round, r.name or "") for r in test.results)
    fitting = [
        (c, r, n) for c, r, n in arms if c == condition and round_index in (None, r) and (name is None or name == n)
    ]
    if not fitting:
        wanted = (
            condition
            + ("" if round_index is None else f", round {round_index}")
            + ("" if name is None else f", {shown(name)}")
        )
        raise RunError(f"{test.path} has no results of {wanted}; it has {_listed(list(arms))}")
    last = [arm for arm in fitting if arm[1] == max(r for _, r, _ in fitting)]
    if len(last) > 1:
        raise RunError(f"{test.path} has several of {condition}: {_listed(last)}; say which with --name")
    results = _last_steps([r for r in test.results if (r.condition, r.round, r.name or "") == last[0]])
    labels = {(row.condition, row.round, row.name or ""): row.label for row in test.table}
    texts = {
        (task_id, question_id): (question.question, question.gold)
        for task_id, task in test.tasks.items()
        for question_id, question in task.questions.items()
    }
    return Side(
        where=str(test.path),
        label=labels.get(last[0], condition),
        condition=last[0][0],
        round=last[0][1],
        name=last[0][2],
        protocol=test.protocol.name,
        scores=_scores(results, SCORES[score]),
        texts=texts,
        num_failed=sum(r.failure is not None for r in results),
        **_units(test.protocol, results),
    )


def _units(protocol: Protocol, results: Sequence[TestResult]) -> dict[str, Any]:
    """In what the tasks were learned: alone, in sequences, or in one training."""
    sequences: dict[str, set[int]] = {}
    for result in results:
        sequences.setdefault(result.task_id, set()).add(result.sequence)
    if protocol.num_steps > 1 and protocol.num_sequences > 1:
        unit_of = {task_id: "+".join(map(str, sorted(of_task))) for task_id, of_task in sequences.items()}
        return {"unit": "sequence", "unit_of": unit_of, "is_repeated": any(len(s) > 1 for s in sequences.values())}
    unit = "task" if protocol.name == SINGLE_PASSAGE else "training"
    return {"unit": unit, "unit_of": {task_id: task_id for task_id in sequences}, "is_repeated": False}


def compared(a: Side, b: Side, score: str, *, common: bool) -> Comparison:
    """The paired difference over the questions of both. Raises :class:`RunError` unless these are all, or ``common``."""
    only_a = [key for key in a.scores if key not in b.scores]
    only_b = [key for key in b.scores if key not in a.scores]
    both = [key for key in a.scores if key in b.scores]
    changed = [key for key in both if key in a.texts and key in b.texts and a.texts[key] != b.texts[key]]
    if (only_a or only_b or changed) and not common:
        raise RunError(_differ(a, b, only_a, only_b, changed, len(both)))
    shared = [key for key in both if key not in set(changed)]
    pairs = [(key, x, y) for key in shared if (x := a.scores[key]) is not None and (y := b.scores[key]) is not None]
    if not pairs:
        raise RunError(
            f"nothing can be compared: {a.where} and {b.where} share {len(shared)} questions, and none has {score} on both "
            f"sides. Choose another --score ({', '.join(SCORES)}), or test both on the same tasks"
        )
    units = {a.unit, b.unit}
    of_sequences = "sequence" in units

    def unit(task_id: str) -> str:
        return f"{a.unit_of[task_id]} {b.unit_of[task_id]}" if of_sequences else task_id

    means = [
        cluster_means((unit(key[0]), value) for key, *sides in pairs for value in [pick(sides)]) for pick in _PICKS
    ]
    of_a, of_b, difference = (_known(list(found.values())) for found in means)
    return Comparison(
        mean_a=of_a,
        mean_b=of_b,
        difference=difference,
        test=sign_flip_test(list(means[2].values()), derive_seed("seal compare", score)),
        num_questions=len(pairs),
        num_unmeasured=len(shared) - len(pairs),
        num_only_a=len(only_a),
        num_only_b=len(only_b),
        num_changed=len(changed),
        unit="sequence" if of_sequences and a.unit_of == b.unit_of else "task",
        is_of_trainings=units == {"task"} or (units == {"sequence"} and a.unit_of == b.unit_of and not a.is_repeated),
    )


_PICKS: tuple[Callable[[Sequence[float]], float], ...] = (lambda s: s[0], lambda s: s[1], lambda s: s[0] - s[1])


def _known(values: list[float]) -> Estimate:
    found = estimate(values)
    assert found is not None  # there are pairs
    return found


def _last_steps(results: Sequence[TestResult]) -> list[TestResult]:
    """In each sequence a task's results after the last step at which it was examined."""
    last: dict[tuple[int, str], int] = {}
    for result in results:
        key = (result.sequence, result.task_id)
        last[key] = max(result.step, last.get(key, 0))
    return [result for result in results if result.step == last[result.sequence, result.task_id]]


def _scores(
    results: Sequence[TestResult], score: Callable[[QuestionScore], float | None]
) -> dict[QuestionKey, float | None]:
    values: dict[QuestionKey, list[float]] = {}
    for result in results:
        for question in result.scores.questions:
            found = values.setdefault((result.task_id, question.question_id), [])
            if (value := score(question)) is not None:
                found.append(value)
    return {key: sum(found) / len(found) if found else None for key, found in values.items()}


def _listed(arms: Sequence[tuple[str, int, str]]) -> str:
    said = [f"{condition} (round {index}{f', {shown(name)}' if name else ''})" for condition, index, name in arms[:20]]
    return ", ".join(said) or "none"


def _differ(
    a: Side,
    b: Side,
    only_a: Sequence[QuestionKey],
    only_b: Sequence[QuestionKey],
    changed: Sequence[QuestionKey],
    num_both: int,
) -> str:
    parts = [
        f"{len(keys)} {what} (the first: task {shown(keys[0][0])}, question {shown(keys[0][1])})"
        for keys, what in (
            (only_a, "only in A"),
            (only_b, "only in B"),
            (changed, "in both with another text or other gold answers"),
        )
        if keys
    ]
    return (
        f"A ({a.where}) and B ({b.where}) were not asked the same questions: {', '.join(parts)}; {num_both} have the same "
        "names. Nothing was compared. Test both on the same tasks, or compare what they share with --common"
    )


def notes(a: Side, b: Side, found: Comparison) -> Iterator[str]:
    """What a reader must know beside the numbers."""
    if a.protocol != b.protocol:
        yield f"the protocols differ: A {label(a.protocol)}, B {label(b.protocol)}"
    if not found.is_of_trainings:
        yield (
            "tasks were learned together: what differs from one training to the next is not in an error over "
            f"{found.unit}s, so p speaks of these trainings only. Repeat them with other seeds (model.seed)"
        )
    if found.num_only_a or found.num_only_b or found.num_changed:
        yield (
            f"only shared questions are compared: {found.num_only_a} only in A, {found.num_only_b} only in B and "
            f"{found.num_changed} with another text or other gold answers are left out"
        )
    if found.num_unmeasured:
        yield f"{found.num_unmeasured} shared questions were not scored on both sides; they are left out"
    if a.num_failed or b.num_failed:
        yield (
            f"nothing could be learned in {a.num_failed} results of A and {b.num_failed} of B (malformed or "
            "diverged); they count with the scores without adaptation"
        )


def as_json(a: Side, b: Side, score: str, found: Comparison) -> Mapping[str, object]:
    """A comparison as plain values, for scripts."""

    def side(one: Side, mean: Estimate) -> dict[str, object]:
        what = {"results": one.where, "protocol": one.protocol, "condition": one.condition, "round": one.round}
        return {**what, "name": one.name, "label": one.label, "num_failed": one.num_failed, **_plain(mean)}

    return {
        "score": score,
        "a": side(a, found.mean_a),
        "b": side(b, found.mean_b),
        "difference": _plain(found.difference),
        "p_value": found.test.p_value,
        "exact": found.test.is_exact,
        "num_signs": found.test.num_signs,
        "unit": found.unit,
        "num_units": found.difference.n,
        "is_of_trainings": found.is_of_trainings,
        "num_questions": found.num_questions,
        "num_unmeasured": found.num_unmeasured,
        "num_only_a": found.num_only_a,
        "num_only_b": found.num_only_b,
        "num_changed": found.num_changed,
        "inside_the_noise": not found.is_significant,
        "notes": list(notes(a, b, found)),
    }


def _plain(value: Estimate) -> dict[str, object]:
    return {"mean": value.mean, "standard_error": value.standard_error}
