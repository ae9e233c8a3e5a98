"""Decisions about sharding that need no second rank."""

from types import SimpleNamespace
from typing import Any

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
from seal_lightning.generation import TransformersEngine, VllmEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.training.sharded_strategy import _check_edits_can_be_tried


def test_whole_replicas_follow_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded_layers.dist, "all_reduce", lambda *args, **kwargs: None)
    monkeypatch.setattr(sharded_layers, "memory_bytes", lambda device_type: 1000)
    assert whole_replicas(ShardingOptions(), 500, "cpu")
    assert not whole_replicas(ShardingOptions(), 501, "cpu")
    assert whole_replicas(ShardingOptions(whole_replicas="always"), 10_000, "cpu")
    assert not whole_replicas(ShardingOptions(whole_replicas="never"), 1, "cpu")


def test_weight_bytes_count_the_computing_type(tiny: LanguageModel) -> None:
    in_layers = sum(p.numel() for p in decoder_layers(tiny.model).parameters())
    in_all = sum(p.numel() for p in tiny.model.parameters())
    assert weight_bytes(tiny.model, ShardingOptions()) == 4 * in_all
    assert weight_bytes(tiny.model, ShardingOptions(compute_dtype="bfloat16")) == 4 * in_all - 2 * in_layers


def test_decoder_layers_need_a_list(tiny: LanguageModel) -> None:
    tiny.model.model.layers = nn.Sequential(*tiny.model.model.layers)
    with pytest.raises(ConfigError, match="no list of its 2 layers"):
        decoder_layers(tiny.model)


def test_clip_gradients_of_plain_tensors_is_torchs() -> None:
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([3.0, 4.0, 0.0])
    assert clip_gradients([weight], 1.0) == 5.0
    torch.testing.assert_close(weight.grad, torch.tensor([0.6, 0.8, 0.0]))


def test_shards_without_a_server_and_student_are_refused() -> None:
    sharded = SimpleNamespace(whole_replicas=False, num_bytes=3 * 2**30)
    policy: Any = SimpleNamespace(sharded=sharded)
    server, student = VllmEngine("base", max_difference=None), nn.Linear(1, 1)
    refused = [(TransformersEngine(), student), (server, None), (VllmEngine("base"), student)]
    for engine, learner in refused:
        with pytest.raises(ConfigError, match=r"weights \(3\.0 GiB as they compute\) are not kept whole .*'auto'"):
            _check_edits_can_be_tried(policy, ShardingOptions(), engine, learner)
    _check_edits_can_be_tried(policy, ShardingOptions(), server, student)
    sharded.whole_replicas = True
    _check_edits_can_be_tried(policy, ShardingOptions(), TransformersEngine(), None)
