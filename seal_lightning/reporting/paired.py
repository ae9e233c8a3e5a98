"""Paired comparison of two tests, question by question, with a sign-flip permutation test over independent units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seal_lightning.core import QuestionScore, VerdictStatus
from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.estimates import Estimate, cluster_means, estimate
from seal_lightning.core.evaluation_records import SINGLE_PASSAGE, Arm, ConditionResult, ProtocolRecord
from seal_lightning.core.seeds import derive_seed
from seal_lightning.reporting.runs import StoredEvaluation
from seal_lightning.reporting.text import label

SIGNIFICANT = 0.05
MAX_EXACT = 16
"""Differences up to which every choice of signs is counted; 2¹⁶ of them."""
NUM_DRAWS = 10_000
_CHANGED = "in both with another text or other gold answers"

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
class SignFlipTest:
    """The result of a sign-flip permutation test."""

    p_value: float
    """Two-sided, in (0, 1]."""
    num_signs: int
    """Choices of signs that were counted, or drawn."""
    is_exact: bool


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> SignFlipTest:
    """Test that the mean of independent paired differences is zero, by flipping their signs; no distribution is assumed.

    Args:
        differences: at least one.
        seed: of the draws, where there are more than :data:`MAX_EXACT` differences.
    """
    if len(differences) == 1:
        return SignFlipTest(p_value=1.0, num_signs=2, is_exact=True)
    import numpy as np  # with SciPy half a second: only when something is compared
    from scipy.stats import permutation_test

    is_exact = len(differences) <= MAX_EXACT
    num_signs = 2 ** len(differences) if is_exact else NUM_DRAWS
    found = permutation_test(
        (np.array(differences),),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=num_signs,
        rng=np.random.default_rng(seed),
    )
    return SignFlipTest(p_value=float(found.pvalue), num_signs=num_signs, is_exact=is_exact)


@dataclass(frozen=True, kw_only=True)
class ComparisonSide:
    """One arm of one test: each question's score, the mean over a task's edits."""

    where: str
    """The results file."""
    label: str
    arm: Arm
    protocol: str
    scores: dict[QuestionKey, float | None]
    """None: examined, but not measured or not scored."""
    texts: dict[QuestionKey, tuple[str, tuple[str, ...]]]
    """Question and gold answers."""
    num_failed: int
    """Results without adaptation, because nothing could be learned."""
    unit: str
    """What was learned independently: a ``task``, a ``sequence`` of tasks, or all tasks in one ``training``."""
    unit_of: dict[str, str]
    """Each task's unit."""
    is_repeated: bool
    """Whether a task was learned in several units."""


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """A less B, over units that were learned independently on both sides."""

    mean_a: Estimate
    mean_b: Estimate
    difference: Estimate
    test: SignFlipTest
    num_questions: int
    num_unmeasured: int
    """Shared questions without a score on one side at least."""
    num_only_a: int
    num_only_b: int
    num_changed: int
    """Questions of the same id with another text or other gold answers."""
    unit: str
    """What the differences are taken over: ``task`` or ``sequence``."""
    is_of_trainings: bool
    """Whether the units were trained independently, so that their error includes what differs between trainings."""

    @property
    def is_significant(self) -> bool:
        """True where p is below :data:`SIGNIFICANT`."""
        return self.test.p_value < SIGNIFICANT


def chosen_side(
    test: StoredEvaluation, condition: str, round_index: int | None, name: str | None, score: str
) -> ComparisonSide:
    """Return the results of one arm, after the last step at which each task was examined.

    Args:
        test: a results file.
        condition: a :class:`Condition`, for instance ``self_edit``.
        round_index: rounds the policy was trained for; None takes the last one with this condition.
        name: of another writer or adapter; may be None where there is only one.
        score: a key of :data:`SCORES`.

    Raises:
        RunError: the file has no such results, or several.
    """
    arms = list(dict.fromkeys(r.arm for r in test.results))
    fitting = [
        arm
        for arm in arms
        if arm.condition == condition and round_index in (None, arm.round) and name in (None, arm.name)
    ]
    if not fitting:
        wanted = ", ".join(
            [
                condition,
                *([f"round {round_index}"] if round_index is not None else []),
                *([shown(name)] if name else []),
            ]
        )
        raise RunError(f"{test.path} has no results of {wanted}; it has {_listed(arms)}")
    last = [arm for arm in fitting if arm.round == max(one.round for one in fitting)]
    if len(last) > 1:
        raise RunError(f"{test.path} has several results of {condition}: {_listed(last)}. Choose one with --name")
    (arm,) = last
    results = [r for r in test.last_results() if r.arm == arm]
    texts = {
        (task_id, question_id): (question.question, question.gold)
        for task_id, task in test.tasks.items()
        for question_id, question in task.questions.items()
    }
    values: dict[QuestionKey, list[float]] = {}
    for result in results:
        for question in result.scores.questions:
            found = values.setdefault((result.task_id, question.question_id), [])
            if (value := SCORES[score](question)) is not None:
                found.append(value)
    return ComparisonSide(
        where=str(test.path),
        label=next((row.label for row in test.table if row.arm == arm), condition),
        arm=arm,
        protocol=test.protocol.name,
        scores={key: sum(found) / len(found) if found else None for key, found in values.items()},
        texts=texts,
        num_failed=sum(r.failure is not None for r in results),
        **_units(test.protocol, results),
    )


def _units(protocol: ProtocolRecord, results: Sequence[ConditionResult]) -> dict[str, Any]:
    sequences: dict[str, set[int]] = {}
    for result in results:
        sequences.setdefault(result.task_id, set()).add(result.sequence)
    if protocol.num_steps > 1 and protocol.num_sequences > 1:
        unit_of = {task_id: "+".join(map(str, sorted(of_task))) for task_id, of_task in sequences.items()}
        return {"unit": "sequence", "unit_of": unit_of, "is_repeated": any(len(s) > 1 for s in sequences.values())}
    unit = "task" if protocol.name == SINGLE_PASSAGE else "training"
    return {"unit": unit, "unit_of": {task_id: task_id for task_id in sequences}, "is_repeated": False}


def _listed(arms: Sequence[Arm]) -> str:
    said = [f"{arm.condition} (round {arm.round}{f', {shown(arm.name)}' if arm.name else ''})" for arm in arms[:20]]
    return ", ".join(said) or "none"


def paired_comparison(a: ComparisonSide, b: ComparisonSide, score: str, *, common: bool) -> PairedComparison:
    """Compare the questions that both sides have. Raises :class:`RunError` unless these are all, or ``common``."""
    both = [key for key in a.scores if key in b.scores]
    changed = {key for key in both if key in a.texts and key in b.texts and a.texts[key] != b.texts[key]}
    differing = {
        "only in A": [key for key in a.scores if key not in b.scores],
        "only in B": [key for key in b.scores if key not in a.scores],
        _CHANGED: [key for key in both if key in changed],
    }
    if any(differing.values()) and not common:
        counts = [
            f"{len(keys)} {what} (the first: task {shown(keys[0][0])}, question {shown(keys[0][1])})"
            for what, keys in differing.items()
            if keys
        ]
        raise RunError(
            f"A ({a.where}) and B ({b.where}) were not asked the same questions: {', '.join(counts)}; {len(both)} have the "
            "same names. Test both on the same tasks, or compare what they share with --common"
        )
    shared = [key for key in both if key not in changed]
    pairs = [(key, x, y) for key in shared if (x := a.scores[key]) is not None and (y := b.scores[key]) is not None]
    if not pairs:
        raise RunError(
            f"nothing can be compared: {a.where} and {b.where} share {len(shared)} questions, and none has {score} on both "
            f"sides. Choose another --score ({', '.join(SCORES)}), or test both on the same tasks"
        )
    units = {a.unit, b.unit}

    def unit(task_id: str) -> str:
        return f"{a.unit_of[task_id]} {b.unit_of[task_id]}" if "sequence" in units else task_id

    differences = cluster_means((unit(key[0]), x - y) for key, x, y in pairs)
    return PairedComparison(
        mean_a=_estimate(cluster_means((unit(key[0]), x) for key, x, _ in pairs)),
        mean_b=_estimate(cluster_means((unit(key[0]), y) for key, _, y in pairs)),
        difference=_estimate(differences),
        test=sign_flip_test(list(differences.values()), derive_seed("seal compare", score)),
        num_questions=len(pairs),
        num_unmeasured=len(shared) - len(pairs),
        num_only_a=len(differing["only in A"]),
        num_only_b=len(differing["only in B"]),
        num_changed=len(changed),
        unit="sequence" if "sequence" in units and a.unit_of == b.unit_of else "task",
        is_of_trainings=units == {"task"} or (units == {"sequence"} and a.unit_of == b.unit_of and not a.is_repeated),
    )


def _estimate(means: Mapping[str, float]) -> Estimate:
    found = estimate(list(means.values()))
    assert found is not None, "there are pairs"
    return found


def notes(a: ComparisonSide, b: ComparisonSide, found: PairedComparison) -> Iterator[str]:
    """Yield what a reader must know beside the numbers."""
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
            f"{found.num_changed} with another text or other gold answers are skipped"
        )
    if found.num_unmeasured:
        yield f"{found.num_unmeasured} shared questions were not scored on both sides; they are skipped"
    if a.num_failed or b.num_failed:
        yield (
            f"nothing could be learned in {a.num_failed} results of A and {b.num_failed} of B (malformed or "
            "diverged); they count with the scores without adaptation"
        )


def as_json(a: ComparisonSide, b: ComparisonSide, score: str, found: PairedComparison) -> dict[str, object]:
    """Return a comparison as plain values, for scripts."""

    def side(one: ComparisonSide, mean: Estimate) -> dict[str, object]:
        arm = {"condition": one.arm.condition.value, "round": one.arm.round, "name": one.arm.name}
        where = {"results": one.where, "protocol": one.protocol}
        return {**where, **arm, "label": one.label, "num_failed": one.num_failed, **_plain(mean)}

    counts = ("num_questions", "num_unmeasured", "num_only_a", "num_only_b", "num_changed")
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
        **{name: getattr(found, name) for name in counts},
        "inside_the_noise": not found.is_significant,
        "notes": list(notes(a, b, found)),
    }


def _plain(value: Estimate) -> dict[str, object]:
    return {"mean": value.mean, "standard_error": value.standard_error}
