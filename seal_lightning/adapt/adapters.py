"""Operations on adapted folders: compare, merge, export, push to a hub, remove.

Importing this module, comparing and removing need no torch, so they start at once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from seal_lightning.adapt.model_card import hub_name, model_card
from seal_lightning.adapt.record import AdaptedFolder, AdaptedRecord, BaseModel, ExamRecord, MergedFrom, differing
from seal_lightning.core import JSON
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.core.names import checked_run_dir
from seal_lightning.storage import atomic_files
from seal_lightning.storage.run_dir import RunLock

if TYPE_CHECKING:
    from seal_lightning.models.pretrained import Pretrained

_CONFIG = "adapter_config.json"
_LM_EVAL_FILE = re.compile(r"lm_eval(-[0-9]+)?\.json")


# --- compare


def adapter_rank(folder: AdaptedFolder) -> int:
    """Return the rank in the adapter's configuration. Raises :class:`RunError` if that cannot be read."""
    try:
        return int(json.loads((folder.adapter / _CONFIG).read_bytes())["r"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{folder.adapter / _CONFIG} is not a readable adapter configuration: {error}") from error


def shared_exams(records: Sequence[AdaptedRecord]) -> list[list[tuple[int, ExamRecord]]]:
    """Group the exams whose questions are the same in at least two records, each with its record's index."""
    exams: dict[str, list[tuple[int, ExamRecord]]] = {}
    for index, record in enumerate(records):
        for exam in record.exams:
            exams.setdefault(exam.questions_sha256, []).append((index, exam))
    return [found for digest, found in exams.items() if digest and len({index for index, _ in found}) > 1]


def differing_settings(records: Sequence[AdaptedRecord]) -> dict[str, list[JSON]]:
    """Return the settings, by dotted name, that are not equal everywhere: a value per record, None if it is missing."""
    return differing(
        [
            {
                "base": record.base.described(),
                "seed": record.seed,
                "documents (SHA-256)": ", ".join(sorted(document.sha256[:12] for document in record.documents)),
                **record.settings,
            }
            for record in records
        ]
    )


# --- merge and export


def merge_adapters(
    sources: Sequence[tuple[AdaptedFolder, float]], out: str, *, max_rank: int | None, trust_remote_code: bool = False
) -> AdaptedFolder:
    """Write the sum of the folders' updates, each times its weight, to a new adapted folder.

    Ranks add up; ``max_rank`` ≥ 1 keeps the largest singular directions per layer. The sum has the documents of all folders
    and no exams.

    Raises :class:`ConfigError` for different bases and an ``out`` that is not empty, :class:`ModelError` for a base that
    cannot be loaded and a damaged adapter, :class:`RunError` if the disk refuses; nothing of ``out`` is left then.
    """
    from seal_lightning.models.lora import load_adapter, save_adapter, scaled_adapter, sum_adapters, truncated_adapter

    target = AdaptedFolder(checked_run_dir(out, "--out"))
    if target.path.exists() and any(target.path.iterdir()):
        raise ConfigError(f"--out: {shown(out)} is not empty; name a new folder")
    folders = [folder for folder, _ in sources]
    records = [folder.record() for folder in folders]
    base = records[0].base
    for record in records:
        if record.base.identity() != base.identity():
            both = f"{base.described()} and {record.base.described()}"
            raise ConfigError(f"DIR: the folders belong to the base models {both}; only updates of one can be added")
    pretrained = pretrained_base(base, trust_remote_code)
    model = pretrained.load().model
    whole = sum_adapters([scaled_adapter(load_adapter(model, folder.adapter), weight) for folder, weight in sources])
    kept = whole if max_rank is None else truncated_adapter(whole, max_rank)
    record = replace(
        records[0],
        documents=tuple(dict.fromkeys(document for record in records for document in record.documents)),
        skipped=tuple(dict.fromkeys(skipped for record in records for skipped in record.skipped)),
        exams=(),
        earlier=tuple(dict.fromkeys(name for folder in folders for name in (*folder.record().earlier, folder.name))),
        merged=MergedFrom(
            weights={str(folder.path): weight for folder, weight in sources},
            rank=kept.spec.rank,
            sum_of_ranks=whole.spec.rank,
        ),
        num_passages=sum(record.num_passages for record in records),
        num_edits=sum(record.num_edits for record in records),
        num_kept=sum(record.num_kept for record in records),
    )
    with atomic_files.placing_folder(target.path) as path:
        scratch = AdaptedFolder(path)
        spec = replace(kept.spec, target_modules=tuple(sorted(kept.weights)), layers=None)
        save_adapter(replace(kept, spec=spec), scratch.adapter, pretrained.location())
        atomic_files.write_bytes(scratch.adapter / "README.md", model_card(record, target.name).encode())
        for name in (target.edits.name, target.exam.name):
            files = [folder.path / name for folder in folders if (folder.path / name).is_file()]
            lines = dict.fromkeys(chain.from_iterable(file.read_bytes().splitlines() for file in files))
            atomic_files.write_bytes(scratch.path / name, b"".join(line + b"\n" for line in lines))
        scratch.write_record(record)
    return target


def write_merged(folder: AdaptedFolder, *, overwrite: bool = False, trust_remote_code: bool = False) -> Path:
    """Write ``merged/``: the base model with the adapter in its weights, in float32, and its tokenizer.

    Raises :class:`RunError` if it exists (unless ``overwrite``) or the disk refuses, :class:`ConfigError` for a quantised
    base, :class:`ModelError` for a base that cannot be loaded and a damaged adapter.
    """
    from seal_lightning.models.lora import load_adapter
    from seal_lightning.models.quantization import is_quantized

    if folder.merged.exists() and not overwrite:
        raise RunError(f"{folder.merged} exists; --overwrite replaces it")
    base = replace(folder.record().base, dtype="float32")
    language_model = pretrained_base(base, trust_remote_code).load()
    if is_quantized(language_model.model):
        raise ConfigError(
            f"DIR: the base model {base.described()} is quantised, so no update can be added to its weights"
        )
    language_model.merge(load_adapter(language_model.model, folder.adapter))
    language_model.model.generation_config = language_model.original_generation_config
    with atomic_files.placing_folder(folder.merged) as scratch:
        with atomic_files.safetensors_refusals():
            language_model.model.save_pretrained(scratch)
        language_model.tokenizer.save_pretrained(scratch)
    return folder.merged


def pretrained_base(base: BaseModel, trust_remote_code: bool) -> Pretrained:
    """Name the base model for loading. Raises :class:`ConfigError` if it needs code that the user did not trust.

    A folder may come from a stranger, so its own ``trust_remote_code`` is not enough.
    """
    from seal_lightning.models.pretrained import Pretrained

    if base.trust_remote_code and not trust_remote_code:
        raise ConfigError(
            f"DIR: the base model {base.described()} comes with code that would run here. If you trust its makers, add "
            "--trust_remote_code"
        )
    return Pretrained(**asdict(base))


# --- push


def push(folder: AdaptedFolder, repo_id: str, *, private: bool = True, with_edits: bool = False) -> str:
    """Upload the adapter, its configuration and its model card in one commit; with ``with_edits``, the self-edits too.

    No path of this machine is uploaded: the configuration names the base model by its hub id. The token is ``HF_TOKEN`` or
    that of ``hf auth login``. Returns the commit's URL. Raises :class:`RunError` if the hub refuses or is unreachable.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    record = folder.record()
    files = [folder.adapter / "adapter_model.safetensors", *[folder.edits] * with_edits]
    if missing := [path for path in files if path.is_symlink() or not path.is_file()]:
        raise RunError(f"{missing[0]} is missing or a link; nothing was sent")
    config = json.loads((folder.adapter / _CONFIG).read_bytes())
    config |= {"base_model_name_or_path": hub_name(record.base), "revision": record.base.revision}
    contents: dict[str, bytes | Path] = {
        "README.md": model_card(record, folder.name).encode(),
        _CONFIG: json.dumps(config, indent=2).encode(),
        **{path.name: path for path in files},
    }
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(repo_id=repo_id, operations=operations, commit_message=f"Adapter {folder.name}")
    except Exception as error:  # of the client, its HTTP library, its upload of large files, the network
        reason = shown(str(error).strip().split("\n", 1)[0], 300)
        raise RunError(
            f"NAME/REPO: {shown(repo_id)} at {shown(api.endpoint)} could not be written: {type(error).__name__}: {reason}. "
            "Check the name, HF_TOKEN or `hf auth login`, HF_HUB_OFFLINE and the network, and repeat the command"
        ) from error
    return str(commit.commit_url)


# --- remove


def adapter_parts(folder: AdaptedFolder) -> list[Path]:
    """Return the existing files and folders that `seal adapt` and the commands after it wrote, in the order of removal.

    The record is last, so that an interrupted removal can be repeated.
    """
    results = sorted(path for path in folder.path.iterdir() if _LM_EVAL_FILE.fullmatch(path.name))
    rest = (folder.exam, folder.edits, folder.lock_file, folder.record_file)
    return [p for p in (folder.work, folder.merged, folder.adapter, *results, *rest) if os.path.lexists(p)]


def remove_adapter(folder: AdaptedFolder) -> list[Path]:
    """Remove an adapted folder's parts, and the folder itself if it is then empty. Returns the other files, which stay.

    Raises :class:`RunError` if another process is writing the folder, it is a link, or the disk refuses.
    """
    if folder.path.is_symlink():
        raise RunError(f"DIR: {shown(str(folder.path))} is a link; name the folder that it points to")
    lock = RunLock(folder.path)
    lock.acquire()
    try:
        atomic_files.remove_leftovers(folder.path)
        for path in adapter_parts(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        left = sorted(folder.path.iterdir())
        if not left:
            folder.path.rmdir()
        return left
    except OSError as error:
        raise RunError(f"{folder.path} could not be removed completely: {error}. Repeat the command") from error
    finally:
        lock.release()
