"""What a judge is asked, what it decides, and what that came to."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.core.bounds import require


@dataclass(frozen=True, kw_only=True)
class JudgeQuestion:
    """One closed question to a judge: is this answer right, how good is this text."""

    instruction: str
    """What is to be decided, and by which rules; ours, and the only text a judge may obey."""
    material: tuple[tuple[str, str], ...]
    """(Name, text) of what is judged, in order. The texts are data: a model wrote them, and they may speak to the judge."""
    options: tuple[str, ...]
    """≥ 2 different answers, none empty, of which the judge takes one: yes and no, or the marks 1 to 5."""

    def __post_init__(self) -> None:
        distinct = len(set(self.options)) == len(self.options) >= 2 and all(self.options)
        require(distinct, "judge's options", self.options, "at least 2 different answers, none empty")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A judge's decision, or why there is none."""

    option: str | None
    """One of the question's; None where the judge did not decide (down, nonsense): that is no verdict of any kind."""
    reason: str = ""
    """Why it decided so, where it says; why it did not, where it did not."""
    outage: bool = False
    """Whether it did not decide for a reason that is no question's own: nobody answers, the key is refused."""
    probabilities: tuple[float, ...] | None = None
    """Of the options, in order, summing to 1; None where a judge does not tell."""


@dataclass(frozen=True, kw_only=True)
class JudgeCounts:
    """What a judge was asked in this process, and what it cost."""

    num_asked: int = 0
    """Different questions, call by call; those answered from the cache among them."""
    num_cached: int = 0
    num_undecided: int = 0
    num_requests: int = 0
    """To a server, those that were tried again among them."""
    num_unmetered: int = 0
    """Replies that did not say how many tokens they took; they are in no sum of tokens or costs."""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    cost: float | None = None
    """In the currency of the prices given; None where none were."""
    reasons: tuple[tuple[str, int], ...] = ()
    """Why it did not decide, and how often; the commonest first."""
