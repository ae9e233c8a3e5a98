"""``seal adapters``: adapted folders listed, compared, merged, exported, pushed and removed.

Listing, comparing and removing start without torch.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from seal_lightning.adapt.adapters import (
    adapter_parts,
    adapter_rank,
    differing_settings,
    merge_adapters,
    push,
    remove_adapter,
    shared_exams,
    write_merged,
)
from seal_lightning.adapt.record import AdaptedFolder, ConditionScores, ExamRecord, held_before
from seal_lightning.core.errors import ConfigError, SealError, require, shown
from seal_lightning.core.estimates import shown_estimate
from seal_lightning.reporting.text import label


def main(args: Sequence[str]) -> int:
    """Run ``seal adapters``. Returns exit code 0 if everything was done."""
    has_command = bool(args) and (args[0] in _COMMANDS or args[0].startswith("-"))
    options = _parser().parse_args(args if has_command else ["list", *args])
    return _COMMANDS[options.command](options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal adapters",
        description="Adapters that `seal adapt` wrote. `seal adapters DIR …` is `seal adapters list DIR …`; a folder whose "
        "name is a command is ./NAME.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=description, description=description)

    listing = command("list", "Show base, rank, size, documents and exams.")
    listing.add_argument("--json", action="store_true", help="the records as a JSON list, for scripts")
    compare = command("compare", "Show exams of the same questions side by side, and settings that differ.")
    merge = command("merge", "Write the weighted sum of the updates of one base model; ranks add up.")
    merge.add_argument(
        "sources", metavar="DIR[=WEIGHT]", nargs="+", help="weights are 1 by default, and may be negative"
    )
    merge.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    merge.add_argument(
        "--max_rank", type=int, metavar="R", help="keep the R largest directions of each layer's sum (SVD)"
    )
    export = command("export", "Write a full model to DIR/merged: the base with the adapter in its weights.")
    export.add_argument("--overwrite", action="store_true", help="replace an existing DIR/merged")
    upload = command("push", "Upload the adapter and its model card to a Hugging Face hub (HF_TOKEN).")
    remove = command("remove", "Remove what `seal adapt` and later commands wrote; other files stay.")
    remove.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    for several in (listing, compare, remove):
        several.add_argument("folders", metavar="DIR", nargs="+", help="of `seal adapt`")
    for one in (export, upload):
        one.add_argument("folder", metavar="DIR", help="of `seal adapt`")
    for loading in (merge, export):
        loading.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    upload.add_argument("repo", metavar="NAME/REPO")
    upload.add_argument("--public", action="store_true", help="create a public repository; the default is private")
    upload.add_argument(
        "--with_edits", action="store_true", help="upload the self-edits, which may hold documents' text"
    )
    return parser


def _list(options: argparse.Namespace) -> int:
    failed = False
    records = []
    for path in options.folders:
        try:
            folder = AdaptedFolder.named(path)
            rank = adapter_rank(folder)
            if options.json:
                records.append({"path": str(folder.path), "rank": rank, **json.loads(folder.record_file.read_bytes())})
            else:
                _show(folder, rank)
        except SealError as error:  # the others are listed
            sys.stderr.write(f"seal adapters: error: {error}\n")
            failed = True
    if options.json:
        sys.stdout.write(json.dumps(records, indent=1) + "\n")
    return 1 if failed else 0


def _show(folder: AdaptedFolder, rank: int) -> None:
    record = folder.record()
    merged = " with a full model" if folder.merged.is_dir() else ""
    print_lines(
        f"{label(folder.name)}  ({label(str(folder.path), 300)})",
        f"  of {label(record.base.described())}, rank {rank}, {_shown_size(folder)}{merged}",
        f"  {len(record.documents)} documents, {record.num_passages} passages, {len(record.skipped)} skipped; "
        f"{record.num_kept} of {record.num_edits} edits kept",
    )
    if record.earlier:
        print_lines(f"  contains the updates of {', '.join(map(label, record.earlier))}")
    if not record.exams:
        print_lines("  no exam: what it knows was not measured")
    elif held := held_before(record):
        print_lines(f"  before: with {', '.join(map(label, held))}")
    for exam in record.exams:
        print_table(exam_table(exam_title(exam), [(scores.condition, scores) for scores in exam.scores]))


def _compare(options: argparse.Namespace) -> int:
    require(len(options.folders) > 1, "DIR …", options.folders, "two folders or more")
    records = []
    for number, path in enumerate(options.folders, 1):
        records.append(AdaptedFolder.named(path).record())
        held = held_before(records[-1])
        note = f"; before: with {', '.join(map(label, held))}" if held else ""
        print_lines(f"({number}) {label(path, 300)}{note}")
    for found in shared_exams(records):
        title = f"{' / '.join(dict.fromkeys(label(exam.name) for _, exam in found))}: the same questions"
        rows = [(f"({index + 1}) {scores.condition}", scores) for index, exam in found for scores in exam.scores]
        print_table(exam_table(title, rows))
    if settings := differing_settings(records):
        print_lines("settings that differ")
    for name, values in settings.items():
        print_lines(f"  {label(name)}: {', '.join(label(shown(value, 60)) for value in values)}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    require(options.max_rank is None or options.max_rank >= 1, "--max_rank", options.max_rank, "at least 1")
    sources = [_weighted(text) for text in options.sources]
    _silence()
    made = merge_adapters(sources, options.out, max_rank=options.max_rank, trust_remote_code=options.trust_remote_code)
    print_lines(f"{label(str(made.path), 300)}: rank {adapter_rank(made)}; the sum was not examined")
    return 0


def _weighted(text: str) -> tuple[AdaptedFolder, float]:
    """Parse ``DIR`` or ``DIR=WEIGHT``."""
    path, mark, number = text.rpartition("=")
    if not mark or os.path.isdir(text):
        return AdaptedFolder.named(text), 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    require(math.isfinite(weight) and weight != 0, "DIR=WEIGHT", text, "a folder with a finite weight other than 0")
    return AdaptedFolder.named(path), weight


def _export(options: argparse.Namespace) -> int:
    _silence()
    folder = AdaptedFolder.named(options.folder)
    path = write_merged(folder, overwrite=options.overwrite, trust_remote_code=options.trust_remote_code)
    print_lines(f"{label(str(path), 300)}: load it with transformers")
    return 0


def _push(options: argparse.Namespace) -> int:
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    folder = AdaptedFolder.named(options.folder)
    print_lines(label(push(folder, options.repo, private=not options.public, with_edits=options.with_edits), 300))
    return 0


def _remove(options: argparse.Namespace) -> int:
    folders = list({os.path.realpath(path): AdaptedFolder.named(path) for path in options.folders}.values())
    for folder in folders:
        names = ", ".join(path.name for path in adapter_parts(folder))
        print_lines(f"{label(str(folder.path), 300)}: {names} ({_shown_size(folder)})")
    if not options.yes:
        if not sys.stdin.isatty():
            raise ConfigError("--yes is needed without a terminal to confirm on")
        sys.stderr.write(f"Remove {'this' if len(folders) == 1 else f'these {len(folders)}'} for good? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print_lines("Nothing was removed")
            return 1
    for folder in folders:
        left = remove_adapter(folder)
        kept = f"; other files stay: {', '.join(label(path.name) for path in left)}" if left else ""
        print_lines(f"removed {label(str(folder.path), 300)}{kept}")
    return 0


def exam_title(exam: ExamRecord) -> str:
    """Return a heading that says what the exam is about."""
    over = "of general knowledge" if exam.name == "probe" else f"on {exam.num_passages} passages"
    return f"{label(exam.name)}: {exam.num_questions} questions {over} by {label(exam.by)}"


def exam_table(title: str, rows: Iterable[tuple[str, ConditionScores]]) -> Table:
    """Return an exam's scores, each row under its name: log-probabilities in nats, accuracies, paired differences."""
    headings = ("", "log-prob", "accuracy", "gain", "over passages only")
    table = Table(*headings, title=Text(title), title_justify="left", box=None, pad_edge=False)
    for name, scores in rows:
        table.add_row(
            Text(label(name)),
            shown_estimate(scores.log_prob, 2),
            shown_estimate(scores.accuracy),
            shown_estimate(scores.gain, 2, signed=True),
            shown_estimate(scores.over_control, 2, signed=True),
        )
    return table


def print_lines(*lines: str) -> None:
    """Print lines of plain text, unwrapped."""
    console = Console(highlight=False)
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table; where there is no terminal, without cutting its cells."""
    Console(highlight=False, width=None if sys.stdout.isatty() else 200).print(table)


def _shown_size(folder: AdaptedFolder) -> str:
    files = (path for path in folder.path.rglob("*") if path.is_file() and not path.is_symlink())
    return f"{sum(path.stat().st_size for path in files) / 2**20:.1f} MiB"


def _silence() -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "compare": _compare,
    "merge": _merge,
    "export": _export,
    "push": _push,
    "remove": _remove,
}
