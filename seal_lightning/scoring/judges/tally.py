"""Counts of a judge's questions and costs, and the limits that stop a run."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, replace

from seal_lightning.core import JudgeCounts, Judgement
from seal_lightning.core.errors import RunError, require

_SHOWN_REASONS = 4


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Prices of tokens, in any one currency, per million of them.

    Example:
        >>> Prices(input=2.0, output=8.0).cost(num_input_tokens=1_000_000, num_output_tokens=500_000)
        6.0
    """

    input: float
    output: float

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"prices.{name}", value, "at least 0, per million tokens")

    def cost(self, num_input_tokens: int, num_output_tokens: int) -> float:
        """Return the price of so many tokens."""
        return (self.input * num_input_tokens + self.output * num_output_tokens) / 1e6


class JudgeTally:
    """Counts of one judge in one process; methods may be called from any thread.

    Args:
        name: the judge's name in messages.
        max_unscored: in [0, 1]: a larger share of undecided questions stops the run.
        min_questions: ≥ 1: the share counts from so many questions on; so many outages in a row stop the run too.
        prices: of tokens.
        max_cost: > 0 or None: the run stops once so much is spent; needs prices.
    """

    def __init__(
        self,
        name: str,
        max_unscored: float = 0.05,
        min_questions: int = 20,
        prices: Prices | None = None,
        max_cost: float | None = None,
    ) -> None:
        require(0 <= max_unscored <= 1, "judge.max_unscored", max_unscored, "a share, from 0 to 1")
        require(min_questions >= 1, "judge.min_questions", min_questions, "at least 1")
        require(max_cost is None or max_cost > 0, "judge.max_cost", max_cost, "above 0, or null")
        require(max_cost is None or prices is not None, "judge.max_cost", max_cost, "null without judge.prices")
        self.name = name
        self.max_unscored = max_unscored
        self.min_questions = min_questions
        self.prices = prices
        self.max_cost = max_cost
        self.turn = threading.Lock()
        """Held while the judge works, so that two threads together stay within its concurrency."""
        self._lock = threading.Lock()
        self._counts = JudgeCounts(cost=None if prices is None else 0.0)
        self._outages_in_a_row = 0
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """Start a copy, and another process, with counts of zero: locks cannot be copied."""
        return type(self), (self.name, self.max_unscored, self.min_questions, self.prices, self.max_cost)

    @property
    def counts(self) -> JudgeCounts:
        """The counts so far. Reasons of a kind, which is the text before a colon, are shown by their last example."""
        with self._lock:
            common = self._reasons.most_common(_SHOWN_REASONS)
            return replace(self._counts, reasons=tuple((self._examples[kind], count) for kind, count in common))

    def count_cached(self) -> None:
        """Count a question that the cache answered."""
        with self._lock:
            self._add(num_questions=1, num_cached=1)

    def count(self, judgement: Judgement) -> None:
        """Count a judged question. Raises :class:`RunError` when too many are undecided."""
        with self._lock:
            undecided = judgement.option is None
            self._add(num_questions=1, num_undecided=int(undecided))
            self._outages_in_a_row = self._outages_in_a_row + 1 if judgement.outage else 0
            if undecided:
                kind = judgement.reason.split(":", 1)[0]
                self._reasons[kind] += 1
                self._examples[kind] = judgement.reason
        if undecided:
            self._check_share()

    def _check_share(self) -> None:
        counts = self.counts
        share = counts.num_undecided / max(counts.num_questions, 1)
        too_many = counts.num_questions >= self.min_questions and share > self.max_unscored
        if not too_many and self._outages_in_a_row < self.min_questions:
            return
        reasons = "; ".join(f"{count} × {reason}" for reason, count in counts.reasons)
        limit = f"{self.max_unscored:.0%} are allowed" if too_many else f"the last {self._outages_in_a_row} in a row"
        raise RunError(
            f"{self.name} left {counts.num_undecided} of {counts.num_questions} questions undecided ({share:.0%}; {limit}): "
            f"{reasons}. They are unscored, not wrong; stored attempts and decisions are kept. Repair the judge and resume "
            "with `seal fit --resume RUN` (or repeat `seal test`), or raise the judge's max_unscored"
        )

    def count_request(self) -> None:
        """Count an HTTP request."""
        with self._lock:
            self._add(num_requests=1)

    def count_tokens(self, num_input_tokens: int | None, num_output_tokens: int | None) -> None:
        """Count the tokens of a reply; None where it does not state them."""
        with self._lock:
            if num_input_tokens is None or num_output_tokens is None:
                self._add(num_unmetered=1)
                return
            self._add(num_input_tokens=num_input_tokens, num_output_tokens=num_output_tokens)
            if self.prices is not None:
                cost = self.prices.cost(self._counts.num_input_tokens, self._counts.num_output_tokens)
                self._counts = replace(self._counts, cost=cost)

    def check_cost(self) -> None:
        """Raise :class:`RunError` once ``max_cost`` is spent."""
        cost = self._counts.cost
        if self.max_cost is None or cost is None or cost < self.max_cost:
            return
        raise RunError(
            f"{self.name} has cost {cost:.4g} in this process, and its max_cost is {self.max_cost:g}. Stored attempts and "
            "decisions are kept; raise max_cost and resume with `seal fit --resume RUN` (or repeat `seal test`)"
        )

    def _add(self, **by: int) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in by.items()})
