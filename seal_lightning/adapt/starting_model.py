"""The model an adaptation starts from: a pretrained one, a run's policy, or what an earlier adaptation made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal_lightning.adapt.folder import AdaptedFolder
from seal_lightning.core.errors import ConfigError, ModelError, RunError, shown
from seal_lightning.core.names import is_url
from seal_lightning.models.lora import LoraAdapter, load_adapter
from seal_lightning.models.pretrained import EMBEDDED
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_OF_A_RUN = (
    "pretrained",
    "domain",
    "sampling",
    "edit_retries",
    "inner_loop",
    "engine",
    "grader",
    "policy_adapter",
    "seed",
)
"""What of a run's model an adaptation goes on with; how a run rewards, filters and tests is the run's own affair."""

_OF_AN_ADAPTATION = ("domain", "sampling", "edit_retries", "num_edits", "num_repeats", "protocol", "seed")
_PACKAGE = "seal_lightning."
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@dataclass(frozen=True, kw_only=True)
class StartingModel:
    """Where the weights come from."""

    settings: Mapping[str, Any]
    """What is known of the ``model`` part of the configuration."""
    adapt: Mapping[str, Any]
    """And of the ``adapt`` part."""
    run: RunDir | None = None
    adapted: AdaptedFolder | None = None

    @classmethod
    def named(cls, policy: str | None) -> StartingModel:
        """What ``--policy`` names; None is the embedded model.

        Raises :class:`ConfigError` and :class:`RunError` for what names nothing.
        """
        if policy is None or policy == EMBEDDED:
            return cls(settings={"pretrained": {"source": EMBEDDED}}, adapt={})
        path = Path(policy)
        if path.is_dir():
            return cls._of_folder(path)
        if is_url(policy) or path.exists() or not _HUB_ID.fullmatch(policy):
            raise ConfigError(
                f"--policy: {shown(policy)} is not allowed; it must be a run directory, a folder of `seal adapt`, a folder "
                "written by save_pretrained, or a hub id"
            )
        return cls(settings={"pretrained": {"source": policy}}, adapt={})

    @classmethod
    def _of_folder(cls, path: Path) -> StartingModel:
        if (path / "adapted.json").exists():
            folder = AdaptedFolder.named(path, "--policy")
            return cls._of_adapted(folder)
        if (path / "config.yaml").exists():
            return cls._of_run(RunDir.named(path, "--policy"))
        if (path / "config.json").is_file():
            return cls(settings={"pretrained": {"source": str(path.resolve())}}, adapt={})
        raise RunError(
            f"--policy: {shown(str(path))} is a folder, but neither of a run (config.yaml), nor of an adaptation that has "
            "ended (adapted.json), nor of a model (config.json)"
        )

    @classmethod
    def _of_adapted(cls, folder: AdaptedFolder) -> StartingModel:
        """Such a folder may come from anybody: what it says chooses among this package's own, and nothing that is asked."""
        record = folder.record()
        model, adapt = record.settings.get("model"), record.settings.get("adapt")
        settings = {name: model[name] for name in _OF_AN_ADAPTATION if name in model} if isinstance(model, dict) else {}
        if strange := next((path for path in _class_paths(settings) if not path.startswith(_PACKAGE)), None):
            raise ConfigError(
                f"--policy: {shown(str(folder.path))} names the class {shown(strange)}, which is not of this package; "
                "nothing was loaded. Where you trust it, name it in a configuration of your own (-c), and start from a copy "
                "without it in adapted.json"
            )
        base = {"source": record.base.source, "revision": record.base.revision, "dtype": record.base.dtype}
        return cls(
            settings={**settings, "pretrained": base}, adapt=adapt if isinstance(adapt, dict) else {}, adapted=folder
        )

    @classmethod
    def _of_run(cls, run: RunDir) -> StartingModel:
        model = run.settings().get("model")
        if not isinstance(model, dict):
            raise RunError(f"{run.config} is no configuration of a run: it has no model")
        settings = {name: model[name] for name in _OF_A_RUN if name in model}
        if model.get("policy_adapter", {}) is None:  # trained whole: its last round is a model of its own
            rounds = sorted(run.path.glob("round_*/policy/config.json"), key=lambda p: int(p.parts[-3].split("_")[1]))
            if not rounds:
                raise RunError(f"{run.path} has no round_*/policy yet: its policy is not there")
            settings["pretrained"] = {**settings.get("pretrained", {}), "source": str(rounds[-1].parent.resolve())}
            settings.pop("policy_adapter")
            return cls(settings=settings, adapt={})
        return cls(settings=settings, adapt={}, run=run)

    def earlier_names(self) -> tuple[str, ...]:
        """The adaptations whose updates are in the weights, oldest first."""
        return () if self.adapted is None else (*self.adapted.record().earlier, self.adapted.name)

    def identity(self) -> dict[str, Any]:
        """What tells one start from another: how often a run was trained, what an adaptation weighs."""
        if self.run is not None:
            return {"run": str(self.run.path.resolve()), "rounds": len(merged_rounds(self.run))}
        if self.adapted is not None:
            weights = self.adapted.adapter / "adapter_model.safetensors"
            return {"adapted": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None}
        return {}

    def install(self, module: SealModule) -> list[LoraAdapter]:
        """Load the model and make it what it is to start from.

        Returns the LoRAs that are in its weights then beside what was pretrained, oldest first. Raises :class:`ModelError`
        and :class:`RunError`.
        """
        module.configure_model()
        if self.run is not None:
            module.loaded_policy.load_merged_states(merged_rounds(self.run))
            return list(module.loaded_policy.merged)
        if self.adapted is None:
            return []
        adapter = load_adapter(module.learner.model, self.adapted.adapter)
        adapter = adapter.detached_copy(module.learner.device)
        module.learner.merge(adapter)
        if not all(p.isfinite().all() for p in module.learner.model.parameters()):
            raise ModelError(
                f"{self.adapted.adapter}: merged into the weights it makes them infinite; nothing was computed"
            )
        return [adapter]


def _class_paths(value: Any) -> Iterator[str]:
    """Everything in plain settings that may name a class: the parser takes a bare name for one too."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            if name == "class_path":
                yield str(part)
            elif name != "target_modules":  # modules of a model, with dots too
                yield from _class_paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_paths(part)
    elif isinstance(value, str) and _DOTTED.fullmatch(value.strip()):
        yield value.strip()
