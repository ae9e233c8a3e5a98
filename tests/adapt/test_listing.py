"""What is said of adapters on a disk, and how they are set side by side."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from adapted_folders import adapted_record, write_adapted
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.adapt.adapters import comparison_lines, differing, side_by_side
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.adapt.adapters import lines_of, listed
from seal_lightning.adapt.record import questions_sha256
from seal_lightning.core.errors import ConfigError, RunError


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder, earlier=("first",))


def test_an_adapted_folder(folder: AdaptedFolder, tiny_folder: Path) -> None:
    found = listed(folder.path)
    assert (found.name, found.base, found.rank, found.num_modules) == ("a", str(tiny_folder), 4, 6)
    assert found.num_bytes == sum(p.stat().st_size for p in folder.path.rglob("*") if p.is_file())
    text = "\n".join(lines_of(found))
    assert "rank 4 on 6 modules" in text
    assert "1 document, 4 passages; 12 of 20 edits kept" in text
    assert "  on top of first\n  before: with first\n" in text
    assert (
        "probe (8 questions by this package): log-prob -3.000 ± 0.250 → -1.500 ± 0.200, gain +1.500 ± 0.300; "
        "accuracy 0.250 ± 0.100 → 0.750 ± 0.125" in text
    )


def test_what_before_stands_for(folder: AdaptedFolder) -> None:
    start = {"run": "/home/me/runs/squad", "rounds": 2}
    record = replace(folder.record(), earlier=(), settings={"start": start})
    folder.write_record(record)
    assert "  before: with the policy of the run squad" in list(lines_of(listed(folder.path)))
    for changed in (replace(record, settings={}), replace(record, exams=())):
        folder.write_record(changed)
        assert "before:" not in "\n".join(lines_of(listed(folder.path)))


def test_a_plain_peft_folder(folder: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    shutil.copytree(folder.adapter, tmp_path / "plain")
    found = listed(tmp_path / "plain")
    assert (found.base, found.rank, found.record) == (str(tiny_folder), 4, None)
    assert "nothing says what it was trained on" in "\n".join(lines_of(found))


@pytest.mark.parametrize(
    ("content", "said"), [("", "cannot be read as JSON"), ("[1]", "it is a list"), ("[" * 100_000, "cannot be read")]
)
def test_a_configuration_that_is_none(folder: AdaptedFolder, content: str, said: str) -> None:
    (folder.adapter / "adapter_config.json").write_text(content)
    with pytest.raises(RunError, match=said):
        listed(folder.path)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)
    )
)
def test_whatever_a_configuration_says_is_shown(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("plain")
    config = {"base_model_name_or_path": value, "r": value, "target_modules": value, "revision": value}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert all(line.isprintable() for line in lines_of(listed(folder)))


def test_what_has_no_adapter(tmp_path: Path, folder: AdaptedFolder) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="is no adapted folder"):
        listed(tmp_path / "empty")
    with pytest.raises(RunError, match="is no adapted folder"):
        listed(tmp_path / "nowhere")
    shutil.rmtree(folder.adapter)
    with pytest.raises(RunError, match="the folder has no adapter"):
        listed(folder.path)
    os.symlink(tmp_path / "empty", folder.adapter)
    with pytest.raises(RunError, match="is a link"):
        listed(folder.path)
    with pytest.raises(ConfigError, match="URL"):
        listed("https://example.org/a")


def test_names_that_could_steer_a_terminal_are_escaped(folder: AdaptedFolder) -> None:
    folder.write_record(replace(folder.record(), earlier=("\x1b[2J\u202e",)))
    assert all(line.isprintable() for line in lines_of(listed(folder.path)))


def test_the_hash_of_questions_is_of_what_is_asked() -> None:
    one, two = ("T", "q?", "a"), ("T", "r?", "b")
    assert questions_sha256([one, two]) == questions_sha256([two, one])
    assert questions_sha256([one]) != questions_sha256([("T", "q?", "b")])
    assert questions_sha256([one]) != questions_sha256([one, one])


def test_side_by_side(tmp_path: Path, tiny_folder: Path, folder: AdaptedFolder) -> None:
    other = write_adapted(tmp_path / "b", tiny_folder, seed=3, settings={"rank": 4, "learning_rate": 2e-3, "name": "b"})
    found = side_by_side([listed(folder.path), listed(other.path)])
    (shared,) = found.shared  # the probe; what each was asked about its own documents is its own
    assert (shared.names, set(shared.by_folder)) == (("probe",), {str(folder.path), str(other.path)})
    assert set(found.own.values()) == {("these documents",)}
    assert found.settings["learning_rate"] == {str(folder.path): 1e-3, str(other.path): 2e-3}
    assert {"documents (SHA-256)", "name"} <= found.settings.keys()
    assert "rank" not in found.settings
    text = "\n".join(comparison_lines(found))
    assert "probe: the same 8 questions" in text
    assert "  A  adapted: log-prob -1.500 ± 0.200, gain +1.500 ± 0.300; accuracy 0.750 ± 0.125" in text
    assert "  A  before (with first): log-prob -3.000 ± 0.250; accuracy" in text
    assert "  B  before: log-prob -3.000 ± 0.250; accuracy" in text
    assert "B alone was asked (not comparable): these documents" in text
    assert "  learning_rate: A 0.001, B 0.002" in text


def test_unknown_questions_are_not_comparable(tmp_path: Path, tiny_folder: Path) -> None:
    record = adapted_record(str(tiny_folder))
    unknown = tuple(replace(exam, questions_sha256="") for exam in record.exams)
    folders = [listed(write_adapted(tmp_path / name, tiny_folder, exams=unknown).path) for name in ("x", "y")]
    assert side_by_side(folders).shared == ()


def test_settings_that_differ_by_dotted_name() -> None:
    assert differing({"a": {"x": 1, "y": [1], "z": 2}, "b": {"x": 1.0, "y": [2], "z": 2}}) == {
        "y": {"a": [1], "b": [2]}
    }
    assert differing({"a": {"x": None}, "b": {}}) == {}
