"""``seal lm_eval DIR``: what an adaptation costs elsewhere, by lm-evaluation-harness."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console
from rich.text import Text

from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.side_effects import Elsewhere, table_lines
from seal_lightning.core.errors import RunError
from seal_lightning.reporting.text import label
from seal_lightning.storage import atomic_files

_RESULT = TypeAdapter(Elsewhere)


def main(args: Sequence[str]) -> int:
    """Exit code 0 when both models were asked, whatever they said."""
    options = _parser().parse_args(args)
    folder = AdaptedFolder.named(options.folder)
    folder.record()
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read when the harness's progress bars are imported
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()
    from seal_lightning.adapt.harness import HarnessOptions, measure, names

    found = measure(
        folder,
        HarnessOptions(
            tasks=names(options.tasks),
            include_path=options.include_path,
            limit=options.limit,
            num_fewshot=options.num_fewshot,
            batch_size=options.batch_size,
            trust_remote_code=options.trust_remote_code,
        ),
    )
    content = _RESULT.dump_json(found, indent=1) + b"\n"
    path = _free(folder)
    try:
        atomic_files.write_bytes(path, content)
    except RunError as error:
        raise RunError(
            f"{path} could not be written: {error.__cause__ or error}. See to the disk (its room, its rights) and give the "
            "same command again; --json shows the figures without it"
        ) from error
    if options.json:
        sys.stdout.write(content.decode())
        return 0
    console = Console(highlight=False)
    for line in (*table_lines(found.scores), f"written to {label(str(path), 300)}"):
        console.print(Text(line), soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal lm_eval",
        description="Ask the base model and the adapted one the same tasks of lm-evaluation-harness, and show the paired "
        "difference. Tasks may bring Python code, which runs.",
    )
    parser.add_argument("folder", metavar="DIR", help="of `seal adapt`")
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        default=["seal_general_knowledge"],
        help="names (default: %(default)s, 48 questions that come with this package)",
    )
    parser.add_argument("--include_path", type=Path, metavar="FOLDER", help="with tasks of your own")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N samples of each task only")
    parser.add_argument("--num_fewshot", type=int, metavar="N", help="worked examples before each question")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    return parser


def _free(folder: AdaptedFolder) -> Path:
    """``lm_eval.json``, or the first of ``lm_eval-2.json`` … that is not there: results are never overwritten."""
    path, number = folder.path / "lm_eval.json", 1
    while os.path.lexists(path):
        number += 1
        path = folder.path / f"lm_eval-{number}.json"
    return path
