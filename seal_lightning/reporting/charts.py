"""Charts of a report as SVG: rewards by round, their spread, and matrices of several steps.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; lines differ in their markers too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from seal_lightning.core import AttemptStatus
from seal_lightning.core.estimates import Estimate
from seal_lightning.core.evaluation_records import ScoreMatrix
from seal_lightning.reporting.runs import StoredRound, StoredRun
from seal_lightning.reporting.text import label

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
MAX_POINTS = 300
"""Rewards drawn per round; of more, evenly spaced quantiles."""
MAX_ROUNDS = 12
SCORES = {"accuracy": "accuracy", "log_prob": "log-prob (nats)"}
"""Scores of a matrix, as headings call them."""

_STATUS_BARS = {
    AttemptStatus.SCORED: (COLOURS[0], ""),
    AttemptStatus.UNSCORED: (COLOURS[5], "//"),
    AttemptStatus.MALFORMED: (COLOURS[1], "xx"),
    AttemptStatus.DIVERGED: (COLOURS[6], ".."),
}
_MAX_WRITTEN = 14
"""Side of a matrix up to which each cell's number is written into it."""
_MAX_CELLS = 120
"""Steps and places that are drawn of a longer matrix."""


def _new_figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches), made without pyplot: no state of the process is touched."""
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _svg(figure: Figure) -> bytes:
    """Return the figure as SVG, the same bytes for the same figure; text in it is never read as mathematics."""
    with mpl.rc_context({"svg.hashsalt": "seal", "svg.fonttype": "path", "text.parse_math": False}):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()


def reward_curves(runs: Sequence[StoredRun], unit: str) -> bytes:
    """Draw the mean reward by round, of all attempts and of the kept edits, with standard errors."""
    figure = _new_figure(8, 4)
    axes = figure.subplots()
    is_single = len(runs) == 1
    for i, run in enumerate(runs):
        shift = 0.03 * (i - (len(runs) - 1) / 2)  # so that error bars do not hide each other
        for is_kept, style, name in ((False, "-", "all attempts"), (True, "--", "kept edits")):
            line = 2 * i + is_kept
            points = [(r.index + shift, r.kept_reward if is_kept else r.over_tasks()) for r in run.rounds]
            colour = COLOURS[(line if is_single else i) % len(COLOURS)]
            marker = MARKERS[(line + line // len(COLOURS)) % len(MARKERS)]
            _curve(axes, points, fmt=marker + style, color=colour, label=name if is_single else f"{run.name}: {name}")
    axes.set_xlabel("round (0: edits of the untrained policy)")
    axes.set_ylabel(f"reward ({unit}), mean ± s.e.")
    indices = [found.index for run in runs for found in run.rounds]
    axes.set_xlim(min(indices) - 0.5, max(indices) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if is_single:
        axes.legend(fontsize=9)
    else:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return _svg(figure)


def _curve(axes: Axes, points: Sequence[tuple[float, Estimate | None]], **style: str) -> None:
    known = [(x, value) for x, value in points if value is not None]
    if known:
        errors = [value.standard_error or 0.0 for _, value in known]
        axes.errorbar([x for x, _ in known], [value.mean for _, value in known], yerr=errors, capsize=3, **style)  # type: ignore[arg-type]


def reward_spread(run: StoredRun, unit: str) -> bytes:
    """Draw the rewards of each round's attempts, kept ones marked, and beside them how the attempts ended."""
    rounds = _spaced(run.rounds)
    figure = _new_figure(10, 4)
    spread, ends = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, found in enumerate(rounds):
        _strip(spread, i, found)
    names = [str(found.index) for found in rounds]
    spread.set_xticks(range(len(rounds)), names)
    spread.set_xlim(-0.6, len(rounds) - 0.4)
    spread.set_xlabel("round")
    spread.set_ylabel(f"reward of an attempt ({unit})")
    spread.grid(axis="y", alpha=0.3)
    for name, colour, marker in (("attempt", GREY, "o"), ("of a kept edit", COLOURS[1], "D")):
        spread.plot([], [], marker, color=colour, label=name, markersize=5)
    spread.plot([], [], "-", color="black", linewidth=2, label="median")
    spread.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3, frameon=False)
    _status_bars(ends, rounds)
    ends.set_yticks(range(len(rounds)), names)
    return _svg(figure)


def _spaced(rounds: Sequence[StoredRound]) -> list[StoredRound]:
    """Return at most :data:`MAX_ROUNDS` rounds, evenly spaced, the first and the last among them."""
    if len(rounds) <= MAX_ROUNDS:
        return list(rounds)
    last = len(rounds) - 1
    return [rounds[round(i * last / (MAX_ROUNDS - 1))] for i in range(MAX_ROUNDS)]


def _strip(axes: Axes, x: int, found: StoredRound) -> None:
    for is_kept, colour, marker in ((False, GREY, "o"), (True, COLOURS[1], "D")):
        rewards = sorted(r.reward for r in found.attempts if r.reward is not None and (r.edit in found.kept) is is_kept)
        if len(rewards) > MAX_POINTS:
            rewards = [rewards[round(i * (len(rewards) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]
        # Neighbours in rank stand apart, by the golden ratio: the same places each time the page is made.
        across = [x + 0.5 * ((i * 0.618034) % 1.0 - 0.5) for i in range(len(rewards))]
        axes.plot(across, rewards, marker, color=colour, alpha=0.6, markersize=4, zorder=2 + is_kept)
    known = [r.reward for r in found.attempts if r.reward is not None]
    if known:
        axes.hlines(float(np.median(known)), x - 0.35, x + 0.35, color="black", linewidth=2, zorder=4)


def _status_bars(axes: Axes, rounds: Sequence[StoredRound]) -> None:
    left = [0] * len(rounds)
    for status, (colour, hatch) in _STATUS_BARS.items():
        widths = [found.status_counts[status] for found in rounds]
        if any(widths):
            style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": status.value}
            axes.barh(range(len(rounds)), widths, height=0.5, left=left, **style)  # type: ignore[arg-type]
        left = [before + width for before, width in zip(left, widths, strict=True)]
    axes.set_ylim(len(rounds) - 0.4, -0.6)
    axes.set_xlabel("number of attempts")
    axes.set_ylabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=4, frameon=False)


def heat_map(matrix: ScoreMatrix) -> bytes:
    """Draw a matrix: rows are steps, columns places in the sequence; cells that were not examined are hatched."""
    cells = [[math.nan if mean is None else mean for mean in row[:_MAX_CELLS]] for row in matrix.mean[:_MAX_CELLS]]
    means = np.array(cells, dtype=np.float64).reshape(len(cells), -1)  # [steps + 1, places]
    rows, columns = means.shape
    figure = _new_figure(2.4 + 0.55 * min(columns, 20), 1.6 + 0.42 * min(rows, 20))
    axes = figure.subplots()
    axes.patch.set(facecolor="white", hatch="////", edgecolor="#c8c8c8", linewidth=0)
    known = means[np.isfinite(means)]
    low, high = (0.0, 1.0) if matrix.score == "accuracy" or not known.size else (float(known.min()), float(known.max()))
    shades = mpl.colormaps["cividis"]
    image = axes.imshow(np.ma.masked_invalid(means), cmap=shades, vmin=low, vmax=high, aspect="auto")
    if max(rows, columns) <= _MAX_WRITTEN:
        for (step, place), mean in np.ndenumerate(means):
            if math.isfinite(mean):
                ink = "white" if mean - low < 0.55 * (high - low) else "black"
                axes.text(place, step, f"{mean:.2f}", ha="center", va="center", fontsize=8, color=ink)
    axes.axhline(0.5, color="black", linewidth=1.5)  # between the row before any step and the others
    axes.set_xticks(_ticks(columns), [str(place + 1) for place in _ticks(columns)])
    axes.set_yticks(_ticks(rows), ["before" if step == 0 else str(step) for step in _ticks(rows)])
    axes.set_xlabel("place of the passage in the sequence")
    axes.set_ylabel("after step")
    figure.colorbar(image, ax=axes, label=SCORES.get(matrix.score, label(matrix.score, 40)))
    return _svg(figure)


def _ticks(count: int) -> range:
    return range(0, count, max(1, math.ceil(count / 20)))
