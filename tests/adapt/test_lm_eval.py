"""Side effects of an adaptation: paired scores, and the harness itself on the tiny model and on SmolLM2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapted_folders import write_adapted

from seal_lightning.adapt import lm_eval
from seal_lightning.adapt.exam import PROBE_FILE
from seal_lightning.adapt.lm_eval import paired_scores, side_effects
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.cli.commands.lm_eval import main
from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.estimates import Estimate
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, load_adapter

LOUD = AdapterSpec(rank=4, alpha=100.0, target_modules=("q_proj", "v_proj", "down_proj"))


def results(acc: list[float], perplexity: float = 2.0) -> dict[str, Any]:
    """Results as ``lm_eval.simple_evaluate`` returns them."""
    of_task = {
        "alias": "t",
        "acc,none": sum(acc) / len(acc),
        "acc_stderr,none": 0.125,
        "perplexity,none": perplexity,
        "perplexity_stderr,none": "N/A",
    }
    samples = [{"doc_id": i, "filter": "none", "acc": value, "perplexity": (1.0, 2)} for i, value in enumerate(acc)]
    return {"results": {"t": of_task}, "samples": {"t": samples}}


def test_paired_scores_pair_samples() -> None:
    acc, perplexity = paired_scores(results([1, 1, 0, 0]), results([1, 0, 0, 0], 3.5))
    assert (acc.before, acc.adapted.mean) == (Estimate(mean=0.5, standard_error=0.125, n=4), 0.25)
    assert acc.difference == Estimate(mean=-0.25, standard_error=0.25, n=4)  # of 0, -1, 0, 0
    assert perplexity.difference == Estimate(mean=1.5, standard_error=None, n=4)  # not a mean over samples
    assert perplexity.before.standard_error is None


def test_paired_scores_do_not_pair_other_samples() -> None:
    after = results([1, 0, 0, 0])
    after["samples"]["t"][3]["doc_id"] = 9
    assert next(paired_scores(results([1, 1, 0, 0]), after)).difference.standard_error is None
    after = results([1, 0, 0, 0])
    after["results"]["t"]["acc,none"] = 0.9  # a metric over all samples that is not their mean
    difference = next(paired_scores(results([1, 1, 0, 0]), after)).difference
    assert difference == Estimate(mean=0.4, standard_error=None, n=4)


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder)


@pytest.mark.slow
def test_side_effects_equal_plain_passes(tmp_path: Path, tiny_folder: Path, tiny: LanguageModel) -> None:
    """Accuracy from log-probabilities of the choices."""
    pytest.importorskip("lm_eval")
    folder = write_adapted(tmp_path / "loud", tiny_folder, spec=LOUD)
    scores = {score.metric: score for score in side_effects(folder)}
    assert scores.keys() == {"acc,none", "acc_norm,none"}
    rows = [json.loads(line) for line in PROBE_FILE.read_text().splitlines()]

    def accuracy() -> float:
        right = 0
        for row in rows:
            prompt = tiny.encode_text(f"Question: {row['question']}\nAnswer:")
            totals = []
            for choice in row["choices"]:
                target = tiny.encode_text(f" {choice}")
                with torch.no_grad():
                    logits = tiny.model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
                totals.append(float(logits.log_softmax(-1)[range(len(target)), target].sum()))
            right += totals.index(max(totals)) == row["answer"]
        return right / len(rows)

    acc = scores["acc,none"]
    assert acc.before.mean == pytest.approx(accuracy())
    with applied(tiny.model, load_adapter(tiny.model, folder.adapter)):
        assert acc.adapted.mean == pytest.approx(accuracy())
    assert acc.difference.n == 48
    assert acc.difference.mean != 0
    assert acc.difference.standard_error is not None
    assert {score.metric: score for score in side_effects(folder)} == scores


def test_command_writes_results_without_overwriting(folder: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval")
    assert main([str(folder.path), "--limit", "3", "--num_fewshot", "2"]) == 0
    assert "seal_general_knowledge" in capsys.readouterr().out
    assert main([str(folder.path), "--limit", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((folder.path / "lm_eval-2.json").read_text())
    assert (found["limit"], found["scores"][0]["difference"]["n"]) == (3, 3)
    assert json.loads((folder.path / "lm_eval.json").read_text())["num_fewshot"] == 2


def own_task(folder: Path, **changes: object) -> Path:
    """A user's own task, over a file of theirs."""
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


def test_side_effects_run_own_tasks(folder: AdaptedFolder, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    tasks = ("mine", "seal_general_knowledge")
    found = side_effects(folder, tasks, include_path=own_task(tmp_path / "tasks"), limit=4)
    assert {(score.task, score.metric) for score in found} == {
        ("mine", "acc,none"),
        ("seal_general_knowledge", "acc,none"),
        ("seal_general_knowledge", "acc_norm,none"),
    }


def test_side_effects_raise_what_a_task_raises(folder: AdaptedFolder, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    include = own_task(tmp_path / "tasks", doc_to_text="{{ 1 / left }}")
    with pytest.raises(RunError, match="ZeroDivisionError"):
        side_effects(folder, ("mine",), include_path=include)


def test_side_effects_need_the_extra(folder: AdaptedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'seal-lightning\[lm_eval\]'"):
        side_effects(folder)


def test_command_raises_for_invalid_numbers(folder: AdaptedFolder) -> None:
    for option, value in (("--limit", "0"), ("--num_fewshot", "-1"), ("--batch_size", "0")):
        with pytest.raises(ConfigError, match=f"{option}: {value} is not allowed"):
            main([str(folder.path), option, value])


@pytest.mark.slow
def test_side_effects_on_the_embedded_model(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    folder = write_adapted(tmp_path / "a", "embedded", spec=LOUD)
    acc = {score.metric: score for score in side_effects(folder)}["acc,none"]
    assert acc.before.mean > 0.6  # chance is 0.25
    assert acc.adapted.mean < acc.before.mean - 0.1  # an adapter of noise
    assert acc.difference.mean < -2 * (acc.difference.standard_error or 1)
