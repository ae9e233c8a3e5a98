"""Settings of ``seal adapt``, and the errors of its command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from adaptations import Case, contents

from seal_lightning.adapt.configuration import AdaptSpec, configured
from seal_lightning.cli.main import main
from seal_lightning.core.errors import ConfigError
from seal_lightning.evaluation import ContinualSelfEdits, ContinuedPretraining


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("adapt"))


def refused(case: Case, capsys: pytest.CaptureFixture[str], words: list[str]) -> str:
    """The error of a command that leaves everything as it was."""
    before = contents(case.folder)
    code = main(words)
    error = capsys.readouterr().err
    assert code == 1, error
    assert "Traceback" not in error
    assert contents(case.folder) == before
    return error


def test_configured_lets_options_win_over_recipes() -> None:
    small = configured({}, overrides=["--model.num_edits", "7", "--adapt.keep=2"])
    assert (small.module.num_edits, small.spec.keep) == (7, 2)
    assert isinstance(small.module.protocol, ContinuedPretraining)
    large = configured({"pretrained": {"source": "some/model"}})
    assert large.module.num_edits == 5
    assert large.settings["model"]["pretrained"]["source"] == "some/model"
    again = configured(large.settings["model"], adapt=large.settings["adapt"])
    assert again.settings == large.settings
    assert isinstance(configured({}, continual=True).module.protocol, ContinualSelfEdits)


def test_configured_accepts_a_configuration_of_fit(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    files = [str(root / "configs/quickstart.yaml")]
    assert configured({}, files).module.domain.style == "base"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("passage_tokens", 15),
        ("num_questions", 1),
        ("num_questions", 101),
        ("question_retries", -1),
        ("keep", -1),
        ("max_rank", 0),
        ("anchor_texts", 0),
        ("anchor_weight", -0.1),
        ("anchor_weight", float("inf")),
    ],
)
def test_adapt_spec_raises_out_of_bounds(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"adapt.{name}: {value} is not allowed"):
        AdaptSpec(**{name: value})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model": {"nonsense": 1}}, "nonsense"),
        ({"adapt": {"nonsense": 1}}, "nonsense"),
        ({"modell": {}}, "modell"),
        ({"model": {"student": {"source": "embedded"}}}, "model.student"),
        ({"model": {"inner_loop": {"class_path": "seal_lightning.inner_loop.FullFinetuning"}}}, "LoRA adapter"),
        ({"model": {"reward": {"class_path": "seal_lightning.scoring.rewards.OwnQuestionsReward"}}}, "model.reward"),
        ({"model": {"domain": {"class_path": "seal_lightning.domains.arc.ArcDomain"}}}, "KnowledgeDomain"),
    ],
)
def test_configured_raises_for_unusable_settings(
    case: Case, capsys: pytest.CaptureFixture[str], settings: dict[str, object], named: str
) -> None:
    path = case.folder / "bad.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert named in refused(case, capsys, case.words("out", "-c", str(path)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--out": ".."}, "--out"),
        ({"--out": "full"}, "holds other things"),
        ({"--policy": "https://example.org/model"}, "--policy"),
        ({"--policy": "no such"}, "--policy"),
        ({"--policy": "."}, "no config.yaml of a run"),
        ({"--questions": "missing.jsonl"}, "missing.jsonl"),
        ({"--device": "abacus"}, "--device"),
    ],
)
def test_command_raises_for_invalid_options(
    case: Case,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    named: str,
) -> None:
    monkeypatch.chdir(case.folder)
    (case.folder / "somewhere").mkdir(exist_ok=True)
    (case.folder / "full").mkdir(exist_ok=True)
    (case.folder / "full" / "letter.txt").write_text("Dear Ada")
    words = case.words("out")
    for option, value in change.items():
        value = "somewhere" if value == "." else value
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    assert named in refused(case, capsys, words)


def test_command_raises_for_material_without_passages(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    words = case.words("out")
    word = case.folder / "word.txt"
    word.write_text("Mill\n")
    assert "no document gives a passage" in refused(case, capsys, [words[0], str(word), *words[2:]])
    assert "missing.md" in refused(case, capsys, [words[0], str(case.folder / "missing.md"), *words[2:]])
    strange = case.folder / "strange.jsonl"
    strange.write_text(json.dumps({"question": "How far is the moon?", "answer": "384,400 km"}) + "\n")
    at = words.index("--questions") + 1
    assert "none of its 1 questions" in refused(case, capsys, [*words[:at], str(strange), *words[at + 1 :]])


def test_command_raises_when_the_model_writes_no_question(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    words = case.words("silent")
    at = words.index("--questions")
    assert main([*words[:at], *words[at + 2 :]]) == 1
    assert "--questions" in capsys.readouterr().err
    assert (case.folder / "silent" / "work" / "questions.jsonl").exists()


def test_command_raises_when_training_diverges(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    rate = "--model.protocol.init_args.optimizer.learning_rate=1e30"
    assert main(case.words("diverged", rate)) == 1
    error = capsys.readouterr().err
    assert "learning_rate" in error
    assert not (case.folder / "diverged" / "adapted.json").exists()


def test_command_learns_passages_alone_when_keep_is_0(case: Case) -> None:
    assert main(case.words("alone", "--adapt.keep", "0")) == 0
    record = json.loads((case.folder / "alone" / "adapted.json").read_text())
    assert record["num_edits"] == 0
    assert [row["condition"] for row in record["exams"][0]["scores"]] == ["before", "adapted"]


def test_adapted_folder_cannot_name_foreign_classes(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(case.words("theirs", "--adapt.keep", "0")) == 0
    path = case.folder / "theirs" / "adapted.json"
    whole = path.read_text()
    foreign: dict[str, object] = {"class_path": "os.system"}
    for part, name, value in [
        ("model", "domain", foreign),
        ("model", "domain", "os.system"),
        ("model", "protocol", "os.system"),
        ("adapt", "question_sampling", foreign),
    ]:
        record = json.loads(whole)
        record["settings"][part][name] = value
        path.write_text(json.dumps(record))
        assert "os.system" in refused(case, capsys, case.words("out", policy=str(path.parent)))
    record = json.loads(whole)
    record["settings"]["model"]["engine"] = {"class_path": "elsewhere.Engine"}
    record["base"]["trust_remote_code"] = True
    path.write_text(json.dumps(record))
    assert main(case.words("fine", "--adapt.keep", "0", policy=str(path.parent))) == 0
    made = json.loads((case.folder / "fine" / "adapted.json").read_text())
    assert made["base"]["trust_remote_code"] is False


def test_command_raises_for_a_locked_folder(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    from seal_lightning.storage.run_dir import RunLock

    lock = RunLock(case.folder / "locked")
    lock.acquire()
    try:
        assert main(case.words("locked")) == 1
        assert "another process" in capsys.readouterr().err
    finally:
        lock.release()


def test_command_raises_for_a_folder_with_other_files(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    project = case.folder / "project"
    (project / "work").mkdir(parents=True)
    (project / "adapter").mkdir()
    (project / "adapter" / "mine.txt").write_text("mine")
    assert "holds other things" in refused(case, capsys, case.words("project"))


def test_documents_are_read_without_adapted_folders(case: Case) -> None:
    notes = case.folder / "notes"
    notes.mkdir()
    (notes / "mill.md").write_text(case.document.read_text())
    words = ["adapt", str(notes), *case.words("notes/out", "--adapt.keep", "0")[2:]]
    assert main(words) == 0
    assert main(words) == 0
    beside = [word.replace("notes/out", "notes/other") for word in words]
    assert main(beside) == 0
    record = json.loads((notes / "other" / "adapted.json").read_text())
    assert len(record["documents"]) == 1


def test_policy_wins_over_the_model_of_a_file(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    other = case.folder / "other.yaml"
    other.write_text(yaml.safe_dump({"model": {"pretrained": {"source": "some/other"}}}))
    assert main(case.words("named", "--adapt.keep", "0", "-c", str(other))) == 0
    record = json.loads((case.folder / "named" / "adapted.json").read_text())
    assert record["base"]["source"] == str(case.model.resolve())
    assert "--policy" in refused(case, capsys, case.words("x", "--model.pretrained.source=some/other"))


def test_recipe_follows_the_model_of_overrides() -> None:
    chosen = configured({}, overrides=["--model.pretrained.source", "some/other"])
    assert chosen.module.num_edits == 5


def test_exams_of_folders_with_one_name_stay_separate(case: Case) -> None:
    policy = None
    for place in ("one", "two", "three"):
        (case.folder / place).mkdir()
        assert main(case.words(f"{place}/docs", "--adapt.keep", "0", policy=policy)) == 0
        policy = str(case.folder / place / "docs")
    record = json.loads((case.folder / "three" / "docs" / "adapted.json").read_text())
    names = [exam["name"] for exam in record["exams"]]
    assert names == ["these documents", "earlier documents (docs 2)", "earlier documents (docs)", "probe"]


def test_command_raises_for_a_damaged_journal(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(case.words("torn", "--adapt.keep", "0")) == 0
    folder = case.folder / "torn"
    (folder / "adapted.json").unlink()
    journal = folder / "work" / "seconds.jsonl"  # of several lines: a torn last one is cut off and made again
    journal.write_bytes(journal.read_bytes().replace(b"phase", b"phrase", 1))
    assert "another --out" in refused(case, capsys, case.words("torn", "--adapt.keep", "0"))
