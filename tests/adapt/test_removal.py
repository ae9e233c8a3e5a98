"""What is removed of an adapted folder, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from adaptations import Case
from adapted_folders import write_adapted

from seal_lightning.adapt import adapters as removal
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.cli.main import main
from seal_lightning.core.errors import RunError
from seal_lightning.storage.run_dir import RunLock


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder)


def test_all_of_it(folder: AdaptedFolder) -> None:
    folder.merged.mkdir()
    (folder.merged / "model.safetensors").write_bytes(b"x")
    folder.exam.write_text("{}\n")
    for name in ("lm_eval.json", "lm_eval-2.json", ".adapted.json.1.tmp"):
        (folder.path / name).write_text("{}")
    assert removal.remove(removal.removable(folder.path)) == []
    assert not folder.path.exists()


def test_all_that_seal_adapt_makes(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert main(case.words("made", "--merged")) == 0
    made = AdaptedFolder(tmp_path / "made")
    assert made.lock_file.is_file()
    assert {path.name for path in removal.parts(made)} == {path.name for path in made.path.iterdir()}
    assert main(["adapters", "remove", str(made.path), "--yes"]) == 0
    assert not made.path.exists()


def test_only_names_of_seal_lm_eval_are_its_files(folder: AdaptedFolder) -> None:
    mine = ["lm_eval-2-notes.json", "lm_eval-x.json", "lm_eval_results.json", "lm_evaluation_of_mine.json"]
    for name in ("lm_eval.json", "lm_eval-12.json", *mine):
        (folder.path / name).write_text("{}")
    assert [path.name for path in removal.remove(removal.removable(folder.path))] == mine


def test_a_folder_that_another_process_is_at_stays(folder: AdaptedFolder) -> None:
    lock = RunLock(folder.path)
    chosen = removal.removable(folder.path)
    lock.acquire()
    before = sorted(folder.path.rglob("*"))
    refused = r"a is locked by another process.*go on with the same `seal adapters remove` command"
    with pytest.raises(RunError, match=refused):
        removal.removable(folder.path)
    with pytest.raises(RunError, match=refused):
        removal.remove(chosen)
    assert sorted(folder.path.rglob("*")) == before
    lock.release()
    assert removal.remove(removal.removable(folder.path)) == []
    assert not folder.path.exists()


def test_other_files_stay_and_links_are_not_followed(folder: AdaptedFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    os.symlink(outside, folder.work / "link")
    os.symlink(outside / "mine.txt", folder.path / "lm_eval-9.json")
    (folder.path / "notes.md").write_text("mine")
    left = removal.remove(removal.removable(folder.path))
    assert [path.name for path in left] == ["lm_eval-9.json", "notes.md"]
    assert sorted(p.name for p in folder.path.iterdir()) == ["lm_eval-9.json", "notes.md"]
    assert (outside / "mine.txt").read_text() == "mine"


def test_what_is_no_adapted_folder_is_refused(folder: AdaptedFolder, tmp_path: Path) -> None:
    os.symlink(folder.path, tmp_path / "link")
    with pytest.raises(RunError, match="is a link; nothing was removed"):
        removal.removable(tmp_path / "link")
    folder.record_file.write_text("{}")
    with pytest.raises(RunError, match="version None"):
        removal.removable(folder.path)
    folder.record_file.unlink()
    with pytest.raises(RunError, match="has not ended there"):
        removal.removable(folder.path)
    assert folder.adapter.is_dir()


def test_a_removal_that_was_cut_short_goes_on(folder: AdaptedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(RunError, match=r"edits.jsonl could not be removed: Permission denied"):
            removal.remove(removal.removable(folder.path))
    assert not folder.adapter.exists()
    assert removal.remove(removal.removable(folder.path)) == []
    assert not folder.path.exists()
