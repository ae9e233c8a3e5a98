"""What a judge was asked and spent, and when that must stop the run."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

from seal_lightning.core import JudgeCounts, Judgement
from seal_lightning.core.errors import RunError, require

_MAX_REASONS = 100
"""Different reasons that are counted apart; a server can make up more."""
_SHOWN_REASONS = 4


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What tokens cost, in any one currency, per million of them."""

    input: float
    output: float

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            value = getattr(self, name)
            require(0 <= value < float("inf"), f"prices.{name}", value, "at least 0, per million tokens")

    def cost(self, num_input_tokens: int, num_output_tokens: int) -> float:
        """Of so many tokens."""
        return (self.input * num_input_tokens + self.output * num_output_tokens) / 1e6


class Tally:
    """Counts for one judge in one process; any thread may tell it.

    Args:
        who: the judge, as messages call it.
        max_unscored: in [0, 1]: a larger share of undecided questions stops the run.
        min_questions: ≥ 1: not before so many were asked; so many in a row that could not be asked stop it too,
            whatever their share.
        prices: of tokens.
        max_cost: > 0 or None: as soon as so much is spent, the run stops; needs prices.
    """

    def __init__(
        self,
        who: str,
        max_unscored: float = 0.05,
        min_questions: int = 20,
        prices: Prices | None = None,
        max_cost: float | None = None,
    ) -> None:
        require(0 <= max_unscored <= 1, "judge.max_unscored", max_unscored, "a share, from 0 to 1")
        require(min_questions >= 1, "judge.min_questions", min_questions, "at least 1")
        if max_cost is not None:
            require(max_cost > 0, "judge.max_cost", max_cost, "above 0, or null")
            require(prices is not None, "judge.max_cost", max_cost, "null where judge.prices are not given")
        self.who = who
        self.max_unscored = max_unscored
        self.min_questions = min_questions
        self.prices = prices
        self.max_cost = max_cost
        self._lock = threading.Lock()
        self.turn = threading.Lock()
        """Of its judge: held while it asks, so that two threads together ask no more at a time than one."""
        self._asked = self._cached = self._undecided = self._in_a_row = 0
        self._requests = self._unmetered = self._input = self._output = 0
        self._reasons: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """A copy, and another process, count for themselves."""
        return type(self), (self.who, self.max_unscored, self.min_questions, self.prices, self.max_cost)

    @property
    def counts(self) -> JudgeCounts:
        """What it came to so far."""
        with self._lock:
            return JudgeCounts(
                num_questions=self._asked,
                num_cached=self._cached,
                num_undecided=self._undecided,
                num_requests=self._requests,
                num_unmetered=self._unmetered,
                num_input_tokens=self._input,
                num_output_tokens=self._output,
                cost=self._cost,
                reasons=self._shown_reasons,
            )

    @property
    def _cost(self) -> float | None:
        return None if self.prices is None else self.prices.cost(self._input, self._output)

    @property
    def _shown_reasons(self) -> tuple[tuple[str, int], ...]:
        """Those of a kind, which is what stands before a colon, are told by the last of them."""
        return tuple((self._examples[kind], count) for kind, count in self._reasons.most_common(_SHOWN_REASONS))

    def cached(self) -> None:
        """A question was answered from the cache."""
        with self._lock:
            self._asked += 1
            self._cached += 1

    def took(self, judgement: Judgement) -> None:
        """A question was asked. Raises :class:`RunError` when too many are undecided."""
        with self._lock:
            self._asked += 1
            self._in_a_row = self._in_a_row + 1 if judgement.outage else 0
            if judgement.option is not None:
                return
            self._undecided += 1
            kind = judgement.reason.split(":", 1)[0]
            if kind in self._reasons or len(self._reasons) < _MAX_REASONS:
                self._reasons[kind] += 1
                self._examples[kind] = judgement.reason
        self.check_share()

    def check_share(self) -> None:
        """Raise :class:`RunError` when too many questions are undecided."""
        share = self._undecided / max(self._asked, 1)
        too_many = self._asked >= self.min_questions and share > self.max_unscored
        in_a_row = self._in_a_row >= self.min_questions
        if not (too_many or in_a_row):
            return
        reasons = "; ".join(f"{count} × {reason}" for reason, count in self._shown_reasons)
        limit = f"{self.max_unscored:.0%} are allowed" if too_many else f"the last {self._in_a_row} in a row"
        raise RunError(
            f"{self.who} left {self._undecided} of {self._asked} questions undecided ({share:.0%}; {limit}): {reasons}. "
            "They are unscored, not wrong. Stored attempts are kept, and so is every decision (in the cache); attempts that "
            "were being examined are not stored and will be tried again. See to the judge, then go on with "
            "`seal fit --resume RUN` (or the same `seal test`), or allow more with the judge's max_unscored"
        )

    def spent(self, num_input_tokens: int | None, num_output_tokens: int | None) -> None:
        """A reply came, and says what it took, or does not."""
        with self._lock:
            if num_input_tokens is None or num_output_tokens is None:
                self._unmetered += 1
                return
            self._input += num_input_tokens
            self._output += num_output_tokens

    def request(self) -> None:
        """A request is about to be made. Raises :class:`RunError` when no more may be spent."""
        with self._lock:
            cost = self._cost
            if self.max_cost is None or cost is None or cost < self.max_cost:
                self._requests += 1
                return
        raise RunError(
            f"{self.who} has cost {cost:.4g} in this process, and max_cost is {self.max_cost:g}; it is not asked again. "
            "Stored attempts are kept, and so is every decision (in the cache). Raise the judge's max_cost and go on with "
            "`seal fit --resume RUN` (or the same `seal test`)"
        )
