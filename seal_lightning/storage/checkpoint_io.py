"""How checkpoints get to the disk and back: whole or not at all, never with a NaN, and without running what they hold."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from seal_lightning.core.errors import RunError, shown
from seal_lightning.core.names import is_url
from seal_lightning.storage.atomic_files import replacing
from seal_lightning.storage.checkpoints import check_content, remove_checkpoint, write_manifest

_WEIGHTS = ("state_dict", "optimizer_states", "seal")
"""What of a Lightning checkpoint must be finite; metrics of callbacks may well be infinite."""
_NAMED = re.compile(
    r"collections (OrderedDict|Counter)|(__builtin__|builtins) (set|complex)"
    r"|torch (Size|device|bool|(u?int|b?float|complex)\w+)|torch(\.cuda)? [A-Z]\w+Storage|torch\.storage UntypedStorage"
    r"|torch\._utils _rebuild_(tensor_v2|tensor_v3|parameter)"
)
"""What a checkpoint may name. torch lets more through, and some of it takes any amount of memory: ``bytearray(10**12)``."""
_PLAIN = {type(None), bool, int, float, complex, str}
_PLAIN |= {torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device}
"""What such names make, and what needs none."""
_MAX_DEPTH = 100
_SPARE = 4
"""How often a checkpoint may hold the same values: so many times its size."""


class AtomicCheckpointIO(CheckpointIO):
    """Checkpoints as one file and a manifest with its SHA-256; see :mod:`seal_lightning.storage.checkpoints`."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside the path, flush, rename into place. Raises :class:`RunError`; an older checkpoint stays then."""
        place = local_path(path)
        check_savable(checkpoint, place)
        with replacing(place) as file:
            torch.save(checkpoint, cast(BinaryIO, file))
            write_manifest(place, file.size, file.sha256)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """The checkpoint, as tensors and plain containers. Raises :class:`RunError`.

        ``weights_only`` is always on, whatever the caller or the environment says.
        """
        place = local_path(path)
        try:
            if place.exists() and not place.is_file():  # to open a pipe waits for ever
                raise RunError(f"the checkpoint {place} cannot be read: it is no file")
            with place.open("rb") as file:
                check_content(place, file)
                size = file.seek(0, io.SEEK_END)
                check_archive(file, size)
                file.seek(0)
                checkpoint: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
            check_sizes(checkpoint, size)
        except OSError as error:
            raise RunError(f"the checkpoint {place} cannot be read: {error.strerror or error}") from error
        except RunError:
            raise
        except Exception as error:  # of a forged file torch raises anything, from AttributeError to struct.error
            reason = shown(" ".join(str(error).split()) or type(error).__name__, 200)
            raise RunError(
                f"{place} is no checkpoint of tensors and plain values ({reason}); nothing was run"
            ) from error
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint and its manifest."""
        remove_checkpoint(local_path(path))


def local_path(path: Any) -> Path:
    """The path, of this machine or a mounted disk. Raises :class:`RunError` for a URL."""
    if is_url(str(path)):
        raise RunError(f"the checkpoint {shown(str(path))} is a URL; only files on a disk are loaded. Fetch it first")
    return Path(path)


def check_archive(file: BinaryIO, size: int) -> None:
    """Raise :class:`ValueError` unless it is an archive as :func:`torch.save` writes it, of names that are known."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it has compressed entries")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger than the file")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):  # of those there may be two
                for opcode, value, _ in pickletools.genops(archive.read(entry)):
                    if opcode.name == "GLOBAL" and not _NAMED.fullmatch(str(value)):
                        raise ValueError(f"it names {shown(value)}")


def check_sizes(checkpoint: Any, size: int) -> None:
    """Raise :class:`ValueError` when a checkpoint of ``size`` bytes is no mapping, or says more than so many can.

    A list of ten times a list of ten times … takes no room, and to go through it takes for ever.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f"it is a {type(checkpoint).__name__}")
    left = _SPARE * size
    found: list[tuple[Any, int]] = [(checkpoint, 0)]
    while found:
        value, depth = found.pop()
        left -= _num_bytes(value)
        if left < 0 or depth > _MAX_DEPTH:
            raise ValueError("its values are larger than the file, or hold each other")
        if isinstance(value, dict):
            found += [(item, depth + 1) for pair in value.items() for item in pair]
        elif isinstance(value, list | tuple | set):
            found += [(item, depth + 1) for item in value]


def _num_bytes(value: Any) -> int:
    """What a value says that holds no others; 1 for what is no tensor."""
    if isinstance(value, torch.UntypedStorage):
        return value.nbytes()
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else 1


def check_savable(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Raise :class:`RunError` for what could not be loaded again, and where a weight or optimiser state is not finite."""
    for key, part in checkpoint.items():
        for name, value in _leaves(part, key):
            if type(value) not in _PLAIN:
                raise RunError(
                    f"{path} was not written: {name} is a {type(value).__name__}; only tensors, numbers, texts and "
                    "containers of them are loaded again. Change what that callback or module keeps as its state"
                )
            if key in _WEIGHTS and isinstance(value, torch.Tensor) and not value.isfinite().all():
                raise RunError(
                    f"{path} was not written: {name} is NaN or infinite. The checkpoints before it are as they were. "
                    "Resume with a lower model.reinforce.learning_rate"
                )


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if type(value) in (dict, OrderedDict, Counter):
        for key, item in value.items():
            yield from _leaves(key, f"a key of {name}")
            yield from _leaves(item, f"{name}.{key}")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{name}[{index}]")
    else:
        yield name, value
