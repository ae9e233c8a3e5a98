"""Weighted sums of updates: exact, cut to fewer directions, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted_folders import SPEC, adapted_record, write_adapted
from fakes import write_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.adapt.bases import checked_adapter, pretrained, skeleton
from seal_lightning.adapt.record import AdaptedFolder
from seal_lightning.adapt.merging import Weighted, combine, update_norm, update_product, weighted
from seal_lightning.adapt.record import BaseModel
from seal_lightning.adapt.similarity import similar_updates
from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ConfigError, ModelError, RunError
from seal_lightning.models.lora import LoraAdapter
from seal_lightning.storage import atomic_files


@pytest.fixture
def a(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder)


@pytest.fixture
def b(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    """Of another rank, scaled otherwise, on other modules."""
    spec = AdapterSpec(rank=3, alpha=2.0, use_rslora=True, target_modules=("v_proj", "up_proj"))
    return write_adapted(tmp_path / "b", tiny_folder, seed=5, spec=spec)


def loaded(folder: AdaptedFolder) -> LoraAdapter:
    return checked_adapter(folder, skeleton(folder.record().base))


def updates(adapter: LoraAdapter) -> dict[str, torch.Tensor]:
    return {name: adapter.scaling * b.double() @ a.double() for name, (a, b) in adapter.weights.items()}


def test_the_sum_is_exact(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path) -> None:
    found = combine([Weighted(folder=a, weight=0.5), Weighted(folder=b, weight=-2.0)], tmp_path / "sum")
    assert (found.rank, found.sum_of_ranks, found.left_out) == (7, 7, 0.0)
    of_a, of_b, of_sum = updates(loaded(a)), updates(loaded(b)), updates(loaded(found.folder))
    assert of_sum.keys() == of_a.keys() | of_b.keys()
    assert len(of_sum) == 8
    for name, update in of_sum.items():
        zero = torch.zeros_like(update)
        expected = 0.5 * of_a.get(name, zero) - 2.0 * of_b.get(name, zero)
        assert torch.allclose(update, expected, atol=1e-6, rtol=1e-5), name


def test_what_the_sum_says_of_itself(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path) -> None:
    b.write_record(replace(b.record(), earlier=("a", "older")))
    found = combine([Weighted(folder=a, weight=0.5), Weighted(folder=b)], tmp_path / "sum")
    record = found.folder.record()
    assert record.exams == ()  # nobody asked it
    assert record.earlier == ("a", "older", "b")
    assert found.twice == (("a", "b"),)
    assert [document.path for document in record.documents] == ["/home/me/docs/a.txt", "/home/me/docs/b.txt"]
    assert (record.num_passages, record.num_edits, record.num_kept) == (8, 40, 24)
    assert record.settings["merged"]["weights"] == {"a": 0.5, "b": 1.0}  # type: ignore[index,call-overload]
    assert record.settings["learning_rate"] == 1e-3
    assert [json.loads(line)["edit"] for line in found.folder.edits.read_text().splitlines()] == ["of a", "of b"]
    assert "this model was not examined" in (found.folder.adapter / "README.md").read_text()
    config = json.loads((found.folder.adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == record.base.source


def started_from(folder: AdaptedFolder, earlier: AdaptedFolder) -> None:
    """As ``seal adapt --policy`` leaves it."""
    record = earlier.record()
    folder.write_record(replace(folder.record(), earlier=(*record.earlier, earlier.name)))
    digest = hashlib.sha256((earlier.adapter / "adapter_model.safetensors").read_bytes()).hexdigest()
    (folder.work / "job.json").write_text(json.dumps({"policy": {"adapted": digest}}))


def test_two_that_went_on_from_one_have_it_twice(a: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    later = [write_adapted(tmp_path / name, tiny_folder, seed=seed) for seed, name in enumerate("bc", 1)]
    for folder in later:
        started_from(folder, a)
    on_b = write_adapted(tmp_path / "on-b", tiny_folder, seed=4)
    started_from(on_b, later[0])

    def twice(*folders: AdaptedFolder) -> tuple[tuple[str, str], ...]:
        out = tmp_path / f"sum-{'-'.join(folder.name for folder in folders)}"
        return combine([Weighted(folder=folder) for folder in folders], out).twice

    assert twice(*later) == (("a", "b"), ("a", "c"))
    assert twice(on_b, later[1]) == (("a", "on-b"), ("a", "c"))
    assert twice(on_b, later[0]) == (("a", "on-b"), ("b", "on-b"), ("a", "b"))
    assert twice(later[0]) == ()


def test_one_name_is_not_one_adaptation(a: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    b = write_adapted(tmp_path / "b", tiny_folder, seed=1)
    started_from(b, a)
    namesake = write_adapted(tmp_path / "elsewhere" / "a", tiny_folder, seed=7)
    other_b = write_adapted(tmp_path / "elsewhere" / "b", tiny_folder, seed=8)
    started_from(other_b, namesake)
    both = [Weighted(folder=b), Weighted(folder=namesake)]
    assert combine(both, tmp_path / "one").twice == ()
    assert combine([Weighted(folder=b), Weighted(folder=other_b)], tmp_path / "two").twice == ()
    assert combine([Weighted(folder=a), Weighted(folder=namesake)], tmp_path / "three").twice == ()
    os.rename(a.path, tmp_path / "renamed")
    renamed = Weighted(folder=AdaptedFolder(tmp_path / "renamed"))
    assert combine([Weighted(folder=b), renamed], tmp_path / "four").twice == (("a", "b"),)
    for nothing_said in ("[]", "{", '{"policy": {"adapted": 5}}'):
        (b.work / "job.json").write_text(nothing_said)
        found = combine(both, tmp_path / f"five{len(nothing_said)}")
        assert found.twice == (("a", "b"),)  # by the name, to be on the safe side


def test_truncation_says_what_it_leaves_out(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path) -> None:
    whole = combine([Weighted(folder=a), Weighted(folder=b)], tmp_path / "whole")
    cut = combine([Weighted(folder=a), Weighted(folder=b)], tmp_path / "cut", max_rank=2)
    assert (cut.rank, cut.sum_of_ranks) == (2, 7)
    left, all_of_it = 0.0, 0.0
    kept = updates(loaded(cut.folder))
    for name, update in updates(loaded(whole.folder)).items():
        strength = torch.linalg.svdvals(update)
        left += float((strength[2:] ** 2).sum())
        all_of_it += float((strength**2).sum())
        best = torch.linalg.svd(update)
        nearest = best.U[:, :2] * best.S[:2] @ best.Vh[:2]
        assert torch.allclose(kept[name], nearest, atol=1e-5), name
    assert cut.left_out == pytest.approx((left / all_of_it) ** 0.5, rel=1e-6)
    assert 0.1 < cut.left_out < 1
    assert combine([Weighted(folder=a)], tmp_path / "same", max_rank=64).left_out == 0


def test_merging_one_with_its_negative_leaves_nothing(a: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    again = write_adapted(tmp_path / "again", tiny_folder)  # the same seed: the same update
    found = combine([Weighted(folder=a), Weighted(folder=again, weight=-1.0)], tmp_path / "zero", max_rank=3)
    assert update_norm(loaded(found.folder)) < 1e-5 * update_norm(loaded(a))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10_000))
def test_norms_and_products_are_those_of_whole_updates(rank: int, other_rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def adapter(r: int) -> LoraAdapter:
        spec = AdapterSpec(rank=r, alpha=3.0, use_rslora=bool(seed % 2))
        pairs = {n: (torch.randn(r, 6, generator=generator), torch.randn(4, r, generator=generator)) for n in "xy"}
        return LoraAdapter(spec=spec, weights=pairs)

    one, other = adapter(rank), adapter(other_rank)
    flat, flat_other = (torch.cat([u.flatten() for u in updates(each).values()]) for each in (one, other))
    assert update_norm(one) == pytest.approx(float(flat.norm()), rel=1e-6)
    assert update_product(one, other) == pytest.approx(float(flat @ flat_other), rel=1e-6, abs=1e-6)


def test_how_alike_updates_are(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path) -> None:
    half = combine([Weighted(folder=a, weight=-0.5)], tmp_path / "half").folder
    found = {(each.b, each.modules): each for each in similar_updates([a, half, b]) if each.a == "a"}
    assert found["half", "q_proj"].cosine == pytest.approx(-1, abs=1e-6)
    assert found["half", "q_proj"].norm_b == pytest.approx(0.5 * found["half", "q_proj"].norm_a, rel=1e-5)
    assert abs(found["b", "v_proj"].cosine or 1) < 0.5
    assert (found["b", "up_proj"].norm_a, found["b", "up_proj"].cosine) == (0, None)


def test_weights_as_they_are_written(a: AdaptedFolder, tiny_folder: Path, tmp_path: Path) -> None:
    assert weighted(str(a.path)) == Weighted(folder=a)
    assert weighted(f"{a.path}=-0.25").weight == -0.25
    for wrong in ("x", "nan", "inf", "0", "1,5", ""):
        with pytest.raises(ConfigError, match="finite number other than 0"):
            weighted(f"{a.path}={wrong}")
    odd = write_adapted(tmp_path / "b=2", tiny_folder)
    assert weighted(str(odd.path)) == Weighted(folder=odd)
    assert weighted(f"{odd.path}=3").weight == 3
    with pytest.raises(RunError, match="is no adapted folder"):
        weighted(f"{tmp_path}/none=3")


def test_bases_that_differ(a: AdaptedFolder, tmp_path: Path) -> None:
    other_base = write_tiny_model(tmp_path / "other-base", seed=9)
    other = write_adapted(tmp_path / "c", other_base)
    with pytest.raises(ConfigError) as raised:
        combine([Weighted(folder=a), Weighted(folder=other)], tmp_path / "sum")
    assert str(other_base) in str(raised.value)
    assert a.record().base.source in str(raised.value)
    assert not (tmp_path / "sum").exists()
    other.write_record(replace(other.record(), base=replace(a.record().base, revision="v2")))
    with pytest.raises(ConfigError, match="at 'v2'"):
        combine([Weighted(folder=a), Weighted(folder=other)], tmp_path / "sum")


def test_one_base_by_two_paths(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    os.symlink(tiny_folder, tmp_path / "by-another-name")
    b.write_record(replace(b.record(), base=BaseModel(source=str(tmp_path / "by-another-name"))))
    assert combine([Weighted(folder=a), Weighted(folder=b)], tmp_path / "sum").rank == 7


def test_what_cannot_be_merged(a: AdaptedFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there twice"):
        combine([Weighted(folder=a), Weighted(folder=AdaptedFolder(tmp_path / "." / "a"))], tmp_path / "sum")
    with pytest.raises(ConfigError, match="new or empty folder"):
        combine([Weighted(folder=a)], a.path)
    (a.adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="is not loaded"):
        combine([Weighted(folder=a)], tmp_path / "sum")
    assert not (tmp_path / "sum").exists()


def test_a_base_that_is_gone_and_one_that_brings_code(a: AdaptedFolder, tmp_path: Path) -> None:
    record = a.record()
    a.write_record(replace(record, base=BaseModel(source=str(tmp_path / "gone"))))
    with pytest.raises(ModelError, match="cannot be had"):
        combine([Weighted(folder=a)], tmp_path / "sum")
    a.write_record(replace(record, base=replace(record.base, trust_remote_code=True)))
    with pytest.raises(ConfigError, match="add --trust_remote_code; nothing was loaded"):
        combine([Weighted(folder=a)], tmp_path / "sum")
    assert combine([Weighted(folder=a)], tmp_path / "sum", trust_remote_code=True).rank == SPEC.rank
    assert not pretrained(adapted_record("x").base).trust_remote_code


def test_a_full_disk_leaves_nothing(a: AdaptedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device\. Nothing is left of it"):
        combine([Weighted(folder=a)], tmp_path / "sum")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
