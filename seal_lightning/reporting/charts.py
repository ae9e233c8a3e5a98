"""What all charts share: colours that colour-blind readers can tell apart, figures without a display, bytes for a page.

Text in them is never read as mathematics, and a picture that would be large is drawn in pixels.
"""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, dark ones first; lines differ in their markers too."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
MAX_SVG_BYTES = 400_000
_DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches; made without pyplot, so no state of the process is touched."""
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def picture(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure; as PNG where the SVG would be large."""
    with mpl.rc_context({"svg.hashsalt": "seal", "svg.fonttype": "path", "text.parse_math": False}):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        if drawn.tell() > MAX_SVG_BYTES:
            drawn = io.BytesIO()
            figure.savefig(drawn, format="png", metadata={"Software": None})
    return drawn.getvalue()


def colour(place: int) -> str:
    """The colour of the n-th line."""
    return COLOURS[place % len(COLOURS)]


def marker(place: int) -> str:
    """The marker of the n-th line; with its colour it comes again after 49 lines at the earliest."""
    return MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]
