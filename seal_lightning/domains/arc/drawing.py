"""Pictures of a task and of the attempts at it: for a file, and for a terminal. Mistakes are marked in the attempts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray
from rich.columns import Columns
from rich.console import Group
from rich.style import Style
from rich.text import Text

from seal_lightning.domains.arc.grids import Grid, as_array
from seal_lightning.domains.arc.task import ArcTask
from seal_lightning.domains.arc.voting import NUM_ATTEMPTS

PALETTE = (
    "#000000",  # black
    "#0074D9",  # blue
    "#FF4136",  # red
    "#2ECC40",  # green
    "#FFDC00",  # yellow
    "#AAAAAA",  # grey
    "#F012BE",  # magenta
    "#FF851B",  # orange
    "#7FDBFF",  # light blue
    "#870C25",  # maroon
)
"""The colours 0 to 9 as the ARC site shows them."""

Attempts = Sequence[Grid | None]
"""The attempts at one test input, in order; None where the model's text was no grid."""

Answers = Mapping[str, Sequence[Attempts]]
"""The attempts at each of a task's test inputs, by what the way they came about is called ("self-edit")."""

MOST_DEMONSTRATIONS, MOST_TESTS = 12, 6
"""So many are shown; ARC's tasks have at most 10 and 4, but a file may say anything."""

_DARK = {0, 1, 9}
_RIGHT, _WRONG, _PLAIN = "#1B7F2A", "#C0251B", "#222222"
_PANEL, _GAP, _CAPTION, _HEADING, _MARGIN = 1.9, 0.3, 0.45, 0.55, 0.2
"""Inches."""
_DPI = 130
_LABEL_LENGTH, _TITLE_LENGTH = 30, 110
"""Characters that fit over a panel, and over the whole."""


@dataclass(frozen=True)
class Panel:
    """A grid, or why there is none, and what is written over it."""

    caption: str
    grid: Grid | None
    gold: Grid | None = None
    """Cells that differ from it are marked."""
    absent: str = "no grid"
    right: bool | None = None


def mistakes(grid: Grid, gold: Grid) -> list[tuple[int, int]]:
    """(row, column) of the grid's cells that differ from the gold grid's, or lie beyond it; row by row."""
    height, width = len(gold), len(gold[0])
    return [
        (y, x)
        for y, row in enumerate(grid)
        for x, colour in enumerate(row)
        if y >= height or x >= width or gold[y][x] != colour
    ]


def task_figure(task: ArcTask, answers: Answers, note: str = "") -> Figure:
    """The demonstrations, and each test input with its gold grid and two attempts of each kind; ``note`` is the subtitle.

    Knows nothing of pyplot: no window, no global state, nothing to be closed.
    """
    demonstrations, tests = _demonstrations(task), _tests(task, answers)
    num_columns = len(tests[0])
    rows = [demonstrations[i : i + num_columns] for i in range(0, len(demonstrations), num_columns)] + tests
    width = 2 * _MARGIN + num_columns * _PANEL + (num_columns - 1) * _GAP
    height = 2 * _MARGIN + _HEADING + len(rows) * (_PANEL + _CAPTION)
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    for place, (line, size, weight) in enumerate(((_title(task), 12, "bold"), (note, 9, "normal"))):
        y = 1 - (_MARGIN + place * 0.24) / height
        # An id or a note may hold dollars, which are no formula.
        figure.text(
            _MARGIN / width, y, line[:_TITLE_LENGTH], va="top", fontsize=size, fontweight=weight, parse_math=False
        )
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            left = _MARGIN + x * (_PANEL + _GAP)
            bottom = height - _MARGIN - _HEADING - (y + 1) * (_PANEL + _CAPTION)
            axes = figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height))
            _draw(axes, panel)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """[height, width, 3], 0 to 255."""
    canvas: Any = figure.canvas  # Agg's, which has no types
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def as_png(image: NDArray[np.uint8]) -> bytes:
    """A PNG file of what :func:`pixels` gives."""
    file = io.BytesIO()
    imsave(file, image, format="png")
    return file.getvalue()


def rich_grid(grid: Grid | None, gold: Grid | None = None, *, digits: bool = False) -> Text:
    """A grid for a terminal: two characters a cell, in its colour, with an ``x`` where it differs from ``gold``.

    ``digits`` writes the colours' numbers too, for where there are no colours (a log file).
    """
    if grid is None:
        return Text("no grid", style="italic")
    wrong = set(mistakes(grid, gold)) if gold is not None else set()
    text = Text(no_wrap=True, overflow="crop")
    for y, row in enumerate(grid):
        for x, colour in enumerate(row):
            ink = "#FFFFFF" if colour in _DARK else "#000000"
            cell = (str(colour) if digits else " ") + ("x" if (y, x) in wrong else " ")
            text.append(cell, Style(color=ink, bgcolor=PALETTE[colour], bold=True))
        if y < len(grid) - 1:
            text.append("\n")
    return text


def rich_task(task: ArcTask, answers: Answers, note: str = "", *, digits: bool = False) -> Group:
    """:func:`task_figure` for a terminal: the demonstrations side by side, then a row for each test input."""
    heading = Text.assemble((_title(task), "bold"), f"  {note}" if note else "")
    rows = [_demonstrations(task), *_tests(task, answers)]
    return Group(heading, *(Columns([_rich_panel(p, digits) for p in row], padding=(1, 2)) for row in rows))


def _rich_panel(panel: Panel, digits: bool) -> Group:
    colour = {True: "green", False: "red", None: ""}[panel.right]
    grid = (
        Text(panel.absent, style="italic") if panel.grid is None else rich_grid(panel.grid, panel.gold, digits=digits)
    )
    return Group(Text(panel.caption, style=colour), grid)


def _title(task: ArcTask) -> str:
    hidden = [
        f"{most} of {number} {what} shown"
        for what, number, most in (
            ("demonstrations", len(task.demonstrations), MOST_DEMONSTRATIONS),
            ("test inputs", len(task.tests), MOST_TESTS),
        )
        if number > most
    ]
    return task.task_id[:80] + (f" ({', '.join(hidden)})" if hidden else "")


def _demonstrations(task: ArcTask) -> list[Panel]:
    shown = enumerate(task.demonstrations[:MOST_DEMONSTRATIONS])
    return [
        Panel(caption=f"demonstration {number}\n{name}, {_shape(grid)}", grid=grid)
        for number, pair in shown
        for name, grid in (("input", pair.input), ("output", pair.output))
    ]


def _tests(task: ArcTask, answers: Answers) -> list[list[Panel]]:
    """A row for each test: input, gold grid, and the attempts of each kind."""
    rows = []
    for number, test in enumerate(task.tests[:MOST_TESTS]):
        gold = test.output
        row = [
            Panel(caption=f"test {number}\ninput, {_shape(test.input)}", grid=test.input),
            Panel(
                caption=f"test {number}\noutput" + ("" if gold is None else f", {_shape(gold)}"),
                grid=gold,
                absent="not published",
            ),
        ]
        for label, by_test in answers.items():
            row += _attempts(label, by_test[number] if number < len(by_test) else (), gold)
        rows.append(row)
    return rows


def _attempts(label: str, attempts: Attempts, gold: Grid | None) -> Iterator[Panel]:
    for number, (_, grid) in enumerate(zip_longest(range(NUM_ATTEMPTS), attempts[:NUM_ATTEMPTS]), start=1):
        right = None if gold is None else grid == gold
        verdict = "" if gold is None else f": {_verdict(grid, gold)}"
        caption = f"{label[:_LABEL_LENGTH]}\nattempt {number}{verdict}"
        yield Panel(caption=caption, grid=grid, gold=gold, right=right)


def _verdict(grid: Grid | None, gold: Grid) -> str:
    if grid is None:
        return "wrong"
    if grid == gold:
        return "right"
    if _shape(grid) != _shape(gold):
        return f"wrong shape, {_shape(grid)}"
    return f"wrong, {len(mistakes(grid, gold))} of {len(gold) * len(gold[0])} cells"


def _shape(grid: Grid) -> str:
    return f"{len(grid)}×{len(grid[0])}"


def _draw(axes: Axes, panel: Panel) -> None:
    colour = {True: _RIGHT, False: _WRONG, None: _PLAIN}[panel.right]
    axes.set_title(panel.caption, fontsize=8, color=colour, pad=3, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("N")
    edges: Any = axes.spines
    edges[:].set_color(colour if panel.right is not None else "#888888")
    if panel.grid is None:
        axes.text(0.5, 0.5, panel.absent, ha="center", va="center", fontsize=9, style="italic", color=colour)
        edges[:].set_linestyle(":")
        return
    height, width = len(panel.grid), len(panel.grid[0])
    axes.imshow(as_array(panel.grid), cmap=ListedColormap(PALETTE), vmin=-0.5, vmax=9.5, interpolation="nearest")
    axes.hlines(np.arange(1, height) - 0.5, -0.5, width - 0.5, colors="#666666", linewidth=0.5)
    axes.vlines(np.arange(1, width) - 0.5, -0.5, height - 0.5, colors="#666666", linewidth=0.5)
    edges[:].set_linewidth(1.6 if panel.right is not None else 0.8)
    if panel.gold is not None and (wrong := mistakes(panel.grid, panel.gold)):
        rows, columns = zip(*wrong, strict=True)
        cell = 72 * _PANEL / max(height, width)  # points
        size, stroke = 0.5 * cell, max(0.07 * cell, 0.8)
        for ink, thickness in (
            ("#000000", 2.2 * stroke),
            ("#FFFFFF", stroke),
        ):  # edged in black, it is seen on any colour
            axes.plot(columns, rows, "x", color=ink, markersize=size, markeredgewidth=thickness)
