"""``seal report RUN…``: one page and one Markdown file about one run or several. No model is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from seal_lightning.core.errors import ConfigError, SealError, shown
from seal_lightning.reporting.runs import StoredRun, read_run
from seal_lightning.reporting.text import label
from seal_lightning.storage import atomic_files
from seal_lightning.storage.run_dir import RunDir

MAX_RUNS = 20
_MAX_REASON = 300


def main(args: Sequence[str]) -> int:
    """Exit code 0 when both files were written."""
    options = _parser().parse_args(args)
    out = _checked_out(options)
    runs = [RunDir.named(run, "RUN") for run in options.runs]
    _check_apart(runs)
    names = _names([run.path for run in runs])
    stored = [read_run(run, name) for run, name in zip(runs, names, strict=True)]
    if not options.without_contexts:
        stored = [_with_contexts(run, found) for run, found in zip(runs, stored, strict=True)]
    # matplotlib takes half a second to start: not before all that may be refused was read
    from seal_lightning.reporting.markdown import markdown_text
    from seal_lightning.reporting.page import html_page
    from seal_lightning.reporting.report import make_report

    report = make_report(stored)
    for suffix, text in (("html", html_page(report)), ("md", markdown_text(report))):
        path = runs[0].write_text_result("report", suffix, text) if out is None else _write(out, suffix, text)
        Console().print(Text(f"{'Page' if suffix == 'html' else 'Markdown'}: {path}"), soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal report", description="Write a page and a Markdown file about one run, or several side by side."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="write report.html and report.md there (default: the run's results folder; needed for several runs)",
    )
    parser.add_argument(
        "--without_contexts",
        action="store_true",
        help="do not read the run's data to show passages beside edits: quicker, and imports nothing that config.yaml names",
    )
    return parser


def _checked_out(options: argparse.Namespace) -> Path | None:
    if len(options.runs) > MAX_RUNS:
        raise ConfigError(f"{len(options.runs)} runs are too many for one report; at most {MAX_RUNS} are allowed")
    if options.out is None:
        if len(options.runs) > 1:
            raise ConfigError(
                f"a report of {len(options.runs)} runs belongs to none of them: say with --out DIR where it is to be written"
            )
        return None
    out = Path(options.out)
    if not options.out.strip() or "\0" in options.out or (os.path.lexists(out) and not out.is_dir()):
        raise ConfigError(f"--out: {shown(options.out)} is not allowed; it must be a folder, or not there yet")
    return out


def _check_apart(runs: Sequence[RunDir]) -> None:
    """Raise :class:`ConfigError` where a run is named twice: it would count as two."""
    real = [os.path.realpath(run.path) for run in runs]
    for place, path in enumerate(real):
        if path in real[:place]:
            raise ConfigError(f"RUN: {shown(str(runs[place].path))} is named twice; name each run once")


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names; whole paths where two are called the same."""
    short = [path.resolve().name for path in paths]
    return [label(name if short.count(name) == 1 else str(path)) for name, path in zip(short, paths, strict=True)]


def _with_contexts(run: RunDir, stored: StoredRun) -> StoredRun:
    """With the passages of the run's data; where they cannot be had, with the reason."""
    if not run.config.exists():
        return replace(stored, missing_contexts="there is no config.yaml that says where they are")
    try:
        return replace(stored, contexts=_contexts(run))
    except (SealError, OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError) as error:
        return replace(stored, missing_contexts=f"its data cannot be read ({label(str(error), _MAX_REASON)})")


def _contexts(run: RunDir) -> dict[str, str]:
    from seal_lightning.cli.commands.loading import load_run
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()
    module, data = load_run(run)
    data.setup("fit")
    tasks = [*data.tasks("test"), *data.tasks("train")]
    return {task.task_id: module.domain.context_text(task) for task in tasks}


def _write(folder: Path, suffix: str, text: str) -> Path:
    """``report.{suffix}``, or ``report-2.{suffix}`` and so on where that exists."""
    number = 1
    while os.path.lexists(path := folder / f"report{f'-{number}' if number > 1 else ''}.{suffix}"):
        number += 1
    atomic_files.write_bytes(path, text.encode(errors="backslashreplace"))
    return path
