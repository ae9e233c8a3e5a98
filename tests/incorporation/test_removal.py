"""What is removed of an adapted folder, and what never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from adapted_folders import write_adapted

from seal_lightning.errors import RunError
from seal_lightning.incorporation import removal
from seal_lightning.incorporation.folder import AdaptedFolder


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
