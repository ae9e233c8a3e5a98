"""The policy over rounds: merged once each, rewound exactly, restored from a checkpoint bit for bit."""

from pathlib import Path

import pytest
import torch

from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import ModelError
from seal_lightning.models.pretrained import Pretrained
from seal_lightning.training.policy import Policy

SPEC = AdapterSpec(rank=4, alpha=8, target_modules="all-linear")


def make(folder: Path, rounds: int, spec: AdapterSpec = SPEC) -> Policy:
    policy = Policy(Pretrained(source=str(folder), dtype="float32"), spec, seed=3)
    for round_index in range(rounds):
        train(policy, round_index)
    return policy


def train(policy: Policy, round_index: int) -> None:
    """Something like an M-step: weights that are not as they started."""
    generator = torch.Generator().manual_seed(round_index)
    with torch.no_grad():
        for parameter in policy.lora:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    policy.merge_round()


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_policy_merges_each_round_once(tiny_folder: Path) -> None:
    policy = make(tiny_folder, 2)
    base = make(tiny_folder, 0)
    for name in policy.module_names:
        update = sum((b @ a) * adapter.scaling for adapter in policy.merged for a, b in [adapter.weights[name]])
        expected = base.model.get_submodule(name).weight + update
        assert torch.allclose(policy.model.get_submodule(name).weight, expected, atol=1e-6)


def test_policy_keeps_its_parameter_objects(tiny_folder: Path) -> None:
    policy = make(tiny_folder, 0)
    before = list(policy.lora)
    train(policy, 0)
    assert all(a is b for a, b in zip(before, policy.lora, strict=True))
    assert all(not tensor.any() for tensor in list(policy.lora)[1::2])  # B is zero again
    first_round = make(tiny_folder, 0)
    assert not torch.equal(policy.lora[0], first_round.lora[0])  # A comes from the round's own seed


def test_policy_go_to_is_exact(tiny_folder: Path) -> None:
    policy = make(tiny_folder, 0)
    states = [weights(policy)]
    for round_index in range(3):
        train(policy, round_index)
        states.append(weights(policy))
    for target in (3, 0, 1, 3, 2, 0, 3):
        policy.go_to(target)
        assert same(weights(policy), states[target]), target


def test_policy_model_lists_its_merged_adapters(tiny_folder: Path) -> None:
    policy = make(tiny_folder, 2)
    assert policy.language_model.merged == tuple(policy.merged)
    for target in (1, 2, 0):
        policy.go_to(target)
        assert policy.language_model.merged == tuple(policy.merged[:target])
    policy.load_merged_states(make(tiny_folder, 3).merged_states())
    assert policy.language_model.merged == tuple(policy.merged)
    assert len(policy.merged) == 3


def test_policy_checkpoint_restores_bit_for_bit(tiny_folder: Path) -> None:
    policy = make(tiny_folder, 2)
    other = make(tiny_folder, 1)
    other.load_merged_states(policy.merged_states())
    assert same(weights(policy), weights(other))
    assert other.num_rounds == 2


def test_policy_refuses_a_checkpoint_of_another_shape(tiny_folder: Path) -> None:
    states = make(tiny_folder, 1).merged_states()
    with pytest.raises(ModelError, match=r"is \(4, 32\), expected \(2, 32\)"):
        make(tiny_folder, 0, AdapterSpec(rank=2, alpha=8, target_modules="all-linear")).load_merged_states(states)
    with pytest.raises(ModelError, match="another model or policy_adapter"):
        make(tiny_folder, 0).load_merged_states([{"other.A": torch.zeros(1)}])


def test_policy_never_merges_nan(tiny_folder: Path) -> None:
    policy = make(tiny_folder, 1)
    before = weights(policy)
    with torch.no_grad():
        policy.lora[1][0, 0] = float("nan")
    with pytest.raises(ModelError, match="not merged"):
        policy.merge_round()
    assert same(before, weights(policy))
    assert len(policy.merged) == 1
