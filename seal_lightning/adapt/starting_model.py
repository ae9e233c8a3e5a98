"""Starting model of an adaptation: a pretrained one, a run's policy, or the result of an earlier adaptation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seal_lightning.adapt.record import AdaptedFolder, is_hub_id
from seal_lightning.core.errors import ConfigError, ModelError, RunError, shown
from seal_lightning.core.names import is_url
from seal_lightning.models.lora import LoraAdapter, load_adapter
from seal_lightning.storage.checkpoint_io import merged_rounds
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.module import SealModule

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
"""Settings of a run's model that an adaptation takes over; rewards, filters and tests are the run's own."""
_OF_AN_ADAPTATION = ("domain", "sampling", "edit_retries", "num_edits", "num_repeats", "protocol", "seed")
_PACKAGE = "seal_lightning."
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


@dataclass(frozen=True, kw_only=True)
class StartingModel:
    """The model that an adaptation starts from."""

    settings: Mapping[str, Any]
    """Known settings of the ``model`` part of the configuration."""
    adapt: Mapping[str, Any] = field(default_factory=dict)
    """Known settings of the ``adapt`` part."""
    run: RunDir | None = None
    adapted: AdaptedFolder | None = None

    @classmethod
    def named(cls, policy: str | None) -> StartingModel:
        """Return the model that ``--policy`` names; None leaves the choice to the configuration.

        Raises :class:`ConfigError` for a name of the wrong form, :class:`RunError` for a folder without a model.
        """
        if policy is None:
            return cls(settings={})
        path = Path(policy)
        if not path.is_dir():
            if is_url(policy) or path.exists() or not is_hub_id(policy):
                raise ConfigError(
                    f"--policy: {shown(policy)} is not allowed; it must be a run directory, a folder of `seal adapt`, a "
                    "folder written by save_pretrained, or a hub id"
                )
            return cls(settings={"pretrained": {"source": policy}})  # "embedded" too
        if (path / "adapted.json").exists():
            return cls._of_adapted(AdaptedFolder.named(path, "--policy"))
        if (path / "config.yaml").exists():
            return cls._of_run(RunDir.named(path, "--policy"))
        if (path / "config.json").is_file():
            return cls(settings={"pretrained": {"source": str(path.resolve())}})
        raise RunError(
            f"--policy: {shown(policy)} has no config.yaml of a run, no adapted.json of a finished adaptation and no "
            "config.json of a model"
        )

    @classmethod
    def _of_adapted(cls, folder: AdaptedFolder) -> StartingModel:
        # Such a folder may come from a stranger: its settings may select classes of this package and no others.
        record = folder.record()
        model, adapt = record.settings.get("model"), record.settings.get("adapt")
        settings = {name: model[name] for name in _OF_AN_ADAPTATION if name in model} if isinstance(model, dict) else {}
        if strange := next((path for path in _class_paths([settings, adapt]) if not path.startswith(_PACKAGE)), None):
            raise ConfigError(
                f"--policy: {shown(str(folder.path))} names the class {shown(strange)}, which is not of this package, so it "
                "is not loaded. If you trust it, name it in your own configuration (-c) and remove it from adapted.json"
            )
        base = {"source": record.base.source, "revision": record.base.revision, "dtype": record.base.dtype}
        return cls(
            settings={**settings, "pretrained": base}, adapt=adapt if isinstance(adapt, dict) else {}, adapted=folder
        )

    @classmethod
    def _of_run(cls, run: RunDir) -> StartingModel:
        model = run.settings().get("model")
        if not isinstance(model, dict):
            raise RunError(f"{run.config} is not a run configuration: key 'model' is missing")
        settings = {name: model[name] for name in _OF_A_RUN if name in model}
        if model.get("policy_adapter", {}) is not None:
            return cls(settings=settings, run=run)
        # A policy that was trained whole is, after its last round, a pretrained model of its own.
        rounds = sorted(run.path.glob("round_*/policy/config.json"), key=lambda p: int(p.parts[-3].split("_")[1]))
        if not rounds:
            raise RunError(f"{run.path} has no round_*/policy yet; finish a round of `seal fit` first")
        settings["pretrained"] = {**settings.get("pretrained", {}), "source": str(rounds[-1].parent.resolve())}
        settings.pop("policy_adapter")
        return cls(settings=settings)

    def earlier_names(self) -> tuple[str, ...]:
        """Return the adaptations whose updates are in the weights, oldest first."""
        return () if self.adapted is None else (*self.adapted.record().earlier, self.adapted.name)

    def identity(self) -> dict[str, Any]:
        """Return what identifies the model: a run's path and number of rounds, or the hash of an adaptation's weights."""
        if self.run is not None:
            return {"run": str(self.run.path.resolve()), "rounds": len(merged_rounds(self.run))}
        if self.adapted is not None:
            weights = self.adapted.adapter / "adapter_model.safetensors"
            return {"adapted": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None}
        return {}

    def install(self, module: SealModule) -> list[LoraAdapter]:
        """Load the model into the module, with its earlier updates merged.

        Returns these updates, oldest first. Raises :class:`ModelError` and :class:`RunError`.
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
            raise ModelError(f"{self.adapted.adapter}: merging it makes weights that are not finite")
        return [adapter]


def _class_paths(value: Any) -> Iterator[str]:
    """Yield everything in plain settings that may name a class: the parser accepts a bare dotted name too."""
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
