"""A report as one HTML page that needs nothing from outside itself, and runs nothing.

Everything in it is escaped by the template engine, pictures are data, and a content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import BaseLoader, Environment, StrictUndefined

from seal_lightning.reporting.blocks import Block, Chart, Report
from seal_lightning.reporting.text import escaped_unseen

_STYLE_MARKS = "<style>", "</style>"


def html_page(report: Report) -> str:
    """The page."""
    source = (files("seal_lightning.reporting") / "page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(
        loader=BaseLoader(),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(source)
    return template.render(report=report, kind=_kind, data_url=_data_url, style_hash=_style_hash(source))


def _seen(value: object) -> object:
    """Names of runs and the like come here as they are."""
    return escaped_unseen(value) if type(value) is str else value


def _kind(block: Block) -> str:
    return type(block).__name__


def _data_url(chart: Chart) -> str:
    return f"data:{chart.media_type};base64,{base64.b64encode(chart.picture).decode()}"


def _style_hash(source: str) -> str:
    """Of the page's one style sheet, which has no template expressions: no other is applied."""
    start, end = (source.index(mark) for mark in _STYLE_MARKS)
    style = source[start + len(_STYLE_MARKS[0]) : end]
    return base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
