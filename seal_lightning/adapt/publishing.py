"""An adapted model for others: a full model in a folder, and the adapter with its card on a Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from seal_lightning.adapt.card import hub_id, hub_name, model_card
from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.adapt.record import BaseModel
from seal_lightning.core.errors import ConfigError, RunError, shown
from seal_lightning.storage import atomic_files

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_T = TypeVar("_T")

_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_LOGIN = "Set HF_TOKEN to a token that may write, or log in with `hf auth login`"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What is at the hub now."""

    url: str
    """Of the commit."""
    files: tuple[str, ...]
    was_there: bool
    """Whether the repository was there before; who may see it was not changed then."""
    base_is_local: bool
    """Whether the base model is a folder here, which nobody else has."""


def write_merged(folder: AdaptedFolder, *, overwrite: bool = False, trust_remote_code: bool = False) -> Path:
    """Write ``merged/``: the base model with the adapter in its weights, in float32, and its tokenizer.

    Raises :class:`RunError` where it is there already (unless ``overwrite``) or the disk refuses, :class:`ConfigError` for
    a base that came quantised, :class:`ModelError` for a base that cannot be had and a damaged adapter.
    """
    from seal_lightning.adapt.bases import checked_adapter, pretrained

    if folder.merged.exists() and not overwrite:
        raise RunError(
            f"{folder.merged} is there already, and was left as it is; --overwrite puts a new one in its place"
        )
    base = replace(folder.record().base, dtype="float32")
    language_model = pretrained(base, trust_remote_code=trust_remote_code).load()
    _check_floating(language_model.model, base)
    language_model.merge(checked_adapter(folder, language_model.model))
    language_model.model.generation_config = language_model.original_generation_config
    with _writing(folder.merged), atomic_files.placing_folder(folder.merged) as scratch:
        with atomic_files.safetensors_refusals():
            language_model.model.save_pretrained(scratch)
        language_model.tokenizer.save_pretrained(scratch)
    return folder.merged


def push(folder: AdaptedFolder, repo_id: str, *, private: bool = True, with_edits: bool = False) -> Pushed:
    """Upload the adapter, its configuration and its model card in one commit; with ``with_edits``, the self-edits.

    Nothing else of the folder leaves it, and no path of this machine: the configuration names the base model as its hub
    does. The token is the environment's (``HF_TOKEN``) or that of the hub's own login.

    Raises :class:`ConfigError` for a repository's name that is none, :class:`RunError` for whatever the hub refuses and
    where it is not reached; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    check_repo_id(repo_id)
    operations = _operations(folder, folder.path.resolve().name, with_edits=with_edits)
    api = HfApi()
    was_there = _asked(repo_id, api.endpoint, lambda: _created(api, repo_id, private=private))
    commit: Any = _asked(
        repo_id,
        api.endpoint,
        lambda: api.create_commit(
            repo_id=repo_id, operations=operations, commit_message=f"The adapter {folder.name}, by seal_lightning"
        ),
    )
    return Pushed(
        url=str(commit.commit_url),
        files=tuple(operation.path_in_repo for operation in operations),
        was_there=was_there,
        base_is_local=hub_id(folder.record().base) is None,
    )


def public_config(config: dict[str, Any], base: BaseModel) -> dict[str, Any]:
    """An adapter's configuration for others: its base by the name that its hub knows, and no path."""
    return {**config, "base_model_name_or_path": hub_name(base), "revision": base.revision}


def check_repo_id(repo_id: str) -> None:
    """Raise :class:`ConfigError` for what is no name of a hub's repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise HFValidationError("it must say whose it is: NAME/REPO")
    except HFValidationError as error:
        raise ConfigError(
            f"NAME/REPO: {shown(repo_id)} is not allowed: {_first_line(error)}. Nothing was sent"
        ) from error


def _operations(folder: AdaptedFolder, name: str, *, with_edits: bool) -> list[CommitOperationAdd]:
    from huggingface_hub import CommitOperationAdd

    record = folder.record()
    for path in (folder.adapter / _WEIGHTS, folder.adapter / _CONFIG, *([folder.edits] if with_edits else [])):
        if path.is_symlink() or not path.is_file():
            raise RunError(f"{path} is not there, or no file; nothing was sent")
    try:
        config = public_config(json.loads((folder.adapter / _CONFIG).read_bytes()), record.base)
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(
            f"{folder.adapter / _CONFIG} cannot be read: {shown(str(error), 200)}; nothing was sent"
        ) from error
    contents: dict[str, bytes | str] = {
        "README.md": model_card(record, name).encode(),
        _CONFIG: json.dumps(config, indent=2).encode(),
        _WEIGHTS: str(folder.adapter / _WEIGHTS),
    }
    if with_edits:
        contents["edits.jsonl"] = str(folder.edits)
    return [CommitOperationAdd(path_in_repo=path, path_or_fileobj=content) for path, content in contents.items()]


def _created(api: HfApi, repo_id: str, *, private: bool) -> bool:
    """Have the repository; whether it was there before."""
    if api.repo_exists(repo_id):
        return True
    api.create_repo(repo_id, private=private, exist_ok=True)
    return False


def _asked(repo_id: str, endpoint: str, ask: Callable[[], _T]) -> _T:
    """What a call of the hub's client returns. Raises :class:`RunError` that says what it told and how to go on."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    where = f"{shown(repo_id)} at {shown(endpoint)} could not be written"
    kept = "The folder is as it was, and the same command tries again"
    try:
        return ask()
    except OfflineModeIsEnabled as error:
        raise RunError(f"{where}: HF_HUB_OFFLINE is set; unset it to push. {kept}") from error
    except LocalTokenNotFoundError as error:
        raise RunError(f"{where}: there is no token. {_LOGIN}. {kept}") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        how = f" {_LOGIN}." if status in (401, 403) else ""
        raise RunError(f"{where}: HTTP {status}: {_first_line(error)}.{how} {kept}") from error
    except Exception as error:  # the client's HTTP library, its upload of large files and the network have their own
        first = error
        while isinstance(first.__cause__, Exception):
            first = first.__cause__
        raise RunError(f"{where}: {type(first).__name__}: {_first_line(first)}. {kept}") from error


def _check_floating(model: Any, base: BaseModel) -> None:
    from seal_lightning.models.quantization import is_quantized

    if is_quantized(model):
        raise ConfigError(
            f"DIR: its base model {shown(base.source)} came quantised, and nothing can be added to such weights. Load the "
            "adapter beside it, or name the full model as base_model_name_or_path and merge with PEFT; nothing was written"
        )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say what a refused write of this folder means here."""
    try:
        yield
    except RunError as error:
        raise RunError(
            f"{path} could not be written: {_first_line(error.__cause__ or error)}. Nothing is left of it and the adapter is "
            "as it was; see to the disk (its room, its rights) and give the same command again"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n", 1)[0] or type(error).__name__
    return shown(text, 300).strip("'\"").rstrip(".")
