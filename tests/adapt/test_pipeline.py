"""``seal adapt`` on a tiny model: what comes out, what a resume keeps, what a second adaptation adds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from adaptations import Case, contents
from safetensors.torch import load_file

from seal_lightning.adapt.exam import StoredExam
from seal_lightning.adapt.pipeline import EditRecord
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.cli.main import main
from seal_lightning.core import ScoreRequest
from seal_lightning.generation import TransformersEngine
from seal_lightning.models.lora import load_adapter
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.storage.journal import Journal, RecordFile


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("adapt"))


@pytest.fixture(scope="module")
def first(case: Case) -> AdaptedFolder:
    assert main(case.words("first")) == 0
    return AdaptedFolder(case.folder / "first")


def weights(folder: AdaptedFolder) -> dict[str, torch.Tensor]:
    return load_file(folder.adapter / "adapter_model.safetensors")


def update(folder: AdaptedFolder) -> dict[str, torch.Tensor]:
    """Each module's update, scaling · B A."""
    config = json.loads((folder.adapter / "adapter_config.json").read_text())
    found = weights(folder)
    names = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    scaling = config["lora_alpha"] / config["r"]
    return {n: scaling * found[f"{n}.lora_B.weight"].double() @ found[f"{n}.lora_A.weight"].double() for n in names}


def test_pipeline_writes_the_whole_folder_only(case: Case, first: AdaptedFolder) -> None:
    outside = {name: digest for name, digest in contents(case.folder).items() if not name.startswith("first/")}
    assert {Path(name).parts[0] for name in outside} == {"tiny", "mill.md", "questions.jsonl", "settings.yaml"}
    record = first.record()
    assert [exam.name for exam in record.exams] == ["these documents", "probe"]
    of_these, probe = record.exams
    assert [row.condition for row in of_these.scores] == ["before", "passages only", "adapted"]
    assert of_these.by == "the user"
    assert of_these.num_questions == 3
    assert probe.num_questions == 48
    for row in of_these.scores:
        assert row.log_prob is not None
        assert row.log_prob.standard_error is not None
        assert row.accuracy is not None
    assert record.num_edits == 2 * record.num_passages
    assert record.documents[0].kind == "markdown"
    assert record.base.source == str(case.model.resolve())
    edits = RecordFile(first.edits, EditRecord).read()
    assert len(edits) == record.num_edits
    assert sum(edit.kept for edit in edits) == record.num_kept
    card = (first.adapter / "README.md").read_text()
    assert record.documents[0].sha256 in card
    assert "probe" in card


def test_kept_edits_beat_the_passage_alone(first: AdaptedFolder) -> None:
    for edit in RecordFile(first.edits, EditRecord).read():
        if edit.kept:
            assert edit.reward is not None
            assert edit.reward_of_passage_alone is not None
            assert edit.reward > edit.reward_of_passage_alone


def test_exam_shares_no_question_with_selection(case: Case, first: AdaptedFolder) -> None:
    stored = RecordFile(first.exam, StoredExam).read()
    examined = {q.question for one in stored for q in one.passage.questions}
    given = {json.loads(line)["question"] for line in case.questions.read_text().splitlines()}
    assert examined < given
    assert len(examined) == 3


def check_exam(folder: AdaptedFolder) -> None:
    """Compute the adapted log-probability again, from the folder alone with the pretrained base."""
    record = folder.record()
    language_model = Pretrained(source=record.base.source, dtype="float64").load()
    adapter = load_adapter(language_model.model, folder.adapter)
    engine = TransformersEngine()
    engine.bind(language_model)
    found = []
    for one in RecordFile(folder.exam, StoredExam).read():
        if one.exam == "these documents":
            requests = [
                ScoreRequest(
                    prompt=f"Topic: {one.passage.title}\nQuestion: {q.question}\nAnswer:",
                    target=f" {q.answers[0]}",
                    adapter=adapter,
                )
                for q in one.passage.questions
            ]
            means = [sum(score) / len(score) for score in engine.score(requests)]
            found.append(sum(means) / len(means))
    adapted = record.exams[0].scores[-1].log_prob
    assert adapted is not None
    assert sum(found) / len(found) == pytest.approx(adapted.mean, abs=1e-5)


def test_exam_scores_equal_those_of_the_loaded_folder(first: AdaptedFolder) -> None:
    check_exam(first)


def test_finished_folder_is_not_changed(case: Case, first: AdaptedFolder, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(first.path)
    assert main(case.words("first")) == 0
    assert "finished" in capsys.readouterr().out
    assert main(case.words("first", "--model.num_edits", "3")) == 1
    assert "model.num_edits" in capsys.readouterr().err
    case.document.write_text(case.document.read_text() + "\nIt is red.\n")
    try:
        assert main(case.words("first")) == 1
        assert "documents" in capsys.readouterr().err
    finally:
        case.document.write_text(case.document.read_text().removesuffix("\nIt is red.\n"))
    assert contents(first.path) == before


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--continual",)])
def test_interrupted_adaptation_resumes_to_the_same_bits(
    case: Case, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cut short at every record that it stores, again and again, it ends as if it had not been."""
    name = "continual" if options else "together"
    assert main(case.words(f"{name}-whole", *options)) == 0
    whole = AdaptedFolder(case.folder / f"{name}-whole")
    append = Journal.append
    left = [0]

    def cut(self: Journal[object], record: object) -> object:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        return append(self, record)

    monkeypatch.setattr(Journal, "append", cut)
    again = AdaptedFolder(case.folder / f"{name}-cut")
    num_cuts = 0
    while not again.is_finished:
        left[0] = 4
        code = main(case.words(again.name, *options))
        assert code in (0, 130)
        num_cuts += code == 130
        assert num_cuts < 50
    assert num_cuts >= 3
    assert again.record().exams == whole.record().exams
    assert contents(again.adapter).keys() == contents(whole.adapter).keys()
    for key, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(again)[key])


def test_continual_adapter_has_a_rank_per_passage(case: Case) -> None:
    assert main(case.words("steps", "--continual")) == 0
    folder = AdaptedFolder(case.folder / "steps")
    record = folder.record()
    config = json.loads((folder.adapter / "adapter_config.json").read_text())
    assert config["r"] == 2 * record.num_passages
    assert record.num_passages > 1
    assert [row.condition for row in record.exams[0].scores] == ["before", "passages only", "adapted"]


def test_second_adaptation_repeats_the_first_exam(case: Case, first: AdaptedFolder) -> None:
    before = contents(first.path)
    other = case.folder / "kiln.md"
    other.write_text(
        "# The kiln\n\nThe kiln was built by Ada Lindqvist in 1831. It burned seaweed into soda for glass.\n"
    )
    questions = case.folder / "kiln.jsonl"
    rows = [("Who built the kiln?", "Ada Lindqvist"), ("When was the kiln built?", "1831")]
    questions.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows))
    out = case.folder / "second"
    words = ["adapt", str(other), "--out", str(out), "--policy", str(first.path), "--questions", str(questions)]
    assert main(words) == 0
    second = AdaptedFolder(out)
    record = second.record()
    assert [exam.name for exam in record.exams] == ["these documents", "earlier documents (first)", "probe"]
    assert record.earlier == ("first",)
    assert record.base == first.record().base
    of_first = first.record().exams[0].scores[-1].log_prob
    now = record.exams[1].scores[0].log_prob
    assert of_first is not None
    assert now is not None
    assert now.mean == pytest.approx(of_first.mean, abs=1e-6)
    (step,) = sorted((second.work / "updates").iterdir())[:1]
    new = AdaptedFolder(step.parent)
    assert new.path.name == "updates"
    earlier, both = update(first), update(second)
    fresh_config = json.loads((step / "adapter_config.json").read_text())
    fresh = load_file(step / "adapter_model.safetensors")
    for module, delta in both.items():
        scaling = fresh_config["lora_alpha"] / fresh_config["r"]
        own = scaling * fresh[f"{module}.lora_B.weight"].double() @ fresh[f"{module}.lora_A.weight"].double()
        assert torch.allclose(delta, earlier[module] + own, atol=1e-6)
    assert contents(first.path) == before


def test_truncated_adapter_is_the_one_examined(case: Case, first: AdaptedFolder) -> None:
    assert main(case.words("cut", "--adapt.max_rank", "3", policy=str(first.path))) == 0
    folder = AdaptedFolder(case.folder / "cut")
    assert json.loads((folder.adapter / "adapter_config.json").read_text())["r"] == 3
    check_exam(folder)


@pytest.mark.slow
def test_adaptation_starts_from_a_runs_policy(case: Case, tmp_path: Path) -> None:
    data = [
        {
            "title": "Stones",
            "context": "Stone 3 is grey and lies in the river.",
            "questions": [{"question": "What colour is stone 3?", "answer": "grey"}],
        }
    ]
    passages = tmp_path / "passages.json"
    passages.write_text(json.dumps(data))
    source = {"class_path": "seal_lightning.domains.knowledge.PassagesJson", "init_args": {"path": str(passages)}}
    settings = yaml.safe_load(case.settings.read_text())["model"]
    settings["domain"]["class_path"] = "seal_lightning.domains.knowledge.KnowledgeDomain"
    settings.pop("protocol")
    settings |= {
        "pretrained": {"source": str(case.model), "dtype": "float64"},
        "rounds": 1,
        "num_repeats": 1,
        "policy_adapter": {"rank": 2, "alpha": 8},
        "reinforce": {"learning_rate": 0.01, "num_epochs": 1, "batch_size": 2},
    }
    config = {
        "run_dir": str(tmp_path / "run"),
        "trainer": {
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": [{"class_path": "seal_lightning.callbacks.BestOfK"}],
        },
        "model": settings,
        "data": {"train": source},
    }
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main(["fit", "-c", str(path)]) == 0
    assert main(case.words("of-a-run", policy=str(tmp_path / "run"))) == 0
    folder = AdaptedFolder(case.folder / "of-a-run")
    policy = AdaptedFolder(tmp_path / "run" / "round_0")
    trained = load_file(policy.path / "policy" / "adapter_model.safetensors")
    assert any(tensor.abs().sum() > 0 for tensor in trained.values())
    assert json.loads((folder.adapter / "adapter_config.json").read_text())["r"] == 2 + 2


def test_dry_run_writes_nothing(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(case.folder)
    assert main(case.words("dry", "--dry-run")) == 0
    assert "tokens trained on" in capsys.readouterr().out
    assert contents(case.folder) == before
    assert not (case.folder / "dry").exists()


@pytest.mark.slow
def test_ctrl_c_stops_and_the_command_resumes(case: Case) -> None:
    command = [sys.executable, "-m", "seal_lightning", *case.words("stopped", "--model.num_edits", "8")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    journal = case.folder / "stopped" / "work" / "edits.jsonl"
    while not journal.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    if process.returncode != 0:  # it was faster
        assert process.returncode == 130, error
        assert "kept" in error
        assert "Traceback" not in error
    assert main(case.words("stopped", "--model.num_edits", "8")) == 0
