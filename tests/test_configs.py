"""Every shipped YAML is what it says: it parses, instantiates, and its twin in the package's defaults agrees."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from seal_lightning.cli.main import main
from seal_lightning.training.data_module import SealDataModule
from seal_lightning.training.module import SealModule

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
BASES = {
    "knowledge/smollm2": "quickstart.yaml",
    "knowledge/": "knowledge/paper.yaml",
    "arc/llama-3.2-1b.yaml": "arc/paper.yaml",
    "trainer/": "knowledge/paper.yaml",
    "engine/": "knowledge/paper.yaml",
}
"""What a small delta goes on top of, by how its name starts."""
WHOLE = ("knowledge/paper.yaml",)
NAMES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))


def merged(*names: str) -> dict[str, Any]:
    def merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
        both = {k: merge(low[k], high[k]) for k in high if isinstance(high[k], dict) and isinstance(low.get(k), dict)}
        return low | high | both

    settings: dict[str, Any] = {}
    for name in names:
        settings = merge(settings, yaml.safe_load((CONFIGS / name).read_text()))
    return settings


def base_of(name: str) -> list[str]:
    found = [base for start, base in BASES.items() if name.startswith(start) and name not in WHOLE]
    return found[:1]


@pytest.mark.parametrize("name", NAMES)
def test_instantiates(name: str) -> None:
    settings = merged(*base_of(name), name)
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(SealModule, "model")
    parser.add_lightning_class_args(SealDataModule, "data")
    parts = parser.instantiate_classes(parser.parse_object({k: settings[k] for k in ("model", "data")}))
    assert isinstance(parts["model"], SealModule)
    assert isinstance(parts["data"], SealDataModule)


@pytest.mark.parametrize("name", NAMES)
def test_parses_through_the_command_line(name: str, capsys: pytest.CaptureFixture) -> None:
    """All of them, the trainer's too, as `seal fit` reads them."""
    files = [str(CONFIGS / n) for n in (*base_of(name), name)]
    with pytest.raises(SystemExit) as ended:
        main(["fit", *[part for file in files for part in ("-c", file)], "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    for key, value in yaml.safe_load((CONFIGS / name).read_text()).get("trainer", {}).items():
        assert holds(printed["trainer"][key], value) or key == "callbacks"


def holds(printed: Any, named: Any) -> bool:
    """Whether what a file names is what is printed, where other settings may stand beside it."""
    if isinstance(named, dict) and isinstance(printed, dict):
        return all(key in printed and holds(printed[key], value) for key, value in named.items())
    return bool(printed == named)


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


def printed(capsys: pytest.CaptureFixture, *names: str, options: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that these files come to, as the command line merges them."""
    with pytest.raises(SystemExit):
        main(["test", *[part for name in names for part in ("-c", str(CONFIGS / name))], *options, "--print_config"])
    settings: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return settings


def test_rows_of_the_paper_go_together(capsys: pytest.CaptureFixture) -> None:
    """Model, format, protocol and writer, each a file: the last rows of the paper's tables."""
    found = printed(
        capsys,
        "knowledge/paper.yaml",
        "knowledge/qwen2.5-3b.yaml",
        "knowledge/formats/rewrites.yaml",
        "knowledge/protocols/cpt-n2067-full.yaml",
        "knowledge/writers/entigraph-pairs-and-triples.yaml",
        options=["--model.test_adapters", '{"name": "PEFT_FOLDER"}'],
    )
    assert found["model"]["test_adapters"] == {"name": "PEFT_FOLDER"}
    model, domain = found["model"], found["model"]["domain"]["init_args"]
    assert model["pretrained"]["source"] == "Qwen/Qwen2.5-3B"
    assert domain["format"]["class_path"].endswith("Rewrites")
    assert domain["format"]["init_args"]["one_sequence"] is True
    assert model["protocol"]["init_args"]["num_tasks"] == 2067
    assert model["protocol"]["init_args"]["optimizer"]["warmup_ratio"] == 0.03
    assert model["inner_loop"]["class_path"].endswith("FullFinetuning")
    assert model["test_writers"]["entigraph-pairs-and-triples"]["init_args"]["relations"] == "pairs_and_triples"
    test = found["data"]["test"]["init_args"]
    assert (test["limit"], test["num_questions"], test["split"]) == (None, 500, "validation")


def test_the_full_protocols_differ_in_n_only() -> None:
    small, large = (merged(f"knowledge/protocols/cpt-n{n}-full.yaml") for n in (200, 2067))
    small["model"]["protocol"]["init_args"]["num_tasks"] = 2067
    small["data"]["test"]["init_args"]["limit"] = None
    assert small == large
    lora, full = (merged(f"knowledge/smollm2-cpt-{kind}.yaml") for kind in ("lora", "full"))
    del full["model"]["inner_loop"]
    for settings in (lora, full):
        for name in ("learning_rate", "num_epochs"):
            del settings["model"]["protocol"]["init_args"]["optimizer"][name]
    assert lora == full


def test_the_hardware_s_file_leaves_the_inner_loop_alone(capsys: pytest.CaptureFixture) -> None:
    """Full finetuning stays full finetuning, whichever file comes last."""
    protocol, gpu = "knowledge/protocols/cpt-n200-full.yaml", "trainer/gpu.yaml"
    for files in ((protocol, gpu), (gpu, protocol)):
        found = printed(capsys, "knowledge/paper.yaml", *files)
        assert found["model"]["inner_loop"]["class_path"].endswith("FullFinetuning")
