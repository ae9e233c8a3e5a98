"""Pictures of a task and of the attempts at it, for files and for the terminal, with the wrong cells marked."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from seal_lightning.domains.arc.exam_views import NUM_ATTEMPTS
from seal_lightning.domains.arc.grids import ArcTask, Grid, as_array

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
"""The attempts at one test input, in order; None where the model's text was not a grid."""

Answers = Mapping[str, Sequence[Attempts]]
"""The attempts at each of a task's test inputs, by the label of their condition ("self-edit")."""

_DARK = {0, 1, 9}
_EDGES = {True: "#1B7F2A", False: "#C0251B", None: "#888888"}
_PANEL, _GAP, _CAPTION, _HEADING, _MARGIN = 1.9, 0.3, 0.45, 0.55, 0.2
"""Inches."""
_DPI = 130
_MOST_LABEL_CHARS, _MOST_TITLE_CHARS = 30, 110
"""Lengths that fit over a panel and over the picture."""


@dataclass(frozen=True)
class Panel:
    """A captioned grid, or the reason for its absence."""

    caption: str
    grid: Grid | None
    gold: Grid | None = None
    """Cells that differ from it are marked."""
    absent: str = "no grid"
    right: bool | None = None


def mistakes(grid: Grid, gold: Grid) -> list[tuple[int, int]]:
    """Return (row, column) of the cells that differ from the gold grid or lie outside it, row by row."""
    height, width = len(gold), len(gold[0])
    return [
        (y, x)
        for y, row in enumerate(grid)
        for x, colour in enumerate(row)
        if y >= height or x >= width or gold[y][x] != colour
    ]


def task_figure(task: ArcTask, answers: Answers, note: str = "") -> Figure:
    """Draw the demonstrations, then per test input a row of input, gold grid and attempts; ``note`` is the subtitle.

    No pyplot: no window, no global state, nothing to close.
    """
    demonstrations, tests = _demonstrations(task), _tests(task, answers)
    num_columns = len(tests[0])
    rows = [demonstrations[i : i + num_columns] for i in range(0, len(demonstrations), num_columns)] + tests
    width = 2 * _MARGIN + num_columns * _PANEL + (num_columns - 1) * _GAP
    height = 2 * _MARGIN + _HEADING + len(rows) * (_PANEL + _CAPTION)
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    # an id or a note may hold dollars, which are not a formula
    style: dict[str, Any] = {"va": "top", "parse_math": False}
    figure.text(_MARGIN / width, 1 - _MARGIN / height, task.task_id[:80], fontsize=12, fontweight="bold", **style)
    figure.text(_MARGIN / width, 1 - (_MARGIN + 0.24) / height, note[:_MOST_TITLE_CHARS], fontsize=9, **style)
    for y, row in enumerate(rows):
        for x, panel in enumerate(row):
            left = _MARGIN + x * (_PANEL + _GAP)
            bottom = height - _MARGIN - _HEADING - (y + 1) * (_PANEL + _CAPTION)
            _draw(figure.add_axes((left / width, bottom / height, _PANEL / width, _PANEL / height)), panel)
    return figure


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure to RGB values of 0 to 255."""
    canvas: Any = figure.canvas  # Agg's, which has no types
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # [height, width, 3]


def as_png(image: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of an image by :func:`pixels`."""
    file = io.BytesIO()
    imsave(file, image, format="png")
    return file.getvalue()


def rich_grid(grid: Grid | None, gold: Grid | None = None, *, digits: bool = False) -> Text:
    """Render a grid for a terminal: two characters per cell, with an ``x`` where it differs from ``gold``.

    ``digits`` also writes the colours' numbers, for output without colours (a log file).
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
    """Render :func:`task_figure` for a terminal: the demonstrations side by side, then a row per test input."""
    heading = Text.assemble((task.task_id[:80], "bold"), f"  {note}" if note else "")
    rows = [_demonstrations(task), *_tests(task, answers)]
    return Group(heading, *(Columns([_rich_panel(p, digits) for p in row], padding=(1, 2)) for row in rows))


def _rich_panel(panel: Panel, digits: bool) -> Group:
    colour = {True: "green", False: "red", None: ""}[panel.right]
    absent = Text(panel.absent, style="italic")
    grid = absent if panel.grid is None else rich_grid(panel.grid, panel.gold, digits=digits)
    return Group(Text(panel.caption, style=colour), grid)


def _demonstrations(task: ArcTask) -> list[Panel]:
    return [
        Panel(caption=f"demonstration {number}\n{name}, {_shape(grid)}", grid=grid)
        for number, pair in enumerate(task.demonstrations)
        for name, grid in (("input", pair.input), ("output", pair.output))
    ]


def _tests(task: ArcTask, answers: Answers) -> list[list[Panel]]:
    """Return a row per test: input, gold grid, and the attempts of each label."""
    rows = []
    for number, test in enumerate(task.tests):
        gold = test.output
        shape = "" if gold is None else f", {_shape(gold)}"
        row = [
            Panel(caption=f"test {number}\ninput, {_shape(test.input)}", grid=test.input),
            Panel(caption=f"test {number}\noutput{shape}", grid=gold, absent="not published"),
        ]
        for label, by_test in answers.items():
            attempts = (*(by_test[number] if number < len(by_test) else ()), *[None] * NUM_ATTEMPTS)
            row += [_attempt(label, place, grid, gold) for place, grid in enumerate(attempts[:NUM_ATTEMPTS], start=1)]
        rows.append(row)
    return rows


def _attempt(label: str, place: int, grid: Grid | None, gold: Grid | None) -> Panel:
    verdict = ""
    if gold is not None:
        if grid is None or grid == gold:
            verdict = ": right" if grid == gold else ": wrong"
        elif _shape(grid) != _shape(gold):
            verdict = f": wrong shape, {_shape(grid)}"
        else:
            verdict = f": wrong, {len(mistakes(grid, gold))} of {len(gold) * len(gold[0])} cells"
    caption = f"{label[:_MOST_LABEL_CHARS]}\nattempt {place}{verdict}"
    return Panel(caption=caption, grid=grid, gold=gold, right=None if gold is None else grid == gold)


def _shape(grid: Grid) -> str:
    return f"{len(grid)}×{len(grid[0])}"


def _draw(axes: Axes, panel: Panel) -> None:
    colour = _EDGES[panel.right] if panel.right is not None else "#222222"
    axes.set_title(panel.caption, fontsize=8, color=colour, pad=3, parse_math=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_anchor("N")
    edges: Any = axes.spines
    edges[:].set_color(_EDGES[panel.right])
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
        stroke = max(0.07 * cell, 0.8)
        for ink, thickness in (("#000000", 2.2 * stroke), ("#FFFFFF", stroke)):  # edged in black, visible on any colour
            axes.plot(columns, rows, "x", color=ink, markersize=0.5 * cell, markeredgewidth=thickness)
