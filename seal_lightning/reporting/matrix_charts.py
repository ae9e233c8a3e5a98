"""An episode's matrix as a heat map: rows are steps, columns places in the sequence."""

from __future__ import annotations

import math

import matplotlib as mpl
import numpy as np

from seal_lightning.reporting.charts import new_figure, picture
from seal_lightning.reporting.result_files import Matrix
from seal_lightning.reporting.text import label

SCORES = {"accuracy": "accuracy", "log_prob": "log-prob (nats)"}
_MAX_WRITTEN = 14
"""Sides up to which each cell's number is written into it."""
_MAX_CELLS = 120
"""A side's; of longer ones only so many steps and places are drawn."""


def heat_map(matrix: Matrix) -> bytes:
    """Colour by score; cells that were not examined are hatched, and the row before any step is set apart by a line."""
    means = _as_array(matrix)
    rows, columns = means.shape
    figure = new_figure(2.4 + 0.55 * min(columns, 20), 1.6 + 0.42 * min(rows, 20))
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
    axes.axhline(0.5, color="black", linewidth=1.5)
    axes.set_xticks(_ticks(columns), [str(place + 1) for place in _ticks(columns)])
    axes.set_yticks(_ticks(rows), ["before" if step == 0 else str(step) for step in _ticks(rows)])
    axes.set_xlabel("place of the passage in the sequence")
    axes.set_ylabel("after step")
    figure.colorbar(image, ax=axes, label=SCORES.get(matrix.score, label(matrix.score, 40)))
    return picture(figure)


def _as_array(matrix: Matrix) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rows = [[math.nan if mean is None else mean for mean in row[:_MAX_CELLS]] for row in matrix.mean[:_MAX_CELLS]]
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1)


def _ticks(count: int) -> range:
    return range(0, count, max(1, math.ceil(count / 20)))
