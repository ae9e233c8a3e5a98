"""Rewards drawn: their course over rounds, and their spread within each."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from seal_lightning.core import AttemptStatus
from seal_lightning.core.estimates import Estimate
from seal_lightning.reporting.charts import COLOURS, GREY, colour, marker, new_figure, picture
from seal_lightning.reporting.runs import Round, StoredRun

MAX_POINTS = 300
"""Drawn of a round's rewards; of more, evenly spaced quantiles."""
MAX_ROUNDS = 12
_BARS = {
    AttemptStatus.SCORED: (COLOURS[0], ""),
    AttemptStatus.UNSCORED: (COLOURS[5], "//"),
    AttemptStatus.MALFORMED: (COLOURS[1], "xx"),
    AttemptStatus.DIVERGED: (COLOURS[6], ".."),
}


def reward_curves(runs: Sequence[StoredRun], unit: str) -> bytes:
    """Mean reward by round, of all attempts and of the kept ones, with standard errors."""
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for place, run in enumerate(runs):
        shift = 0.03 * (place - (len(runs) - 1) / 2)  # so that error bars do not hide each other
        for is_kept, style, name in ((False, "-", "all attempts"), (True, "--", "kept edits")):
            points = [(r.index + shift, r.kept_reward if is_kept else r.reward) for r in run.rounds]
            shade = colour(2 * place + is_kept) if len(runs) == 1 else colour(place)
            text = name if len(runs) == 1 else f"{run.name}: {name}"
            _curve(axes, points, style, shade, marker(2 * place + is_kept), text)
    axes.set_xlabel("round (0: edits of the untrained policy)")
    axes.set_ylabel(f"reward ({unit}), mean ± s.e.")
    indices = [found.index for run in runs for found in run.rounds]
    axes.set_xlim(min(indices) - 0.5, max(indices) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(runs) == 1:
        axes.legend(fontsize=9)
    else:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return picture(figure)


def _curve(
    axes: Axes, points: Sequence[tuple[float, Estimate | None]], style: str, shade: str, mark: str, name: str
) -> None:
    known = [(x, value) for x, value in points if value is not None]
    if known:
        axes.errorbar(
            [x for x, _ in known],
            [value.mean for _, value in known],
            yerr=[value.standard_error or 0.0 for _, value in known],
            linestyle=style,
            color=shade,
            marker=mark,
            capsize=3,
            label=name,
        )


def reward_spread(run: StoredRun, unit: str) -> bytes:
    """Left the rewards of each round's attempts, kept ones marked; right how the attempts ended."""
    rounds = spaced(run.rounds)
    figure = new_figure(10, 4)
    spread, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    for place, found in enumerate(rounds):
        _strip(spread, place, found)
    names = [str(found.index) for found in rounds]
    spread.set_xticks(range(len(rounds)), names)
    spread.set_xlim(-0.6, len(rounds) - 0.4)
    spread.set_xlabel("round")
    spread.set_ylabel(f"reward of an attempt ({unit})")
    spread.grid(axis="y", alpha=0.3)
    for label, shade, mark in (("attempt", GREY, "o"), ("of a kept edit", COLOURS[1], "D")):
        spread.plot([], [], mark, color=shade, label=label, markersize=5)
    spread.plot([], [], "-", color="black", linewidth=2, label="median")
    spread.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3, frameon=False)
    _ends(ends, rounds)
    ends.set_yticks(range(len(rounds)), names)
    return picture(figure)


def spaced(rounds: Sequence[Round]) -> list[Round]:
    """At most :data:`MAX_ROUNDS`, evenly spaced, the first and the last among them."""
    if len(rounds) <= MAX_ROUNDS:
        return list(rounds)
    last = len(rounds) - 1
    return [rounds[round(i * last / (MAX_ROUNDS - 1))] for i in range(MAX_ROUNDS)]


def _strip(axes: Axes, place: int, found: Round) -> None:
    for is_kept, shade, mark in ((False, GREY, "o"), (True, COLOURS[1], "D")):
        rewards = [t.reward for t in found.attempts if t.reward is not None and (t.edit in found.kept) is is_kept]
        points = _quantiles(rewards)
        # Neighbours in rank stand apart, at the same places each time the page is made.
        across = [place + 0.5 * ((i * 0.618034) % 1.0 - 0.5) for i in range(len(points))]
        axes.plot(across, points, mark, color=shade, alpha=0.6, markersize=4, zorder=2 + is_kept)
    rewards = sorted(t.reward for t in found.attempts if t.reward is not None)
    if rewards:
        median = (rewards[(len(rewards) - 1) // 2] + rewards[len(rewards) // 2]) / 2
        axes.plot([place - 0.35, place + 0.35], [median, median], "-", color="black", linewidth=2, zorder=4)


def _quantiles(rewards: Sequence[float]) -> list[float]:
    ordered = sorted(rewards)
    if len(ordered) <= MAX_POINTS:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


def _ends(axes: Axes, rounds: Sequence[Round]) -> None:
    counts = [found.status_counts for found in rounds]
    left = [0] * len(rounds)
    for status, (shade, hatch) in _BARS.items():
        widths = [count[status] for count in counts]
        if any(widths):
            axes.barh(
                range(len(rounds)),
                widths,
                height=0.5,
                left=left,
                color=shade,
                hatch=hatch,
                edgecolor="white",
                label=status.value,
            )
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.set_ylim(len(rounds) - 0.4, -0.6)
    axes.set_xlabel("number of attempts")
    axes.set_ylabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=4, frameon=False)
