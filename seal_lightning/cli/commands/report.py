"""``seal report RUN…``: one HTML page and one Markdown file about one run or several. No model is loaded."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seal_lightning.core.errors import ConfigError, SealError, shown
from seal_lightning.reporting.document import html_page, markdown_text, print_line
from seal_lightning.reporting.runs import StoredRun, read_run
from seal_lightning.reporting.text import label
from seal_lightning.storage import atomic_files
from seal_lightning.storage.run_dir import RunDir

_MAX_REASON = 300


def main(args: Sequence[str]) -> int:
    """Run the command; the exit code is 0 when both files were written."""
    options = _parser().parse_args(args)
    if options.out is None and len(options.runs) > 1:
        raise ConfigError(f"--out is missing: name a folder for a report of {len(options.runs)} runs")
    if options.out is not None and os.path.lexists(options.out) and not Path(options.out).is_dir():
        raise ConfigError(f"--out: {shown(options.out)} is not allowed; it must be a folder, or not exist yet")
    runs = [RunDir.named(run, "RUN") for run in options.runs]
    real = [run.path.resolve() for run in runs]
    if twice := [path for i, path in enumerate(real) if path in real[:i]]:  # it would count as two
        raise ConfigError(f"RUN: {shown(str(twice[0]))} is named twice; name each run once")
    stored = [read_run(run, name) for run, name in zip(runs, _names(real), strict=True)]
    if not options.without_contexts:
        stored = [_with_contexts(run, found) for run, found in zip(runs, stored, strict=True)]
    from seal_lightning.reporting.report import make_report  # matplotlib takes half a second: after all checks

    report = make_report(stored)
    for suffix, text in (("html", html_page(report)), ("md", markdown_text(report))):
        if options.out is None:
            path = runs[0].write_text_result("report", suffix, text)
        else:
            path = _write(Path(options.out), suffix, text)
        print_line(f"{'Page' if suffix == 'html' else 'Markdown'}: {path}")
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
        help="do not read the run's data to show passages beside edits: faster, and imports nothing that config.yaml names",
    )
    return parser


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names; whole paths where two have the same name."""
    short = [path.name for path in paths]
    return [label(name if short.count(name) == 1 else str(path)) for name, path in zip(short, paths, strict=True)]


def _with_contexts(run: RunDir, stored: StoredRun) -> StoredRun:
    """Add the passages of the run's data, or the reason why they are missing."""
    if not run.config.exists():
        return replace(stored, missing_contexts="there is no config.yaml that says where they are")
    try:
        return replace(stored, contexts=_contexts(run))
    except (SealError, OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError) as error:
        return replace(stored, missing_contexts=f"its data cannot be read ({label(str(error), _MAX_REASON)})")


def _contexts(run: RunDir) -> dict[str, str]:
    from seal_lightning.cli.commands.loading import load_run  # loads torch
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()
    module, data = load_run(run)
    data.setup("fit")
    tasks = [*data.tasks("test"), *data.tasks("train")]
    return {task.task_id: module.domain.context_text(task) for task in tasks}


def _write(folder: Path, suffix: str, text: str) -> Path:
    """Write ``report.{suffix}``, or ``report-2.{suffix}`` and so on where that exists."""
    number = 1
    while os.path.lexists(path := folder / f"report{f'-{number}' if number > 1 else ''}.{suffix}"):
        number += 1
    atomic_files.write_bytes(path, text.encode(errors="backslashreplace"))
    return path
