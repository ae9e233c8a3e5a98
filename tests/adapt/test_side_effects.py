"""What an adaptation costs elsewhere: paired scores, and the harness itself on the tiny model and on SmolLM2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapted_folders import write_adapted

from seal_lightning.adapt import harness
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.adapt.harness import HarnessOptions, measure
from seal_lightning.adapt.probe import probe_questions
from seal_lightning.adapt.side_effects import paired_scores, table_lines
from seal_lightning.cli.commands.lm_eval import main
from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ConfigError, ModelError, RunError
from seal_lightning.core.estimates import Estimate
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, load_adapter

ROOT = Path(__file__).resolve().parents[2]
LOUD = AdapterSpec(rank=4, alpha=100.0, target_modules=("q_proj", "v_proj", "down_proj"))


def results(acc: list[float], perplexity: float = 2.0) -> dict[str, Any]:
    """As ``lm_eval.evaluate`` returns them."""
    of_task = {
        "alias": "t",
        "acc,none": sum(acc) / len(acc),
        "acc_stderr,none": 0.125,
        "perplexity,none": perplexity,
        "perplexity_stderr,none": "N/A",
    }
    samples = [{"doc_id": i, "filter": "none", "acc": value, "perplexity": (1.0, 2)} for i, value in enumerate(acc)]
    better = {"t": {"acc": True, "perplexity": False}}
    return {"results": {"t": of_task}, "samples": {"t": samples}, "higher_is_better": better}


def test_differences_are_paired() -> None:
    acc, perplexity = paired_scores(results([1, 1, 0, 0]), results([1, 0, 0, 0], 3.5))
    assert (acc.metric, acc.before, acc.adapted.mean) == ("acc", Estimate(mean=0.5, standard_error=0.125, n=4), 0.25)
    assert acc.difference == Estimate(mean=-0.25, standard_error=0.25, n=4)  # of 0, -1, 0, 0
    assert perplexity.difference == Estimate(mean=1.5, standard_error=None, n=4)  # no mean over samples
    assert perplexity.before.standard_error is None
    lines = list(table_lines((acc, perplexity)))
    assert lines[1].split("  ")[0] == "t"
    assert "-0.250 ± 0.250" in lines[1]
    assert "(lower is better)" in lines[2]


def test_other_samples_are_not_paired() -> None:
    after = results([1, 0, 0, 0])
    after["samples"]["t"][3]["doc_id"] = 9
    assert paired_scores(results([1, 1, 0, 0]), after)[0].difference.standard_error is None
    after = results([1, 0, 0, 0])
    after["results"]["t"]["acc,none"] = 0.9  # a metric of all samples that is not their mean
    assert paired_scores(results([1, 1, 0, 0]), after)[0].difference == Estimate(mean=0.4, standard_error=None, n=4)


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder)


@pytest.mark.slow
def test_the_harness_asks_what_we_would(tmp_path: Path, tiny_folder: Path, tiny: LanguageModel) -> None:
    """Accuracy from log-probabilities of the choices, computed here by plain passes."""
    pytest.importorskip("lm_eval")
    folder = write_adapted(tmp_path / "loud", tiny_folder, spec=LOUD)
    found = measure(folder, HarnessOptions())
    scores = {score.metric: score for score in found.scores}
    assert scores.keys() == {"acc", "acc_norm"}

    def accuracy() -> float:
        right = 0
        for each in probe_questions():
            prompt = tiny.encode_text(f"Question: {each.question}\nAnswer:")
            totals = []
            for choice in each.choices:
                target = tiny.encode_text(f" {choice}")
                with torch.no_grad():
                    logits = tiny.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
                totals.append(float(logits.log_softmax(-1)[range(len(target)), target].sum()))
            right += totals.index(max(totals)) == each.answer
        return right / len(probe_questions())

    assert scores["acc"].before.mean == pytest.approx(accuracy())
    with applied(tiny.model, load_adapter(tiny.model, folder.adapter)):
        assert scores["acc"].adapted.mean == pytest.approx(accuracy())
    assert scores["acc"].difference.n == 48
    assert scores["acc"].difference.mean != 0
    assert scores["acc"].difference.standard_error is not None
    assert measure(folder, HarnessOptions()).scores == found.scores


def test_the_command(folder: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    assert main([str(folder.path), "--limit", "3", "--num_fewshot", "2"]) == 0
    assert "seal_general_knowledge  acc " in capsys.readouterr().out
    assert main([str(folder.path), "--limit", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((folder.path / "lm_eval-2.json").read_text())
    assert (told["limit"], told["scores"][0]["difference"]["n"]) == (3, 3)
    assert json.loads((folder.path / "lm_eval.json").read_text())["num_fewshot"] == 2


@pytest.mark.slow
def test_nothing_is_written_elsewhere(folder: AdaptedFolder, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    scratch.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    told = subprocess.run(
        [sys.executable, "-m", "seal_lightning", "lm_eval", str(folder.path), "--limit", "2"],
        env={**environment, "HOME": str(home), "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert told.returncode == 0, told.stderr
    assert "seal_general_knowledge" in told.stdout
    assert told.stderr == ""
    assert not home.exists()
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "scratch"]


def own_task(folder: Path, **changes: object) -> Path:
    """A task of a user's own, over a file of theirs."""
    folder.mkdir()
    row = {"q": "Stone 3 is", "choices": ["red", "blue"], "a": 1}
    (folder / "data.jsonl").write_text("".join(json.dumps({**row, "left": 3 - i}) + "\n" for i in range(4)))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "a",
        "metric_list": [{"metric": "acc"}],
        **changes,
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(task))
    return folder


def test_a_task_of_one_s_own(folder: AdaptedFolder, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    options = HarnessOptions(
        tasks=("mine", "seal_general_knowledge"), include_path=own_task(tmp_path / "tasks"), limit=4
    )
    assert {(score.task, score.metric) for score in measure(folder, options).scores} == {
        ("mine", "acc"),
        ("seal_general_knowledge", "acc"),
        ("seal_general_knowledge", "acc_norm"),
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dataset_kwargs": {"data_files": {"test": "/nowhere.jsonl"}}}, "cannot be loaded: FileNotFoundError"),
        ({"test_split": "other"}, "'mine'"),
        ({"doc_to_text": "{{ 1 / left }}"}, "ended with ZeroDivisionError"),
    ],
)
def test_a_task_that_fails(folder: AdaptedFolder, tmp_path: Path, changes: dict[str, object], said: str) -> None:
    pytest.importorskip("lm_eval")
    options = HarnessOptions(tasks=("mine",), include_path=own_task(tmp_path / "tasks", **changes))
    with pytest.raises(RunError, match=said) as raised:
        measure(folder, options)
    assert "Nothing was written" in str(raised.value)


@pytest.mark.slow
def test_a_task_that_is_not_there(folder: AdaptedFolder) -> None:
    pytest.importorskip("lm_eval")
    with pytest.raises(ConfigError, match=r"'arc_esay' is not there. Near: arc_easy"):
        measure(folder, HarnessOptions(tasks=("arc_esay",)))


def test_without_the_extra(folder: AdaptedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'seal-lightning\[lm_eval\]'"):
        measure(folder, HarnessOptions())


def test_bad_settings_and_a_damaged_adapter(folder: AdaptedFolder, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    for wrong in (
        {"limit": 0},
        {"num_fewshot": -1},
        {"batch_size": 0},
        {"tasks": ()},
        {"include_path": tmp_path / "no"},
    ):
        with pytest.raises(ConfigError, match="is not allowed; it must be"):
            HarnessOptions(**wrong)  # type: ignore[arg-type]
    (folder.adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="is not loaded"):
        measure(folder, HarnessOptions())
    assert not list(folder.path.glob("lm_eval*"))


@pytest.mark.slow
def test_the_embedded_model_knows_most_of_it(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    folder = write_adapted(tmp_path / "a", "embedded", spec=LOUD)
    scores = {score.metric: score for score in measure(folder, HarnessOptions()).scores}
    assert scores["acc"].before.mean > 0.6  # chance is 0.25
    assert scores["acc"].adapted.mean < scores["acc"].before.mean - 0.1  # an adapter of noise
    assert scores["acc"].difference.mean < -2 * (scores["acc"].difference.standard_error or 1)
