"""A policy that is trained whole, between its rounds and within one; fits of it are in tests/distributed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fakes import weights_hash

from seal_lightning.cli.commands.sweep import _content
from seal_lightning.core.errors import ConfigError
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.training.full_policy import FullPolicy
from seal_lightning.training.module import SealModule


@pytest.fixture
def policy(tiny_folder: Path, tmp_path: Path) -> FullPolicy:
    made = FullPolicy(Pretrained(source=str(tiny_folder)), seed=1)
    made.run_dir = tmp_path
    return made


def change(policy: FullPolicy) -> None:
    policy.train_together()
    with torch.no_grad():
        next(policy.model.parameters()).add_(1.0)


def test_full_policy_leaves_an_unfinished_round(policy: FullPolicy) -> None:
    before = weights_hash(policy.model)
    change(policy)
    assert policy.language_model.merged is None
    policy.go_to(0)
    assert weights_hash(policy.model) == before
    assert policy.language_model.merged == ()
    change(policy)
    policy.load_merged_states([])
    assert weights_hash(policy.model) == before


def test_full_policy_reloads_other_folders(policy: FullPolicy, tmp_path: Path) -> None:
    change(policy)
    policy.merge_round()
    of_first, first = weights_hash(policy.model), tmp_path / "round_0" / "policy"
    change(policy)
    weights = policy.whole_weights(keep=True)
    other = tmp_path / "other"
    other.mkdir()
    policy.export(other, "merged", weights)
    policy.load_merged_states([{"folder": str(other)}])
    assert weights_hash(policy.model) != of_first
    policy.load_merged_states([{"folder": str(first)}])
    assert weights_hash(policy.model) == of_first
    assert policy.language_model.merged is None
    assert _content(str(first)) != _content(str(other)) != _content(torch.zeros(2))
    assert _content(str(first)) == _content(str(first))


def test_module_refuses_impossible_gradient_checkpointing(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "seal_lightning.models.packed.gradient_checkpointing.GradientCheckpointingLayer", torch.nn.Conv3d
    )
    module = SealModule(domain=None, pretrained=Pretrained(source=str(tiny_folder)), gradient_checkpointing=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gradient_checkpointing: true is not allowed"):
        module.configure_model()
