"""Our LoRA against PEFT's: what it targets, how it starts, what it computes, how it is stored."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import weights_hash
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ConfigError, ModelError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import (
    AdapterRows,
    Dropout,
    LoraAdapter,
    applied,
    init_adapter,
    load_adapter,
    merge,
    routed,
    save_adapter,
    sum_adapters,
    target_modules,
)

ALL_MLP = ("gate_proj", "up_proj", "down_proj")


def peft_config(spec: AdapterSpec) -> LoraConfig:
    """The same adapter in PEFT's words."""
    targets = list(spec.target_modules) if isinstance(spec.target_modules, tuple) else spec.target_modules
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        use_rslora=spec.use_rslora,
        target_modules=targets,
        layers_to_transform=list(spec.layers) if spec.layers is not None else None,
        task_type="CAUSAL_LM",
    )


def peft_twin(model: Any, adapter: LoraAdapter) -> PeftModel:
    """A PEFT model on a copy of the base, with the adapter's weights."""
    twin = get_peft_model(copy.deepcopy(model), peft_config(adapter.spec)).eval()
    names = set(twin.base_model.targeted_module_names)
    assert names == set(adapter.weights)
    with torch.no_grad():
        for name, (a, b) in adapter.weights.items():
            layer = twin.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    return twin


def random_adapter(model: Any, spec: AdapterSpec, seed: int = 0) -> LoraAdapter:
    """An adapter whose B is not zero, so that it does something."""
    generator = torch.Generator().manual_seed(seed)
    adapter = init_adapter(model, spec, generator)
    for _, b in adapter.weights.values():
        b.copy_(torch.randn(b.shape, generator=generator, dtype=b.dtype) * 0.1)
    return adapter


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


@pytest.fixture
def ids(tiny64: LanguageModel) -> Tensor:
    return torch.tensor([tiny64.encode_text("The stone 3 is red."), tiny64.encode_text("The stone 4 is red.")])


# --- where an adapter goes, and how it starts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "layers", "num_modules"),
    [
        (None, None, 4),
        ("all-linear", None, 14),
        (ALL_MLP, None, 6),
        (("q_proj",), (1,), 1),
        (None, (0, 1), 4),
    ],
)
def test_target_modules_equal_peft(
    tiny: LanguageModel, targets: Any, layers: tuple[int, ...] | None, num_modules: int
) -> None:
    spec = AdapterSpec(rank=2, target_modules=targets, layers=layers)
    expected = get_peft_model(copy.deepcopy(tiny.model), peft_config(spec)).base_model.targeted_module_names
    assert list(target_modules(tiny.model, spec)) == expected
    assert len(expected) == num_modules


def test_target_modules_of_chosen_layers(tiny: LanguageModel) -> None:
    """PEFT refuses this combination; ours means what it says."""
    every = target_modules(tiny.model, AdapterSpec(target_modules="all-linear"))
    second = target_modules(tiny.model, AdapterSpec(target_modules="all-linear", layers=(1,)))
    assert second == tuple(name for name in every if ".layers.1." in name)
    assert len(second) == 7


def test_target_modules_default_to_q_and_v(tiny: LanguageModel) -> None:
    assert {name.rsplit(".", 1)[1] for name in target_modules(tiny.model, AdapterSpec())} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (AdapterSpec(target_modules=("no_such_proj",)), "adapter.target_modules"),
        (AdapterSpec(target_modules=("embed_tokens",)), "adapter.target_modules"),
        (AdapterSpec(layers=(0, 7)), "adapter.layers"),
    ],
)
def test_target_modules_reject_unmatched_names(tiny: LanguageModel, spec: AdapterSpec, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        target_modules(tiny.model, spec)


def test_target_modules_leaves_model_unchanged(tiny: LanguageModel) -> None:
    before, modules = weights_hash(tiny.model), [name for name, _ in tiny.model.named_modules()]
    target_modules(tiny.model, AdapterSpec(target_modules="all-linear"))
    assert weights_hash(tiny.model) == before
    assert [name for name, _ in tiny.model.named_modules()] == modules


def test_init_adapter_equals_peft(tiny: LanguageModel) -> None:
    """PEFT's own A fills the same interval evenly, and B is zero: Kaiming uniform with a = √5 is U(±1/√in)."""
    spec = AdapterSpec(rank=64, target_modules="all-linear")
    ours = init_adapter(tiny.model, spec, torch.Generator().manual_seed(1))
    theirs = get_peft_model(copy.deepcopy(tiny.model), peft_config(spec)).base_model.model
    for name, (a, b) in ours.weights.items():
        peft_a = theirs.get_submodule(name).lora_A["default"].weight.detach()
        peft_b = theirs.get_submodule(name).lora_B["default"].weight.detach()
        bound = 1 / math.sqrt(a.shape[1])
        assert (a.shape, a.dtype, b.shape, b.dtype) == (peft_a.shape, peft_a.dtype, peft_b.shape, peft_b.dtype)
        assert not b.any()
        assert not peft_b.any()
        for weight in (a, peft_a):
            assert weight.abs().max() <= bound
            assert weight.abs().max() > 0.99 * bound
            assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)


def test_init_adapter_uses_its_generator_only(tiny: LanguageModel) -> None:
    spec = AdapterSpec(rank=2)
    state = torch.get_rng_state()
    one = init_adapter(tiny.model, spec, torch.Generator().manual_seed(1))
    torch.rand(7)
    two = init_adapter(tiny.model, spec, torch.Generator().manual_seed(1))
    other = init_adapter(tiny.model, spec, torch.Generator().manual_seed(2))
    torch.set_rng_state(state)
    assert all(torch.equal(x, y) for x, y in zip(one.tensors(), two.tensors(), strict=True))
    assert not torch.equal(one.tensors()[0], other.tensors()[0])
    init_adapter(tiny.model, spec, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), state)


# --- what it computes --------------------------------------------------------------------------------------------------

SPECS = [
    AdapterSpec(rank=3, alpha=6.0),
    AdapterSpec(rank=2, alpha=5.0, target_modules="all-linear"),
    AdapterSpec(rank=4, alpha=8.0, target_modules=ALL_MLP, layers=(1,)),
    AdapterSpec(rank=4, alpha=8.0, target_modules="all-linear", use_rslora=True),
]


@pytest.mark.parametrize("spec", SPECS)
def test_applied_equals_peft(tiny64: LanguageModel, ids: Tensor, spec: AdapterSpec) -> None:
    adapter = random_adapter(tiny64.model, spec)
    expected = logits(peft_twin(tiny64.model, adapter), ids)
    with applied(tiny64.model, adapter):
        found = logits(tiny64.model, ids)
    assert (found - expected).abs().max() <= 1e-12
    assert (found - logits(tiny64.model, ids)).abs().max() > 1e-3


def test_scaling_of_rslora(tiny: LanguageModel) -> None:
    spec = AdapterSpec(rank=16, alpha=8.0)
    generator = torch.Generator()
    assert init_adapter(tiny.model, spec, generator).scaling == 0.5
    spec = AdapterSpec(rank=16, alpha=8.0, use_rslora=True)
    assert init_adapter(tiny.model, spec, generator).scaling == 2.0


def test_applied_equals_peft_for_gpt2(ids: Tensor) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=350, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    model = GPT2LMHeadModel(config).double().eval()
    spec = AdapterSpec(rank=3, alpha=6.0, target_modules=("c_attn", "c_fc"))
    adapter = random_adapter(model, spec)
    assert {tuple(a.shape) + tuple(b.shape) for a, b in adapter.weights.values()} == {(3, 32, 96, 3), (3, 32, 128, 3)}
    expected = logits(peft_twin(model, adapter), ids)
    with applied(model, adapter):
        assert (logits(model, ids) - expected).abs().max() <= 1e-12
    merge(model, adapter)
    assert (logits(model, ids) - expected).abs().max() <= 1e-12


def test_applied_leaves_no_trace(tiny64: LanguageModel, ids: Tensor) -> None:
    before, plain = weights_hash(tiny64.model), logits(tiny64.model, ids)
    adapter = random_adapter(tiny64.model, SPECS[1])
    with applied(tiny64.model, adapter):
        logits(tiny64.model, ids)
    assert torch.equal(logits(tiny64.model, ids), plain)
    with pytest.raises(RuntimeError, match="in the middle"), applied(tiny64.model, adapter):
        raise RuntimeError("in the middle")
    assert torch.equal(logits(tiny64.model, ids), plain)
    assert not any(module._forward_hooks for module in tiny64.model.modules())
    assert weights_hash(tiny64.model) == before


def test_applied_leaves_no_hook_after_an_error(tiny: LanguageModel) -> None:
    adapter = random_adapter(tiny.model, SPECS[0])
    adapter.weights["model.layers.9.self_attn.q_proj"] = next(iter(adapter.weights.values()))
    with pytest.raises(AttributeError), applied(tiny.model, adapter):
        pass
    assert not any(module._forward_hooks for module in tiny.model.modules())


def test_routed_without_adapter_is_the_model(tiny64: LanguageModel, ids: Tensor) -> None:
    plain = logits(tiny64.model, ids)
    with routed(tiny64.model, [AdapterRows(size=len(ids), adapter=None)]):
        assert torch.equal(logits(tiny64.model, ids), plain)


def dropped(rate: float, seeds: Sequence[int], sizes: Sequence[int]) -> Dropout:
    generators = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
    return Dropout(rate=rate, sizes=tuple(sizes), generators=generators)


def test_routed_dropout_uses_its_generator(tiny64: LanguageModel, ids: Tensor) -> None:
    adapter = random_adapter(tiny64.model, AdapterSpec(rank=3, alpha=6.0, dropout=0.5))

    def with_dropout(seed: int | None) -> Tensor:
        dropout = None if seed is None else dropped(0.5, [seed], [ids.numel()])
        with routed(tiny64.model, [AdapterRows(size=ids.numel(), adapter=adapter, dropout=dropout)]):
            return logits(tiny64.model, ids)

    assert torch.equal(with_dropout(1), with_dropout(1))
    assert not torch.equal(with_dropout(1), with_dropout(2))
    assert (with_dropout(None) - logits(peft_twin(tiny64.model, adapter), ids)).abs().max() <= 1e-12


def test_dropout_keeps_the_mean(tiny64: LanguageModel) -> None:
    name = "model.layers.0.self_attn.q_proj"
    spec = AdapterSpec(rank=3, alpha=6.0, dropout=0.3, target_modules=("q_proj",), layers=(0,))
    adapter = random_adapter(tiny64.model, spec)
    linear = tiny64.model.get_submodule(name)
    x = torch.ones(20_000, 32, dtype=torch.float64)
    a, b = adapter.weights[name]
    with routed(tiny64.model, [AdapterRows(size=len(x), adapter=adapter, dropout=dropped(0.3, [0], [len(x)]))]):
        updates = linear(x) - torch.nn.functional.linear(x, linear.weight)
    expected = adapter.scaling * (b @ a).sum(dim=1)
    assert (updates.mean(dim=0) - expected).abs().max() < 5 * updates.std(dim=0).max() / math.sqrt(len(x))
    assert updates.std(dim=0).min() > 0


@pytest.mark.parametrize("spec", SPECS)
def test_merge_equals_applied(tiny64: LanguageModel, ids: Tensor, spec: AdapterSpec) -> None:
    adapter = random_adapter(tiny64.model, spec)
    with applied(tiny64.model, adapter):
        expected = logits(tiny64.model, ids)
    merge(tiny64.model, adapter)
    assert (logits(tiny64.model, ids) - expected).abs().max() <= 1e-12


def test_merge_in_half_precision_rounds_once(tiny: LanguageModel) -> None:
    adapter = random_adapter(tiny.model, SPECS[0])
    half = copy.deepcopy(tiny.model).to(torch.bfloat16)
    name = next(iter(adapter.weights))
    a, b = adapter.weights[name]
    exact = half.get_submodule(name).weight.float() + b @ a * adapter.scaling
    merge(half, adapter)
    assert half.get_submodule(name).weight.dtype is torch.bfloat16
    assert torch.equal(half.get_submodule(name).weight, exact.to(torch.bfloat16))


def test_sum_adapters_adds_updates(tiny64: LanguageModel, ids: Tensor) -> None:
    specs = [AdapterSpec(rank=2, alpha=4.0), AdapterSpec(rank=3, alpha=2.0, use_rslora=True)]
    adapters = [random_adapter(tiny64.model, spec, seed) for seed, spec in enumerate(specs)]
    with applied(tiny64.model, adapters[0]), applied(tiny64.model, adapters[1]):
        expected = logits(tiny64.model, ids)
    one = sum_adapters(adapters)
    assert (one.spec.rank, one.scaling) == (5, 1.0)
    with applied(tiny64.model, one):
        assert (logits(tiny64.model, ids) - expected).abs().max() <= 1e-12
    for name, (a, b) in one.weights.items():
        update = sum(x.weights[name][1] @ x.weights[name][0] * x.scaling for x in adapters)
        assert (one.scaling * b @ a - update).abs().max() <= 1e-14


def test_sum_adapters_of_different_modules(tiny64: LanguageModel, ids: Tensor, tmp_path: Path) -> None:
    """PEFT computes it too: where an adapter has no such module, its part is zero."""
    specs = [
        AdapterSpec(rank=2, alpha=4.0, layers=(1,)),
        AdapterSpec(rank=3, alpha=2.0, target_modules=("down_proj", "q_proj"), layers=(0,)),
    ]
    adapters = [random_adapter(tiny64.model, spec, seed) for seed, spec in enumerate(specs)]
    with applied(tiny64.model, adapters[0]), applied(tiny64.model, adapters[1]):
        expected = logits(tiny64.model, ids)
    one = sum_adapters(adapters)
    assert set(one.weights) == {name for adapter in adapters for name in adapter.weights}
    with applied(tiny64.model, one):
        assert (logits(tiny64.model, ids) - expected).abs().max() <= 1e-12
    save_adapter(one, tmp_path, base_model="x")
    twin = PeftModel.from_pretrained(copy.deepcopy(tiny64.model), tmp_path)
    assert (logits(twin, ids) - expected).abs().max() <= 1e-4


def test_detached_copy_is_independent(tiny: LanguageModel) -> None:
    adapter = random_adapter(tiny.model, SPECS[0])
    for tensor in adapter.tensors():
        tensor.requires_grad_(True)
    kept = adapter.detached_copy()
    with torch.no_grad():
        adapter.tensors()[0].zero_()
    assert kept.tensors()[0].any()
    assert not any(tensor.requires_grad for tensor in kept.tensors())


# --- how it is stored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS)
def test_save_adapter_is_loaded_by_peft(
    tiny: LanguageModel, tiny_folder: Path, tmp_path: Path, ids: Tensor, spec: AdapterSpec
) -> None:
    adapter = random_adapter(tiny.model, spec)
    save_adapter(adapter, tmp_path / "adapter", base_model=str(tiny_folder))
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(
        tiny_folder
    )
    theirs = PeftModel.from_pretrained(copy.deepcopy(tiny.model), tmp_path / "adapter").eval()
    with applied(tiny.model, adapter):
        assert (logits(tiny.model, ids) - logits(theirs, ids)).abs().max() <= 1e-5


@pytest.mark.parametrize("spec", SPECS)
def test_load_adapter_returns_the_saved_one(
    tiny: LanguageModel, tmp_path: Path, ids: Tensor, spec: AdapterSpec
) -> None:
    adapter = random_adapter(tiny.model, spec)
    save_adapter(adapter, tmp_path, base_model="somewhere")
    again = load_adapter(tiny.model, tmp_path)
    assert again.weights.keys() == adapter.weights.keys()
    assert all(torch.equal(x, y) for x, y in zip(adapter.tensors(), again.tensors(), strict=True))
    assert again.scaling == adapter.scaling
    with applied(tiny.model, adapter):
        expected = logits(tiny.model, ids)
    with applied(tiny.model, again):
        assert torch.equal(logits(tiny.model, ids), expected)


def test_load_adapter_reads_peft_folder(tiny: LanguageModel, tmp_path: Path, ids: Tensor) -> None:
    twin = peft_twin(tiny.model, random_adapter(tiny.model, SPECS[1]))
    twin.save_pretrained(tmp_path)
    with applied(tiny.model, load_adapter(tiny.model, tmp_path)):
        assert (logits(tiny.model, ids) - logits(twin, ids)).abs().max() <= 1e-5


def without(state: dict[str, Tensor], key: str) -> None:
    del state[key]


def misshapen(state: dict[str, Tensor], key: str) -> None:
    state[key] = state[key][:, :-1].contiguous()


def not_a_number(state: dict[str, Tensor], key: str) -> None:
    state[key][0, 0] = math.nan


def unknown(state: dict[str, Tensor], key: str) -> None:
    state[key.replace("layers.0", "layers.9")] = state[key].clone()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(without, "missing"), (misshapen, "found"), (not_a_number, "found NaN"), (unknown, "does not adapt")],
)
def test_load_adapter_rejects_damaged_weights(tiny: LanguageModel, tmp_path: Path, damage: Any, message: str) -> None:
    save_adapter(random_adapter(tiny.model, SPECS[0]), tmp_path, base_model="somewhere")
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    key = next(key for key in sorted(state) if "layers.0" in key)
    damage(state, key)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_adapter(tiny.model, tmp_path)


@pytest.fixture
def stored(tiny: LanguageModel, tmp_path: Path) -> Path:
    """A folder with an adapter."""
    save_adapter(random_adapter(tiny.model, SPECS[0]), tmp_path / "adapter", base_model="somewhere")
    return tmp_path / "adapter"


def reconfigured(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("r", value) for value in (0, -1, 4097, 2.5, "3", True, None, [3])),
        *(("lora_alpha", value) for value in (0, -1.0, math.nan, math.inf, "6", None, True)),
        *(("lora_dropout", value) for value in (-0.1, 1.0, math.nan, "0")),
        *(
            ("target_modules", value)
            for value in ([], "", None, 3, ["a", 3], "(a+)+$", ".*", ["q_proj|v_proj"], ["a..b"])
        ),
        *(("peft_type", value) for value in ("LOHA", None, 1)),
        ("use_rslora", 1),
        ("layers_to_transform", "0"),
        ("rank_pattern", {"q_proj": 8}),
        ("alpha_pattern", {"q_proj": 8}),
        ("use_dora", True),
        ("bias", "all"),
        ("modules_to_save", ["lm_head"]),
        ("fan_in_fan_out", True),
        ("exclude_modules", ["v_proj"]),
        ("trainable_token_indices", [1]),
        ("layer_replication", [[0, 1]]),
        ("target_parameters", ["w"]),
        ("init_lora_weights", "pissa"),
        ("use_qalora", True),
        ("lora_bias", True),
        ("a_feature_to_come", {"on": True}),
    ],
)
def test_load_adapter_rejects_unsupported_configuration(
    tiny: LanguageModel, stored: Path, field: str, value: Any
) -> None:
    reconfigured(stored, **{field: value})
    with pytest.raises(ModelError, match=field):
        load_adapter(tiny.model, stored)


def test_load_adapter_ignores_fields_without_meaning(tiny: LanguageModel, stored: Path) -> None:
    reconfigured(stored, revision="main", task_type=None, peft_version="99", a_feature_to_come=None, loftq_config={})
    load_adapter(tiny.model, stored)


@pytest.mark.parametrize(
    "spec",
    [AdapterSpec(rank=2, target_modules=("q_proj",), layers=(1,)), AdapterSpec(rank=2, target_modules="all-linear")],
)
def test_load_adapter_accepts_target_names_of_peft(tiny: LanguageModel, tmp_path: Path, spec: AdapterSpec) -> None:
    adapter = random_adapter(tiny.model, spec)
    save_adapter(adapter, tmp_path, base_model="somewhere")
    layers = None if spec.layers is None else list(spec.layers)
    targets = "all-linear" if spec.target_modules == "all-linear" else list(spec.target_modules or ())
    reconfigured(tmp_path, target_modules=targets, layers_to_transform=layers)
    assert load_adapter(tiny.model, tmp_path).weights.keys() == adapter.weights.keys()
    if layers:
        reconfigured(tmp_path, target_modules="q_proj", layers_to_transform=1)
        assert load_adapter(tiny.model, tmp_path).weights.keys() == adapter.weights.keys()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "adapter_config.json is not a supported"),
        (b"[]", "adapter_config.json is not a supported"),
        (b"{}", "peft_type"),
        (b"\xff\xfe{", "adapter_config.json is not a supported"),
        (b"[" * 100_000, "adapter_config.json is not a supported"),
    ],
)
def test_load_adapter_rejects_invalid_configuration(
    tiny: LanguageModel, stored: Path, content: bytes, said: str
) -> None:
    (stored / "adapter_config.json").write_bytes(content)
    with pytest.raises(ModelError, match=said):
        load_adapter(tiny.model, stored)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a safetensors file"),
        (b"\x80\x02cos\nsystem\n", "is not a safetensors file"),
        ((2**63).to_bytes(8, "little"), "is not a safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "is not a safetensors file"),
    ],
)
def test_load_adapter_rejects_invalid_safetensors(tiny: LanguageModel, stored: Path, content: bytes, said: str) -> None:
    (stored / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=said) as caught:
        load_adapter(tiny.model, stored)
    assert "adapter_model.safetensors" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float8_e4m3fn, torch.complex64, torch.bool])
def test_load_adapter_rejects_other_dtypes(tiny: LanguageModel, stored: Path, dtype: torch.dtype) -> None:
    path = stored / "adapter_model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)
    with pytest.raises(ModelError, match="of type"):
        load_adapter(tiny.model, stored)


def test_load_adapter_rejects_pickles(tiny: LanguageModel, stored: Path) -> None:
    (stored / "adapter_model.safetensors").rename(stored / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickles are not loaded"):
        load_adapter(tiny.model, stored)


@pytest.mark.parametrize("url", ["https://hub/adapter", "s3://bucket/adapter"])
def test_load_adapter_rejects_urls(tiny: LanguageModel, url: str) -> None:
    with pytest.raises(ModelError, match="is a URL"):
        load_adapter(tiny.model, Path(url))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "missing"])
def test_load_adapter_rejects_pipes_and_folders(tiny: LanguageModel, stored: Path, name: str, kind: str) -> None:
    (stored / name).unlink()
    if kind == "pipe":
        os.mkfifo(stored / name)
    elif kind == "folder":
        (stored / name).mkdir()
    with pytest.raises(ModelError, match=name):
        load_adapter(tiny.model, stored)


def test_load_adapter_follows_links(tiny: LanguageModel, stored: Path, tmp_path: Path) -> None:
    """As the hub's cache has them."""
    (tmp_path / "linked").mkdir()
    for file in stored.iterdir():
        (tmp_path / "linked" / file.name).symlink_to(file)
    load_adapter(tiny.model, tmp_path / "linked")
