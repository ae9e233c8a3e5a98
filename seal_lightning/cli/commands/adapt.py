"""``seal adapt PATH… --out DIR``: documents become part of a model; exams measure what was learned and forgotten."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from rich.table import Table

from seal_lightning.adapt.adapters import push, write_merged
from seal_lightning.adapt.configuration import AdaptSpec, Configuration, configured
from seal_lightning.adapt.estimate import measured_rates, phases
from seal_lightning.adapt.material import Material, job_of, read_material
from seal_lightning.adapt.pipeline import AdaptPipeline
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.adapt.starting_model import StartingModel
from seal_lightning.adapt.workspace import Progress, Workspace
from seal_lightning.cli.commands.adapters import exam_table, exam_title, print_lines, print_table
from seal_lightning.core.errors import ConfigError, RunError, StopRequested, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.generation.prompt_lengths import check_prompts_fit
from seal_lightning.models.lora import LoraAdapter
from seal_lightning.storage import atomic_files
from seal_lightning.storage.journal import DamagedLine
from seal_lightning.storage.run_dir import RunLock
from seal_lightning.training.module import SealModule

_MAX_SKIPPED = 5
"""Skipped documents and questions that are printed."""
_RESUME = "the same `seal adapt` command"


def main(args: Sequence[str]) -> int:
    """Run ``seal adapt``. Returns exit code 0 if the adapted folder is complete, or ``--dry-run`` estimated it."""
    words, overrides = _without_overrides(args)
    options = _parser().parse_args(words)
    with _stoppable(options.out):
        try:
            return _run(options, overrides)
        except DamagedLine as error:  # its advice is for runs of `seal fit`
            reason = str(error).split(". ", 1)[0]
            raise RunError(f"--out: a journal is damaged ({reason}). Start again with another --out") from error


def _run(options: argparse.Namespace, overrides: list[str]) -> int:
    start = StartingModel.named(options.policy)
    folder = _folder(options.out, options.policy)
    configuration = configured(start.settings, options.config, overrides, start.adapt, continual=options.continual)
    pretrained = configuration.module.pretrained
    material = read_material(
        options.paths, options.questions, pretrained, configuration.spec.passage_tokens, folder.path
    )
    _show_material(material)
    job = job_of(material, options.questions, configuration.settings, start.identity(), continual=options.continual)
    begun = Workspace(folder).check(job)
    if not folder.is_finished:
        earlier = _load(start, configuration, material, options.device)
        module, spec = configuration.module, configuration.spec
        _show_estimate(module, spec, material, begun=begun)
        if not options.dry_run:
            with _locked(folder) as work, (progress := Progress(Console(highlight=False))).bars:
                work.begin(job)
                AdaptPipeline(
                    configuration=configuration,
                    material=material,
                    folder=folder,
                    work=work,
                    start=start,
                    earlier=earlier,
                    continual=options.continual,
                    progress=progress,
                ).run()
    elif not begun:
        raise RunError(
            f"--out: {folder.path} holds a finished adaptation without its work/, so its settings are unknown. Name another "
            f"--out; to start from it, --policy {folder.path}"
        )
    else:
        print_lines(f"{folder.path} is finished: nothing is left to do")
    if options.dry_run:
        print_lines("--dry-run: nothing was written")
        return 0
    _show_record(folder)
    if options.merged:
        if not folder.merged.exists():
            write_merged(folder, trust_remote_code=pretrained.trust_remote_code)
        print_lines(f"the full model: {folder.merged}")
    if options.push:
        print_lines(f"pushed to {push(folder, options.push)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seal adapt",
        allow_abbrev=False,
        description="Make documents part of a model: it writes questions on them, writes and tries self-edits, and one LoRA "
        "adapter learns the edits that helped. The same command resumes an interrupted adaptation.",
        epilog="Every other setting is one of the configuration, as --model.num_edits 5 or --adapt.keep 2.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="documents (.txt .md .html .pdf .json .jsonl) or folders"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the adapted folder; nothing else is written")
    parser.add_argument(
        "--policy",
        metavar="RUN|DIR|HUB_ID",
        help="a run of `seal fit`, a folder of `seal adapt` to start from, a hub id or a model's folder; the default is the "
        "embedded SmolLM2-135M-Instruct",
    )
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="your own questions with answers: JSONL, JSON, CSV or SQuAD. Half of them select edits, half examine",
    )
    parser.add_argument("-c", "--config", action="append", default=[], metavar="FILE", help="settings; later ones win")
    parser.add_argument("--continual", action="store_true", help="learn and merge passage by passage (§5 of the paper)")
    parser.add_argument("--merged", action="store_true", help="write the full model too, to DIR/merged")
    parser.add_argument("--push", metavar="REPO", help="push the adapter to a private hub repository (HF_TOKEN)")
    parser.add_argument("--dry-run", action="store_true", help="read the documents, print an estimate, write nothing")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:1 …")
    return parser


def _without_overrides(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the command's own words from settings of the configuration with their values."""
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


def _folder(out: str, policy: str | None) -> AdaptedFolder:
    """Return the output folder, which must be new, empty, or of an adaptation."""
    folder = AdaptedFolder(checked_run_dir(out, "--out"))
    folder.check_links()
    if policy is not None and Path(policy).exists() and folder.path.exists() and folder.path.samefile(policy):
        raise ConfigError(f"--out: {shown(out)} is also --policy, which is never changed. Name another folder")
    begun = folder.is_finished or (folder.work / "job.json").is_file()
    files = (path for path in folder.path.rglob("*") if path.is_file())
    if not begun and any(path != folder.lock_file and path.suffix != ".tmp" for path in files):
        raise RunError(f"--out: {shown(out)} holds other things. Name a new folder")
    return folder


def _load(start: StartingModel, configuration: Configuration, material: Material, device: str) -> list[LoraAdapter]:
    """Load the starting model on its device. Raises :class:`ConfigError` if passages do not fit its context."""
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().split("\n", 1)[0][:200]
        raise ConfigError(f"--device: {shown(device)} is not allowed: {reason}. Use auto or cpu") from error
    module = configuration.module
    earlier = start.install(module)
    module.learner.model.to(chosen)
    module.engine.check(max(spec.rank for spec in module.domain.adapter_specs()))
    check_prompts_fit(module.domain, material.passages, module.learner)
    return [adapter.detached_copy(chosen) for adapter in earlier]


def _show_material(material: Material) -> None:
    """Print what was read and what was skipped."""
    num_questions = sum(len(passage.questions) for passage in material.passages)
    given = f", {num_questions} questions given" if material.has_questions else ""
    print_lines(f"{len(material.documents)} documents, {len(material.passages)} passages{given}")
    print_lines(*(f"skipped: {one.path!a}: {one.reason}" for one in material.skipped[:_MAX_SKIPPED]))
    if len(material.skipped) > _MAX_SKIPPED:
        print_lines(f"skipped: {len(material.skipped) - _MAX_SKIPPED} more")


def _show_estimate(module: SealModule, spec: AdaptSpec, material: Material, *, begun: bool) -> None:
    """Measure and print the estimate, phase by phase."""
    rates, ahead = measured_rates(module, material.passages[0]), phases(module, spec, material)
    table = Table("phase", "tokens written", "tokens trained on", "seconds, at most about", box=None, pad_edge=False)
    for phase in ahead:
        table.add_row(phase.name, f"{phase.written:,}", f"{phase.trained:,}", f"{phase.seconds(rates):,.0f}")
    totals = ([p.written for p in ahead], [p.trained for p in ahead], [p.seconds(rates) for p in ahead])
    table.add_row("all", *(f"{sum(column):,.0f}" for column in totals))
    print_table(table)
    if begun:
        print_lines("some of it was done before and is not repeated")


def _show_record(folder: AdaptedFolder) -> None:
    """Print the exams, and where the result is."""
    record = folder.record()
    for exam in record.exams:
        print_table(exam_table(exam_title(exam), [(scores.condition, scores) for scores in exam.scores]))
    print_lines(
        f"{record.num_kept} of {record.num_edits} self-edits on {record.num_passages} passages were kept; "
        f"{sum(record.seconds.values()):.0f} s",
        f"adapter {folder.adapter}, edits {folder.edits}",
        f'ask it: seal ask {folder.path} "…"',
    )


@contextmanager
def _locked(folder: AdaptedFolder) -> Iterator[Workspace]:
    lock = RunLock(folder.path)
    lock.acquire()
    try:
        atomic_files.remove_leftovers(folder.path)
        with closing(Workspace(folder)) as work:
            yield work
    finally:
        lock.release()


@contextmanager
def _stoppable(out: str) -> Iterator[None]:
    """End in good order on Ctrl-C and SIGTERM: each piece of work was stored when it was done."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise StopRequested(f"stopped. The work is kept in {shown(out)}; {_RESUME} resumes it", exit_code=130) from None
    finally:
        signal.signal(signal.SIGTERM, before)
