"""``seal adapt PATH… --out DIR``: documents become part of a model, with exams that say what was learned and forgotten."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from seal_lightning.adapt.adapting import AdaptPipeline, Material, earlier_exams
from seal_lightning.adapt.configuration import Configuration, configured, with_protocol
from seal_lightning.adapt.estimate import WorkAhead, measured_rates
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.publishing import check_repo_id, push, write_merged
from seal_lightning.adapt.reading import job_of, read_material
from seal_lightning.adapt.starting_model import StartingModel
from seal_lightning.adapt.workspace import Workspace
from seal_lightning.cli.commands.adapt_report import TerminalProgress, show_estimate, show_material, show_record
from seal_lightning.core.errors import ConfigError, RunError, StopRequested, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.models.lora import LoraAdapter
from seal_lightning.storage import atomic_files
from seal_lightning.storage.journal import DamagedLine
from seal_lightning.storage.run_dir import RunLock

_GO_ON = "the same `seal adapt` command"


def main(args: Sequence[str]) -> int:
    """Exit code 0 when the adapted folder is whole (or would be made: ``--dry-run``)."""
    words, overrides = _without_overrides(args)
    options = _parser().parse_args(words)
    with atomic_files.going_on_with(_GO_ON), _stopping(options):
        try:
            return _run(options, overrides)
        except DamagedLine as error:
            raise RunError(
                f"{shown(options.out)}: what was done there is damaged ({error.args[0].split('. ', 1)[0]}). Start again with "
                "another --out; nothing was changed"
            ) from error


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    start = StartingModel.named(options.policy)
    folder = _folder(options.out, options.policy)
    if options.push:
        check_repo_id(options.push)
    configuration = _configured(start, options, overrides)
    module = configuration.module
    console = Console(highlight=False, markup=False)
    material = read_material(
        options.paths, options.questions, module.pretrained, configuration.spec.passage_tokens, folder.path
    )
    show_material(console, material)
    job = job_of(material, options.questions, configuration.settings, start.identity(), continual=options.continual)
    work = Workspace(folder)
    begun = work.check(job)
    if folder.is_finished:
        _check_same(folder, begun)
        console.print(f"{folder.path} is finished: nothing is left to do", soft_wrap=True)
    else:
        earlier = _load(start, configuration, material, options.device)
        _show_estimate(console, configuration, material, begun=begun)
        if options.dry_run:
            console.print("--dry-run: nothing was written", soft_wrap=True)
            return 0
        _adapt(start, configuration, material, folder, work, job, earlier, options.continual, console)
    if options.dry_run:
        return 0
    show_record(console, folder)
    _publish(folder, options, module.pretrained.trust_remote_code, console)
    return 0


def _adapt(
    start: StartingModel,
    configuration: Configuration,
    material: Material,
    folder: AdaptedFolder,
    work: Workspace,
    job: dict[str, Any],
    earlier: list[LoraAdapter],
    continual: bool,
    console: Console,
) -> None:
    lock = RunLock(folder.path)
    lock.acquire()
    try:
        atomic_files.remove_leftovers(folder.path)
        with closing(work), TerminalProgress(console) as progress:
            work.begin(job)
            AdaptPipeline(
                configuration=configuration,
                material=material,
                folder=folder,
                work=work,
                continual=continual,
                start=start.identity(),
                earlier=earlier,
                earlier_names=start.earlier_names(),
                earlier_exams=[] if start.adapted is None else earlier_exams(start.adapted),
                progress=progress,
            ).run()
    finally:
        lock.release()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal adapt",
        allow_abbrev=False,
        description="Make documents part of a model: it asks itself about them, writes and tries self-edits, and one LoRA "
        "adapter learns what was kept. What was done is kept too: the same command goes on after an interruption.",
        epilog="Every other setting is one of the configuration, as --model.num_edits 5 or --adapt.keep 2.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="documents (.txt .md .html .pdf .json .jsonl) or folders"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where the adapted folder is made; nothing else is")
    parser.add_argument(
        "--policy",
        metavar="RUN|DIR|HUB_ID",
        help="a run of `seal fit`, a folder of `seal adapt` to go on from, a hub id or a model's folder; by default the "
        "embedded SmolLM2-135M-Instruct",
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="your own questions with answers: JSONL, JSON, CSV or SQuAD. Half of them choose edits, half examine",
    )
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="settings; later ones win")
    parser.add_argument("--continual", action="store_true", help="learn and merge passage by passage (§5 of the paper)")
    parser.add_argument("--merged", action="store_true", help="write the full model too, in DIR/merged")
    parser.add_argument(
        "--push", metavar="REPO", help="push the adapter to a hub repository (private; the hub's own login)"
    )
    parser.add_argument("--dry-run", action="store_true", help="read the documents, estimate, and write nothing")
    parser.add_argument("--device", default="auto", help="auto (a GPU where there is one), cpu, cuda, cuda:1 …")
    return parser


def _without_overrides(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and settings of the configuration with their values."""
    words: list[str] = []
    overrides: list[str] = []
    rest = iter(args)
    for word in rest:
        if word.startswith(("--model.", "--adapt.")):
            overrides.append(word)
            overrides += [] if "=" in word else [value for value in [next(rest, None)] if value is not None]
        else:
            words.append(word)
    return words, overrides


def _configured(start: StartingModel, options: argparse.Namespace, overrides: list[str]) -> Configuration:
    def layered(words: list[str]) -> Configuration:
        named = options.policy is not None
        return configured(start.settings, options.config, words, start.adapt, source_is_given=named)

    configuration = layered(overrides)
    protocol = with_protocol(configuration.settings["model"], continual=options.continual)
    return layered([*overrides, *protocol]) if protocol else configuration


def _folder(out: str, policy: str | None) -> AdaptedFolder:
    """Where the adaptation is made: a new or empty folder, or one of ours."""
    folder = AdaptedFolder(checked_run_dir(out, "--out"))
    folder.check_inside()
    if policy is not None and Path(policy).exists() and folder.path.exists() and folder.path.samefile(policy):
        raise ConfigError(
            f"--out: {shown(out)} is what --policy names; it is not changed by what goes on from it. Name another folder"
        )
    if folder.path.exists() and not folder.is_ours:
        raise RunError(f"--out: {shown(out)} holds other things; nothing in it was touched. Name a new folder")
    return folder


def _check_same(folder: AdaptedFolder, begun: bool) -> None:
    if not begun:
        raise RunError(
            f"--out: {folder.path} holds a finished adaptation, and no longer what it was made of (work/). Nothing in it was "
            f"touched. Name another --out; to go on from it, --policy {folder.path}"
        )


def _load(start: StartingModel, configuration: Configuration, material: Material, device: str) -> list[LoraAdapter]:
    """The model, on its device, as it is to be adapted. Raises :class:`ConfigError` where passages do not fit it."""
    module = configuration.module
    chosen = _device(device)
    earlier = start.install(module)
    module.learner.model.to(chosen)
    module.engine.check(max(spec.rank for spec in module.domain.adapter_specs()))
    check_prompts_fit(module.domain, material.passages, module.learner)
    return [adapter.detached_copy(chosen) for adapter in earlier]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise ConfigError(f"--device: {shown(name)} is not allowed: {reason}. Take auto or cpu") from error
    return device


def _show_estimate(console: Console, configuration: Configuration, material: Material, *, begun: bool) -> None:
    passages = material.passages
    rates = measured_rates(configuration.module, passages[0])
    ahead = WorkAhead(
        module=configuration.module,
        spec=configuration.spec,
        passages=passages,
        rates=rates,
        by_user=material.has_questions,
    )
    show_estimate(console, ahead.phases(), begun=begun)


def _publish(folder: AdaptedFolder, options: argparse.Namespace, trust_remote_code: bool, console: Console) -> None:
    """The full model, and the hub."""
    if not options.merged and not options.push:
        return
    if options.merged:
        if not folder.merged.exists():
            write_merged(folder, trust_remote_code=trust_remote_code)
        console.print(f"the full model: {folder.merged}", soft_wrap=True)
    if options.push:
        pushed = push(folder, options.push)
        was_there = " (the repository was there before: who may see it was not changed)" if pushed.was_there else ""
        console.print(f"pushed to {pushed.url}{was_there}", soft_wrap=True)


@contextmanager
def _stopping(options: argparse.Namespace) -> Iterator[None]:
    """Ctrl-C and SIGTERM as ends in good order: each piece of work was stored when it was done."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise StopRequested(
            f"stopped. What was done is kept in {shown(options.out)}; {_GO_ON} goes on with it", exit_code=130
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)
