"""``seal lm_eval DIR``: side effects of an adaptation, by lm-evaluation-harness."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from rich.table import Table

from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.cli.commands.adapters import print_lines, print_table
from seal_lightning.core.errors import require
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.reporting.text import label
from seal_lightning.storage import atomic_files


def main(args: Sequence[str]) -> int:
    """Run ``seal lm_eval``. Returns exit code 0 if both models were evaluated, whatever their scores."""
    options = vars(_parser().parse_args(args))
    for name, least in (("limit", 1), ("num_fewshot", 0), ("batch_size", 1)):
        value = options[name]
        require(value is None or value >= least, f"--{name}", value, f"at least {least}")
    folder, as_json = AdaptedFolder.named(options.pop("folder")), options.pop("json")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when the harness imports its progress bars
    from seal_lightning.adapt.lm_eval import side_effects
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()
    scores = side_effects(folder, **options)
    settings = {name: options[name] for name in ("limit", "num_fewshot")}
    versions = {name: version(name) for name in ("lm_eval", "torch", "transformers", "datasets")}
    found = {"folder": folder.name, "base": folder.record().base.source, **settings, "versions": versions}
    content = json.dumps({**found, "scores": [asdict(score) for score in scores]}, indent=1) + "\n"
    path, number = folder.path / "lm_eval.json", 1
    while os.path.lexists(path):  # results are never overwritten
        number += 1
        path = folder.path / f"lm_eval-{number}.json"
    atomic_files.write_bytes(path, content.encode())
    if as_json:
        sys.stdout.write(content)
        return 0
    table = Table("task", "metric", "n", "before", "adapted", "difference", box=None, pad_edge=False)
    for score in scores:
        before, adapted = shown_estimate(score.before), shown_estimate(score.adapted)
        difference = shown_estimate(score.difference, signed=True)
        table.add_row(label(score.task), label(score.metric), str(score.difference.n), before, adapted, difference)
    print_table(table)
    print_lines(f"written to {label(str(path), 300)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal lm_eval",
        description="Evaluate the base model and the adapted one on tasks of lm-evaluation-harness, and print the paired "
        "difference. Tasks may bring Python code, which runs.",
    )
    parser.add_argument("folder", metavar="DIR", help="of `seal adapt`")
    default = ["seal_general_knowledge"]
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", default=default, help="default: %(default)s, 48 questions of this package"
    )
    parser.add_argument("--include_path", type=Path, metavar="FOLDER", help="a folder with your own tasks")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples of each task only")
    parser.add_argument("--num_fewshot", type=int, metavar="N", help="worked examples before each question")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    parser.add_argument("--json", action="store_true", help="JSON, for scripts")
    return parser
