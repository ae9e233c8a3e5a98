"""Every shipped YAML is what it says: it parses, instantiates, and its twin in the package's defaults agrees."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from seal_lightning.cli import main
from seal_lightning.datamodule import SealDataModule
from seal_lightning.module import SealModule

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
BASES = {
    "knowledge/smollm2.yaml": "quickstart.yaml",
    "knowledge/qwen2.5-7b.yaml": "knowledge/paper.yaml",
    "knowledge/llama-3.2-1b-instruct.yaml": "knowledge/paper.yaml",
    "arc/llama-3.2-1b.yaml": "arc/paper.yaml",
}
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


def merged(*names: str) -> dict[str, Any]:
    def merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
        both = {k: merge(low[k], high[k]) for k in high if isinstance(high[k], dict) and isinstance(low.get(k), dict)}
        return low | high | both

    settings: dict[str, Any] = {}
    for name in names:
        settings = merge(settings, yaml.safe_load((CONFIGS / name).read_text()))
    return settings


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("trainer/")])
def test_instantiates(name: str) -> None:
    settings = merged(*([BASES[name]] if name in BASES else []), name)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(SealModule, "model")
    parser.add_lightning_class_args(SealDataModule, "data")
    parts = parser.instantiate_classes(parser.parse_object({k: settings[k] for k in ("model", "data")}))
    assert isinstance(parts["model"], SealModule)
    assert isinstance(parts["data"], SealDataModule)


@pytest.mark.parametrize("name", NAMES)
def test_parses_through_the_command_line(name: str, capsys: pytest.CaptureFixture) -> None:
    """All of them, the trainer's too, as `seal fit` reads them."""
    base = BASES.get(name, "knowledge/paper.yaml" if name.startswith("trainer/") else None)
    files = [str(CONFIGS / n) for n in (base, name) if n]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *[part for file in files for part in ("-c", file)], "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, value in yaml.safe_load((CONFIGS / name).read_text()).get("trainer", {}).items():
        assert printed["trainer"][key] == value or key == "callbacks"


def test_the_paper_config_is_the_modules_default() -> None:
    """What `configs/knowledge/paper.yaml` says and what the code's defaults say are one thing."""
    paper = merged("knowledge/paper.yaml")["model"]
    module = SealModule(domain=None)  # type: ignore[arg-type]
    for name in ("rounds", "num_edits", "num_repeats"):
        assert paper[name] == getattr(module, name)
    for name in ("sampling", "reinforce", "policy_adapter"):
        for key, value in paper[name].items():
            default = getattr(getattr(module, name), key)
            assert (list(default) if isinstance(default, tuple) else default) == value
