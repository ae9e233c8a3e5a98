"""Several adaptations of one base in one adapter: the weighted sum of their updates, exact or cut to fewer directions."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import seal_lightning
from seal_lightning.adapt.bases import checked_adapter, common_base, pretrained, skeleton
from seal_lightning.adapt.card import model_card
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.record import AdaptedRecord, MergedFrom
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.models.lora import LoraAdapter, save_adapter, scaled_adapter, sum_adapters, truncated_adapter
from seal_lightning.storage import atomic_files

MOST_RANK = 4096
"""What :func:`seal_lightning.models.lora.load_adapter` reads."""
_PACKAGES = ("torch", "transformers", "peft")


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """An adapted folder and the factor of its update."""

    folder: AdaptedFolder
    weight: float = 1.0
    """Finite and not 0; a negative one takes the update away."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """What came of it."""

    folder: AdaptedFolder
    rank: int
    sum_of_ranks: int
    left_out: float
    """Norm (Frobenius, over all modules) of what truncation left out, relative to the whole update's; in [0, 1]."""
    norms: dict[str, float]
    """Of each folder's weighted update, by its path as given."""
    twice: tuple[tuple[str, str], ...]
    """(A, B) where B was adapted on top of A and another source is A or holds its update too: the sum has it more than once.

    Adaptations are told apart by their weights where the folders' work says so, else by their names.
    """


def weighted(text: str) -> Weighted:
    """``DIR`` or ``DIR=WEIGHT``. Raises :class:`ConfigError` for a weight that is none, and as ``AdaptedFolder.named``."""
    path, mark, number = text.rpartition("=")
    if not mark or os.path.isdir(text):
        return Weighted(folder=AdaptedFolder.named(text))
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise ConfigError(
            f"DIR=WEIGHT: {shown(text)} is not allowed; the weight must be a finite number other than 0 (0 would leave the "
            "folder out), and no folder has this name"
        )
    return Weighted(folder=AdaptedFolder.named(path), weight=weight)


def combine(
    sources: Sequence[Weighted], out: str | Path, *, max_rank: int | None = None, trust_remote_code: bool = False
) -> Combined:
    """Write the weighted sum of the sources' updates to a new adapted folder. Ranks add up; ``max_rank`` ≥ 1 cuts them.

    Its exams are unknown, as nobody asked this model; the documents are those of all.

    Raises :class:`ConfigError` for different bases, a rank that is too large and an ``out`` that is taken,
    :class:`ModelError` for a damaged adapter, :class:`RunError` where the disk refuses; nothing is left of ``out`` then.
    """
    started = time.perf_counter()
    target = _free(out)
    _check_once(sources)
    base = common_base([source.folder for source in sources])
    model = skeleton(base, trust_remote_code=trust_remote_code)
    parts = [scaled_adapter(_wide(checked_adapter(source.folder, model)), source.weight) for source in sources]
    whole = sum_adapters(parts)
    kept = whole if max_rank is None else truncated_adapter(whole, max_rank)
    if kept.spec.rank > MOST_RANK:
        raise ConfigError(
            f"--max_rank: the ranks add up to {kept.spec.rank}; at most {MOST_RANK} are loaded again. Set --max_rank to no "
            "more than that. Nothing was written"
        )
    found = Combined(
        folder=AdaptedFolder(target),
        rank=kept.spec.rank,
        sum_of_ranks=whole.spec.rank,
        left_out=_left_out(whole, kept),
        norms={str(s.folder.path): update_norm(part) for s, part in zip(sources, parts, strict=True)},
        twice=_twice(sources),
    )
    seconds = time.perf_counter() - started
    record = _record(sources, found, max_rank, seconds)
    location = pretrained(base, trust_remote_code=trust_remote_code).location()
    _write(found.folder, _named(_single(kept)), record, location, [source.folder for source in sources])
    return found


def update_norm(adapter: LoraAdapter) -> float:
    """Frobenius norm of the update over all modules, without making it: ‖BA‖² = ⟨BᵀB, AAᵀ⟩."""
    wide = _wide(adapter)
    squares = [float(((b.T @ b) * (a @ a.T)).sum()) for a, b in wide.weights.values()]
    return abs(wide.scaling) * math.sqrt(max(0.0, math.fsum(squares)))


def update_product(one: LoraAdapter, other: LoraAdapter) -> float:
    """Inner product ⟨B₁A₁, B₂A₂⟩ of two updates over the modules that both have."""
    first, second = _wide(one), _wide(other)
    both = [name for name in first.weights if name in second.weights]
    products = []
    for name in both:
        (a1, b1), (a2, b2) = first.weights[name], second.weights[name]
        products.append(float(((b1.T @ b2) * (a1 @ a2.T)).sum()))
    return first.scaling * second.scaling * math.fsum(products)


def _wide(adapter: LoraAdapter) -> LoraAdapter:
    """In float64: what truncation leaves out may be small beside what it keeps."""
    return replace(adapter, weights={name: (a.double(), b.double()) for name, (a, b) in adapter.weights.items()})


def _single(adapter: LoraAdapter) -> LoraAdapter:
    return replace(adapter, weights={name: (a.float(), b.float()) for name, (a, b) in adapter.weights.items()})


def _named(adapter: LoraAdapter) -> LoraAdapter:
    """Its specification names its modules: those of all sources."""
    return replace(adapter, spec=replace(adapter.spec, target_modules=tuple(sorted(adapter.weights)), layers=None))


def _left_out(whole: LoraAdapter, kept: LoraAdapter) -> float:
    if kept is whole:
        return 0.0
    norm = update_norm(whole)
    return 0.0 if norm == 0 else min(1.0, update_norm(sum_adapters([whole, scaled_adapter(kept, -1.0)])) / norm)


@dataclass(frozen=True, kw_only=True)
class _Held:
    """An adaptation whose update a folder holds."""

    name: str
    sha256: str | None
    """Of its adapter's weights; None where nothing says so."""

    def is_same(self, other: _Held) -> bool:
        """By the weights where both are known, else by the name."""
        if self.sha256 is not None and other.sha256 is not None:
            return self.sha256 == other.sha256
        return self.name == other.name


def _twice(sources: Sequence[Weighted]) -> tuple[tuple[str, str], ...]:
    """Every earlier adaptation of a source that another source is, or went on from too."""
    earlier = [_earlier(source.folder) for source in sources]
    if not any(earlier):
        return ()
    own = [_Held(name=source.folder.name, sha256=_sha256(source.folder)) for source in sources]
    found = [
        (held.name, _unique(source, sources))
        for i, source in enumerate(sources)
        for held in earlier[i]
        if any(held.is_same(other) for j in range(len(sources)) if j != i for other in (*earlier[j], own[j]))
    ]
    return tuple(dict.fromkeys(found))


def _earlier(folder: AdaptedFolder) -> list[_Held]:
    """What a folder's record names; of the last one, which it started from, its work may have the hash."""
    names = folder.record().earlier
    return [
        _Held(name=name, sha256=_started_from(folder) if place == len(names) - 1 else None)
        for place, name in enumerate(names)
    ]


def _started_from(folder: AdaptedFolder) -> str | None:
    """The hash of the adapter an adaptation went on from; None where its work is gone or does not say so."""
    try:
        job = json.loads((folder.work / "job.json").read_bytes())
        found = job["policy"]["adapted"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) else None


def _sha256(folder: AdaptedFolder) -> str | None:
    try:
        with (folder.adapter / "adapter_model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _free(out: str | Path) -> Path:
    target = checked_run_dir(out, "--out")
    if target.is_symlink() or (target.exists() and any(target.iterdir())):
        raise ConfigError(
            f"--out: {shown(str(out))} is not allowed; it must be a new or empty folder, so that nothing is overwritten"
        )
    return target


def _check_once(sources: Sequence[Weighted]) -> None:
    seen: dict[str, Path] = {}
    for source in sources:
        real = os.path.realpath(source.folder.path)
        if real in seen:
            raise ConfigError(
                f"DIR: {shown(str(source.folder.path))} is there twice; give it once, with the sum of the weights"
            )
        seen[real] = source.folder.path


def _record(sources: Sequence[Weighted], found: Combined, max_rank: int | None, seconds: float) -> AdaptedRecord:
    records = [source.folder.record() for source in sources]
    first = records[0]
    earlier = [name for s, r in zip(sources, records, strict=True) for name in (*r.earlier, s.folder.name)]
    merged = MergedFrom(
        weights={_unique(s, sources): s.weight for s in sources},
        max_rank=max_rank,
        rank=found.rank,
        sum_of_ranks=found.sum_of_ranks,
        left_out_of_the_norm=found.left_out,
    )
    return AdaptedRecord(
        base=first.base,
        asking=first.asking,
        documents=tuple(dict.fromkeys(document for record in records for document in record.documents)),
        skipped=tuple(dict.fromkeys(skipped for record in records for skipped in record.skipped)),
        earlier=tuple(dict.fromkeys(earlier)),
        num_passages=sum(record.num_passages for record in records),
        num_edits=sum(record.num_edits for record in records),
        num_kept=sum(record.num_kept for record in records),
        seconds={"merge": round(seconds, 3)},
        versions=_versions(),
        settings={**first.settings, "merged": asdict(merged)},
    )


def _unique(source: Weighted, sources: Sequence[Weighted]) -> str:
    """The folder's name, or its path where two have one name."""
    names = [other.folder.name for other in sources]
    return source.folder.name if names.count(source.folder.name) == 1 else str(source.folder.path)


def _versions() -> dict[str, str]:
    return {"seal-lightning": seal_lightning.__version__, **{name: version(name) for name in _PACKAGES}}


def _write(
    target: AdaptedFolder, adapter: LoraAdapter, record: AdaptedRecord, location: str, sources: Sequence[AdaptedFolder]
) -> None:
    """The folder as a whole or not at all."""
    try:
        with atomic_files.placing_folder(target.path) as path:
            scratch = AdaptedFolder(path)
            save_adapter(adapter, scratch.adapter, location)
            atomic_files.write_bytes(scratch.adapter / "README.md", model_card(record, name=target.name).encode())
            _write_lines([source.edits for source in sources], scratch.edits)
            _write_lines([source.exam for source in sources], scratch.exam)
            scratch.write_record(record)
    except RunError as error:
        raise RunError(
            f"--out: {shown(str(target.path))} could not be written: {error.__cause__ or error}. Nothing is left of it; see "
            "to the disk (its room, its rights) and give the same command again"
        ) from error


def _write_lines(sources: Sequence[Path], target: Path) -> None:
    """The lines of all files one after another, each line once; no file where there is none."""
    lines = dict.fromkeys(
        line for source in sources if source.is_file() for line in source.read_bytes().splitlines() if line.strip()
    )
    if lines:
        atomic_files.write_bytes(target, b"".join(line + b"\n" for line in lines))
