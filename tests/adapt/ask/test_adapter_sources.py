"""What lies at a path, which base model it belongs to, and what is refused before any model is loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from adapted_folders import ASKING, write_plain
from fakes import write_tiny_model
from safetensors.torch import load_file, save_file

from seal_lightning.adapt.ask.adapted_models import AdaptedModels
from seal_lightning.adapt.ask.adapter_sources import adapter_source, base_name, check_names, common_base
from seal_lightning.adapt.record import AdaptedFolder, BaseModel
from seal_lightning.core.errors import ConfigError, ModelError, RunError, SealError


def copied(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def with_record(folder: Path, **base: object) -> None:
    adapted = AdaptedFolder(folder)
    record = adapted.record()
    adapted.write_record(replace(record, base=replace(record.base, **base)))


def reconfigured(folder: Path, **fields: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_adapter_source_of_an_adapted_folder(adapted: Path, tiny_folder: Path) -> None:
    source = adapter_source(adapted)
    assert (source.name, source.asking, source.base.source) == ("minerals", ASKING, str(tiny_folder))
    assert source.adapter == adapted / "adapter"


def test_adapter_source_of_a_plain_folder(plain: Path, tiny_folder: Path, tmp_path: Path) -> None:
    source = adapter_source(plain)
    assert (source.name, source.asking, source.base) == ("colours", None, BaseModel(source=str(tiny_folder)))
    models = AdaptedModels.load([source])
    assert models.asking(source).style == "chat"
    models.language_model.tokenizer.chat_template = None
    assert models.asking(source).style == "base"


def without_record(folder: Path) -> None:
    (folder / "adapted.json").unlink()


def half_made(folder: Path) -> None:
    without_record(folder)
    (folder / "work").mkdir()


def without_weights(folder: Path) -> None:
    (folder / "adapter" / "adapter_model.safetensors").unlink()


def without_adapter(folder: Path) -> None:
    shutil.rmtree(folder / "adapter")


def cut_weights(folder: Path) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def not_a_number(folder: Path) -> None:
    path = folder / "adapter" / "adapter_model.safetensors"
    state = load_file(path)
    state[min(state)][0, 0] = float("nan")
    save_file(state, path)


def linked_adapter(folder: Path) -> None:
    (folder / "adapter").rename(folder.parent / "elsewhere")
    (folder / "adapter").symlink_to(folder.parent / "elsewhere")


def broken_record(folder: Path) -> None:
    (folder / "adapted.json").write_text('{"version": 1, "base": 3}')


def base_gone(folder: Path) -> None:
    with_record(folder, source="/nowhere/model")


def foreign_code(folder: Path) -> None:
    with_record(folder, trust_remote_code=True)


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (without_record, RunError, "not an adapted folder: adapted.json is missing"),
        (half_made, RunError, "repeat the interrupted"),
        (without_weights, ModelError, "adapter_model.safetensors"),
        (without_adapter, ModelError, "adapter_config.json is missing"),
        (cut_weights, ModelError, "not a safetensors file"),
        (not_a_number, ModelError, "finite"),
        (linked_adapter, RunError, "symbolic link"),
        (broken_record, RunError, "not a valid record"),
        (base_gone, ModelError, "'/nowhere/model' cannot be loaded"),
        (foreign_code, ConfigError, "--trust_remote_code"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_adapter_source_damaged_folder_is_refused(
    adapted: Path, tmp_path: Path, damage: Callable[[Path], None], kind: type[SealError], said: str
) -> None:
    folder = copied(adapted, tmp_path / "damaged")
    damage(folder)
    with pytest.raises(kind, match=said) as caught:
        AdaptedModels.load([adapter_source(folder)])
    assert "damaged" in str(caught.value)


def test_adapter_source_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not there"):
        adapter_source(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="must be a folder"):
        adapter_source(tmp_path / "file")
    with pytest.raises(ConfigError, match="URL"):
        adapter_source("https://example.org/adapter")


@pytest.mark.parametrize("base", [None, "", "a\nb", 3])
def test_adapter_source_needs_a_base(plain: Path, tmp_path: Path, base: object) -> None:
    folder = copied(plain, tmp_path / "nameless")
    reconfigured(folder, base_model_name_or_path=base)
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        adapter_source(folder)


def test_load_refuses_an_adapter_of_another_base(plain: Path, tmp_path: Path) -> None:
    """By its shapes: its configuration says it is of this base."""
    other = write_tiny_model(tmp_path / "other", hidden_size=64)
    folder = copied(plain, tmp_path / "liar")
    reconfigured(folder, base_model_name_or_path=str(other))
    with pytest.raises(ModelError, match="belongs to another base model than") as caught:
        AdaptedModels.load([adapter_source(folder)])
    assert "liar" in str(caught.value)


def test_common_base_refuses_two_bases(adapted: Path, plain: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=9)
    stranger = write_plain(tmp_path / "stranger", other, other)
    sources = [adapter_source(folder) for folder in (plain, adapted, stranger)]
    assert common_base(sources[:2]) == sources[1].base
    with pytest.raises(ConfigError, match=r"minerals.*stranger.*one base"):
        common_base(sources)
    with_half = copied(adapted, tmp_path / "half")
    with_record(with_half, dtype="bfloat16")
    with pytest.raises(ConfigError, match="bfloat16"):
        common_base([sources[1], adapter_source(with_half)])
    assert common_base([sources[0], adapter_source(with_half)]).dtype == "bfloat16", "a plain folder goes with it"


def test_common_base_follows_links(adapted: Path, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tiny_folder)
    linked = write_plain(tmp_path / "linked", tmp_path / "link", tiny_folder)
    assert common_base([adapter_source(adapted), adapter_source(linked)]).source == str(tiny_folder)


def test_check_names_refuses_duplicates(adapted: Path, tmp_path: Path) -> None:
    twin = copied(adapted, tmp_path / "minerals")
    with pytest.raises(ConfigError, match="have one name") as caught:
        check_names([adapter_source(adapted), adapter_source(twin)], ["base"])
    assert str(adapted) in str(caught.value)
    assert str(twin) in str(caught.value)
    with pytest.raises(ConfigError, match="the base model and"):
        check_names([adapter_source(adapted)], ["base", "minerals"])


def test_base_name_shows_no_path(tiny_folder: Path) -> None:
    assert base_name(BaseModel(source="embedded")) == "embedded"
    assert base_name(BaseModel(source="Qwen/Qwen2.5-7B")) == "Qwen/Qwen2.5-7B"
    assert base_name(BaseModel(source=str(tiny_folder))) == tiny_folder.name
