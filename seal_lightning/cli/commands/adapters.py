"""``seal adapters``: adapted folders listed, compared, merged, exported, pushed and removed.

Listing, comparing and removing read files only, no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from seal_lightning.adapt import removal
from seal_lightning.adapt.comparing import comparison_lines, side_by_side
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.listing import Listed, lines_of, listed, num_bytes, shown_size
from seal_lightning.core.errors import ConfigError, SealError, require
from seal_lightning.reporting.text import label

_USAGE = """usage: seal adapters DIR …                                 what adapters there are, and how good

  seal adapters list DIR …                            the same; for a folder whose name is a word below: ./NAME
  seal adapters compare DIR DIR …                     exams side by side, settings that differ
  seal adapters merge DIR[=WEIGHT] … --out DIR        the weighted sum of their updates, in one adapter
  seal adapters export DIR                            a full model in DIR/merged: the base with the adapter in its weights
  seal adapters push DIR NAME/REPO                    the adapter to a Hugging Face hub
  seal adapters remove DIR … [--yes]                  take away what `seal adapt` wrote

DIR is a folder of `seal adapt`; list and compare take any PEFT folder. `seal adapters list --help` … list every option."""


def main(args: Sequence[str]) -> int:
    """Exit code 0 when all was done."""
    if not args or args[0] in ("-h", "--help"):
        (sys.stdout if args else sys.stderr).write(_USAGE + "\n")
        return 0 if args else 2
    verb = _VERBS.get(args[0])
    return _list(args) if verb is None else verb(args[1:])


def _list(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="seal adapters list", description="What adapters say about themselves.")
    parser.add_argument("folders", metavar="DIR", nargs="+", help="of `seal adapt`, or any PEFT folder")
    parser.add_argument("--json", action="store_true", help="one JSON list, for scripts")
    options = parser.parse_args(args)
    found: list[Listed] = []
    refused: list[tuple[str, SealError]] = []
    for path in options.folders:
        try:
            found.append(listed(path))
        except SealError as error:  # the others are listed
            refused.append((path, error))
    if options.json:
        entries = [_as_json(each) for each in found] + [{"path": path, "error": str(why)} for path, why in refused]
        sys.stdout.write(json.dumps(entries, indent=1) + "\n")
    else:
        for each in found:
            _print(lines_of(each))
    for _, why in refused:
        sys.stderr.write(f"seal adapters: error: {why}\n")
    return 1 if refused else 0


def _compare(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="seal adapters compare",
        description="Exams of the same questions side by side, and settings that differ. Means with standard errors; "
        "whether two of them differ beyond noise is not said, as the folders keep no answers.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+", help="two or more")
    parser.add_argument(
        "--updates", action="store_true", help="norms of the updates too, and how alike they are (loads the adapters)"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    options = parser.parse_args(args)
    require(len(options.folders) > 1, "DIR …", options.folders, "two folders or more")
    found = side_by_side([listed(path) for path in options.folders])
    updates = _updates(options.folders, options.trust_remote_code) if options.updates else []
    if options.json:
        plain = {
            "folders": [_as_json(each) for each in found.folders],
            "same_questions": [asdict(exam) for exam in found.shared],
            "other_exams": found.own,
            "settings_that_differ": found.settings,
            "updates": updates,
        }
        sys.stdout.write(json.dumps(plain, indent=1) + "\n")
        return 0
    _print(comparison_lines(found))
    if updates:
        _print(["", "updates of kinds of modules: norms, cosine (1: one direction, 0: nothing in common)"])
        _print(
            f"  {each['a']} and {each['b']}, {each['modules']}: {each['norm_a']:.4g}, {each['norm_b']:.4g}; "
            + ("cosine –" if each["cosine"] is None else f"cosine {each['cosine']:+.3f}")
            for each in updates
        )
    return 0


def _updates(paths: Sequence[str], trust_remote_code: bool) -> list[dict[str, object]]:
    _silence()
    from seal_lightning.adapt.similarity import similar_updates

    return [asdict(each) for each in similar_updates([AdaptedFolder.named(p) for p in paths], trust_remote_code)]


def _merge(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="seal adapters merge",
        description="The weighted sum of updates of one base model, exact: ranks add up. Documents and edits are those of "
        "all; exams are not taken over, as nobody has asked the sum.",
    )
    parser.add_argument(
        "sources", metavar="DIR[=WEIGHT]", nargs="+", help="weights are 1 unless given; they may be negative"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder")
    parser.add_argument(
        "--max_rank", type=int, metavar="R", help="keep the R largest directions of each layer's sum (SVD)"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    options = parser.parse_args(args)
    require(options.max_rank is None or options.max_rank >= 1, "--max_rank", options.max_rank, "at least 1")
    _silence()
    from seal_lightning.adapt.merging import combine, weighted

    found = combine(
        [weighted(text) for text in options.sources],
        options.out,
        max_rank=options.max_rank,
        trust_remote_code=options.trust_remote_code,
    )
    _print(f"{label(path, 300)}: norm of the weighted update {norm:.4g}" for path, norm in found.norms.items())
    cut = (
        ""
        if found.rank == found.sum_of_ranks
        else f" of {found.sum_of_ranks}; left out: {found.left_out:.2%} of the norm"
    )
    _print([f"{label(str(found.folder.path), 300)}: rank {found.rank}{cut}"])
    for earlier, later in found.twice:
        _print(
            [
                f"note: {label(later)} was adapted on top of {label(earlier)} and holds its update, which is in the sum "
                "more than once"
            ]
        )
    _print(["Its exams are unknown; `seal lm_eval` and `seal ask` take it as it is"])
    return 0


def _export(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="seal adapters export",
        description="Write the base model with the adapter in its weights, float32, and its tokenizer to DIR/merged.",
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="put it in the place of a DIR/merged that is there")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with the base model")
    options = parser.parse_args(args)
    _silence()
    from seal_lightning.adapt.publishing import write_merged

    folder = AdaptedFolder.named(options.folder)
    path = write_merged(folder, overwrite=options.overwrite, trust_remote_code=options.trust_remote_code)
    _print([f"{label(str(path), 300)}: {shown_size(num_bytes(path))}; transformers loads it as any model"])
    return 0


def _push(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="seal adapters push",
        description="Upload the adapter and its model card to a Hugging Face hub. The repository is private unless told "
        "otherwise. The token comes from HF_TOKEN or from `hf auth login`.",
    )
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("repo", metavar="NAME/REPO")
    parser.add_argument("--public", action="store_true", help="a new repository is for everybody to see")
    parser.add_argument(
        "--with_edits", action="store_true", help="the self-edits too; they may hold the text of your documents"
    )
    options = parser.parse_args(args)
    from huggingface_hub.utils.tqdm import disable_progress_bars

    from seal_lightning.adapt.publishing import push

    if not sys.stderr.isatty():
        disable_progress_bars()
    folder = AdaptedFolder.named(options.folder)
    pushed = push(folder, options.repo, private=not options.public, with_edits=options.with_edits)
    _print([f"{label(pushed.url, 300)}: {', '.join(pushed.files)}"])
    if pushed.base_is_local:
        _print(
            ["note: its base model is a folder of yours, which others do not have; the card names it by its last part"]
        )
    if pushed.was_there:
        _print(["The repository was there before: who may see it was left as it is"])
    return 0


def _remove(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="seal adapters remove",
        description="Remove what `seal adapt` and the commands after it wrote. Other files stay, and links are not followed.",
    )
    parser.add_argument("folders", metavar="DIR", nargs="+")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    options = parser.parse_args(args)
    folders = list({os.path.realpath(path): removal.removable(path) for path in options.folders}.values())
    for folder in folders:
        names = ", ".join(path.name for path in removal.parts(folder))
        _print([f"{label(str(folder.path), 300)}: {names} ({shown_size(num_bytes(folder.path))})"])
    if not options.yes and not _confirmed(len(folders)):
        _print(["Nothing was removed"])
        return 1
    for folder in folders:
        left = removal.remove(folder)
        kept = f"; not of `seal adapt`, so kept: {', '.join(label(p.name) for p in left[:5])}" if left else ""
        more = f" … ({len(left)})" if len(left) > 5 else ""
        _print([f"removed {label(str(folder.path), 300)}{kept}{more}"])
    return 0


def _confirmed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("--yes: is needed where nobody can be asked (no terminal). Nothing was removed")
    sys.stderr.write(f"Remove {'this' if count == 1 else f'these {count}'} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _as_json(found: Listed) -> dict[str, object]:
    return {**asdict(found), "path": str(found.path)}


def _silence() -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from seal_lightning.cli.quiet import silence_libraries

    silence_libraries()


def _print(lines: Iterable[str]) -> None:
    console = Console(highlight=False)
    for line in lines:
        console.print(Text(line), soft_wrap=True)


_VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": _list,
    "compare": _compare,
    "merge": _merge,
    "export": _export,
    "push": _push,
    "remove": _remove,
}
