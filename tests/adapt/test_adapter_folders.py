"""Adapted folders compared, merged, exported and removed."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adaptations import Case
from adapted_folders import adapted_record, write_adapted
from fakes import write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from seal_lightning.adapt.adapters import (
    adapter_parts,
    adapter_rank,
    differing_settings,
    merge_adapters,
    remove_adapter,
    shared_exams,
    write_merged,
)
from seal_lightning.adapt.record import AdaptedFolder, BaseModel, questions_sha256
from seal_lightning.cli.main import main
from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ConfigError, ModelError, RunError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import applied, load_adapter
from seal_lightning.storage import atomic_files
from seal_lightning.storage.run_dir import RunLock


@pytest.fixture
def a(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    return write_adapted(tmp_path / "a", tiny_folder)


@pytest.fixture
def b(tmp_path: Path, tiny_folder: Path) -> AdaptedFolder:
    """Of another rank, scaled otherwise, on other modules."""
    spec = AdapterSpec(rank=3, alpha=2.0, use_rslora=True, target_modules=("v_proj", "up_proj"))
    return write_adapted(tmp_path / "b", tiny_folder, seed=5, spec=spec)


def updates(folder: AdaptedFolder, model: LanguageModel) -> dict[str, torch.Tensor]:
    adapter = load_adapter(model.model, folder.adapter)
    return {name: adapter.scaling * b.double() @ a.double() for name, (a, b) in adapter.weights.items()}


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


# --- compare


def test_shared_exams_are_those_of_equal_questions(a: AdaptedFolder, b: AdaptedFolder) -> None:
    records = [a.record(), b.record()]
    (found,) = shared_exams(records)  # the probe; each has its own questions on its own documents
    assert [(index, exam.name) for index, exam in found] == [(0, "probe"), (1, "probe")]
    unknown = [replace(r, exams=tuple(replace(e, questions_sha256="") for e in r.exams)) for r in records]
    assert shared_exams(unknown) == []


def test_differing_settings_have_dotted_names() -> None:
    one = replace(adapted_record("x"), settings={"a": {"x": 1, "y": [1]}, "z": 2, "n": None})
    other = replace(one, settings={"a": {"x": 1.0, "y": [2]}, "z": 2}, seed=3)  # 1.0 is 1, and a missing null is null
    assert differing_settings([one, other]) == {"seed": [0, 3], "a.y": [[1], [2]]}


def test_questions_sha256_ignores_the_order() -> None:
    one, two = ("T", "q?", "a"), ("T", "r?", "b")
    assert questions_sha256([one, two]) == questions_sha256([two, one])
    assert len({questions_sha256(q) for q in ([one], [("T", "q?", "b")], [one, one])}) == 3


# --- merge


def test_merge_adapters_adds_updates(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path, tiny: LanguageModel) -> None:
    made = merge_adapters([(a, 0.5), (b, -2.0)], str(tmp_path / "sum"), max_rank=None)
    assert adapter_rank(made) == 7
    of_a, of_b, of_sum = updates(a, tiny), updates(b, tiny), updates(made, tiny)
    assert of_sum.keys() == of_a.keys() | of_b.keys()
    assert len(of_sum) == 8
    for name, update in of_sum.items():
        zero = torch.zeros_like(update)
        expected = 0.5 * of_a.get(name, zero) - 2.0 * of_b.get(name, zero)
        assert torch.allclose(update, expected, atol=1e-6, rtol=1e-5), name


def test_merge_adapters_truncates(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path, tiny: LanguageModel) -> None:
    whole = updates(merge_adapters([(a, 1.0), (b, 1.0)], str(tmp_path / "whole"), max_rank=None), tiny)
    cut = merge_adapters([(a, 1.0), (b, 1.0)], str(tmp_path / "cut"), max_rank=2)
    for name, update in updates(cut, tiny).items():
        best = torch.linalg.svd(whole[name])
        assert torch.allclose(update, best.U[:, :2] * best.S[:2] @ best.Vh[:2], atol=1e-5), name
    merged = cut.record().merged
    assert merged is not None
    assert (merged.rank, merged.sum_of_ranks) == (2, 7)


def test_merge_adapters_records_its_sources(a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path) -> None:
    b.write_record(replace(b.record(), earlier=("a", "older")))
    made = merge_adapters([(a, 0.5), (b, 1.0)], str(tmp_path / "sum"), max_rank=None)
    record = made.record()
    assert record.exams == ()
    assert record.earlier == ("a", "older", "b")
    assert [document.path for document in record.documents] == ["/home/me/docs/a.txt", "/home/me/docs/b.txt"]
    assert (record.num_passages, record.num_edits, record.num_kept) == (8, 40, 24)
    assert record.merged is not None
    assert record.merged.weights == {str(a.path): 0.5, str(b.path): 1.0}
    assert [json.loads(line)["edit"] for line in made.edits.read_text().splitlines()] == ["of a", "of b"]
    card = (made.adapter / "README.md").read_text()
    assert "this model was not examined" in card
    assert "- a, weight 0.5" in card
    assert str(tmp_path) not in card


def test_merge_adapters_raises_for_two_bases(a: AdaptedFolder, tmp_path: Path) -> None:
    other = write_adapted(tmp_path / "c", write_tiny_model(tmp_path / "other-base", seed=9))
    with pytest.raises(ConfigError, match="only updates of one can be added") as raised:
        merge_adapters([(a, 1.0), (other, 1.0)], str(tmp_path / "sum"), max_rank=None)
    assert "other-base" in str(raised.value)
    assert not (tmp_path / "sum").exists()


def test_merge_adapters_accepts_two_paths_of_a_base(
    a: AdaptedFolder, b: AdaptedFolder, tmp_path: Path, tiny_folder: Path
) -> None:
    os.symlink(tiny_folder, tmp_path / "link")
    b.write_record(replace(b.record(), base=BaseModel(source=str(tmp_path / "link"))))
    assert adapter_rank(merge_adapters([(a, 1.0), (b, 1.0)], str(tmp_path / "sum"), max_rank=None)) == 7


def test_merge_adapters_leaves_nothing_when_it_fails(
    a: AdaptedFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match="not empty"):
        merge_adapters([(a, 1.0)], str(a.path), max_rank=None)
    with monkeypatch.context() as patched:
        patched.setattr(atomic_files.os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            merge_adapters([(a, 1.0)], str(tmp_path / "sum"), max_rank=None)
    (a.adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError):
        merge_adapters([(a, 1.0)], str(tmp_path / "sum"), max_rank=None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_base_with_code_needs_trust(a: AdaptedFolder, tmp_path: Path) -> None:
    a.write_record(replace(a.record(), base=replace(a.record().base, trust_remote_code=True)))
    with pytest.raises(ConfigError, match="add --trust_remote_code"):
        merge_adapters([(a, 1.0)], str(tmp_path / "sum"), max_rank=None)
    with pytest.raises(ConfigError, match="add --trust_remote_code"):
        write_merged(a)
    write_merged(a, trust_remote_code=True)


# --- export


def test_write_merged_adds_the_adapter(a: AdaptedFolder, tiny: LanguageModel) -> None:
    path = write_merged(a)
    merged = AutoModelForCausalLM.from_pretrained(path)
    ids = torch.tensor([AutoTokenizer.from_pretrained(path)("The stone 3 is red.\n").input_ids])
    assert merged.dtype is torch.float32
    with torch.no_grad():
        unadapted = tiny.model(ids).logits
        with applied(tiny.model, load_adapter(tiny.model, a.adapter)):
            adapted = tiny.model(ids).logits
        assert torch.allclose(merged(ids).logits, adapted, atol=1e-5)
    assert (adapted - unadapted).abs().max() > 0.01
    assert merged.generation_config.eos_token_id == tiny.original_generation_config.eos_token_id


def test_write_merged_needs_overwrite(a: AdaptedFolder) -> None:
    before = files_of(write_merged(a))
    (a.merged / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="--overwrite replaces it"):
        write_merged(a)
    assert (a.merged / "mine.txt").exists()
    write_merged(a, overwrite=True)
    assert files_of(a.merged) == before


def test_write_merged_raises_for_a_quantised_base(a: AdaptedFolder, tmp_path: Path, tiny_folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, quantization_config=four_bits, device_map={"": "cpu"})
    model.save_pretrained(tmp_path / "quantised")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "quantised")
    a.write_record(replace(a.record(), base=BaseModel(source=str(tmp_path / "quantised"))))
    with pytest.raises(ConfigError, match="is quantised"):
        write_merged(a)
    assert not a.merged.exists()


# --- records and removal


def test_record_raises_for_an_invalid_file(a: AdaptedFolder, tmp_path: Path) -> None:
    plain = json.loads(a.record_file.read_text())
    for content, said in (
        ("{}", "base"),
        ("[" * 100_000, "not a valid record"),
        (json.dumps({**plain, "version": 2}), "version"),
        (json.dumps({**plain, "base": {"source": "x", "dtype": "int8"}}), "base.dtype"),
    ):
        a.record_file.write_text(content)
        with pytest.raises(RunError, match=said):
            a.record()
    os.symlink(tmp_path / "elsewhere", a.exam)
    with pytest.raises(RunError, match="symbolic link"):
        AdaptedFolder.named(a.path)


def test_remove_adapter_removes_its_own_files_only(a: AdaptedFolder, tmp_path: Path) -> None:
    a.merged.mkdir()
    for name in ("merged/model.safetensors", "exam.jsonl", "lm_eval.json", "lm_eval-12.json", ".adapted.json.1.tmp"):
        (a.path / name).write_text("{}")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.txt").write_text("mine")
    os.symlink(outside, a.work / "link")
    for name in ("lm_eval-x.json", "notes.md"):
        (a.path / name).write_text("mine")
    assert [path.name for path in remove_adapter(a)] == ["lm_eval-x.json", "notes.md"]
    assert sorted(path.name for path in a.path.iterdir()) == ["lm_eval-x.json", "notes.md"]
    assert (outside / "mine.txt").read_text() == "mine"


def test_remove_adapter_removes_all_that_adapt_makes(tmp_path: Path) -> None:
    case = Case(tmp_path)
    assert main(case.words("made", "--merged", "--adapt.keep", "0")) == 0
    made = AdaptedFolder(tmp_path / "made")
    assert set(adapter_parts(made)) == set(made.path.iterdir())
    assert main(["adapters", "remove", str(made.path), "--yes"]) == 0
    assert not made.path.exists()


def test_remove_adapter_raises_for_a_locked_folder_and_a_link(a: AdaptedFolder, tmp_path: Path) -> None:
    os.symlink(a.path, tmp_path / "link")
    with pytest.raises(RunError, match="is a link"):
        remove_adapter(AdaptedFolder(tmp_path / "link"))
    lock = RunLock(a.path)
    lock.acquire()
    before = sorted(a.path.rglob("*"))
    with pytest.raises(RunError, match="another process"):
        remove_adapter(a)
    assert sorted(a.path.rglob("*")) == before
    lock.release()
    assert remove_adapter(a) == []
    assert not a.path.exists()


def test_remove_adapter_can_be_repeated(a: AdaptedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(RunError, match=r"Permission denied"):
            remove_adapter(a)
    assert not a.adapter.exists()
    assert remove_adapter(AdaptedFolder.named(a.path)) == []
    assert not a.path.exists()
