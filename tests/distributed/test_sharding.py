"""What is decided about sharding before anything is sharded; the rest needs ranks (tests/distributed)."""

import pytest
import torch
from torch import nn

from seal_lightning.core.errors import ConfigError
from seal_lightning.distributed import sharded_layers
from seal_lightning.distributed.sharded_layers import (
    ShardingOptions,
    clip_gradients,
    decoder_layers,
    weight_bytes,
    whole_replicas,
)
from seal_lightning.models.language_model import LanguageModel


def test_the_rule_for_whole_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_layers.dist, "all_reduce", lambda *args, **kwargs: None)
    monkeypatch.setattr(sharded_layers, "memory_bytes", lambda device_type: 1000)
    assert whole_replicas(ShardingOptions(), 500, "cpu")
    assert not whole_replicas(ShardingOptions(), 501, "cpu")
    assert whole_replicas(ShardingOptions(whole_replicas="always"), 10_000, "cpu")
    assert not whole_replicas(ShardingOptions(whole_replicas="never"), 1, "cpu")


def test_weights_are_counted_as_they_compute(tiny: LanguageModel) -> None:
    in_layers = sum(p.numel() for p in decoder_layers(tiny.model).parameters())
    in_all = sum(p.numel() for p in tiny.model.parameters())
    assert weight_bytes(tiny.model, ShardingOptions()) == 4 * in_all
    assert weight_bytes(tiny.model, ShardingOptions(compute_dtype="bfloat16")) == 4 * in_all - 2 * in_layers


def test_a_model_without_a_list_of_layers(tiny: LanguageModel) -> None:
    tiny.model.model.layers = nn.Sequential(*tiny.model.model.layers)
    with pytest.raises(ConfigError, match="no list of its 2 layers"):
        decoder_layers(tiny.model)


def test_clipping_is_torch_s_where_nothing_is_sharded() -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([3.0, 4.0, 0.0])
    assert clip_gradients([weight], 1.0) == 5.0
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8, 0.0]))
