"""Two real processes with the policy's layers spread over them end as one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import end_all, ranks
from test_end_to_end import attempts, buffer, config, fit

STRATEGY = "seal_lightning.training.sharded_strategy.ShardedStrategy"


def settings_of(model: Path, run_dir: Path, options: dict | None, **more: Any) -> dict:
    """A run whose ranks get unlike work: five tasks, rows that make one rank more passes than the other."""
    settings = config(model, run_dir, **{"max_tokens_per_pass": 24, **more})
    settings["trainer"]["callbacks"] = [
        settings["trainer"]["callbacks"][0],
        {"class_path": "interruptions.Interrupt"},
        {"class_path": "seen.Seen", "init_args": {"folder": str(run_dir / "seen")}},
        {"class_path": "seal_lightning.callbacks.PolicyExport", "init_args": {"kind": "merged"}},
    ]
    settings["data"]["train"]["init_args"]["num_tasks"] = 5
    settings["data"]["tasks_per_batch"] = 1
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 3, "offset": 20}}
    if options is not None:
        settings["trainer"] |= {"devices": 2, "strategy": {"class_path": STRATEGY, "init_args": options}}
    return settings


def fit_on_two(tmp_path: Path, settings: dict, *more: str, num_ranks: int = 2, **environment: str) -> None:
    name = Path(settings["run_dir"]).name
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    logs = tmp_path / f"logs-{name}"
    environments = dict.fromkeys(range(num_ranks), environment)
    children = ranks(["fit", "-c", str(path), *more], logs, num_ranks, environments=environments)
    try:
        codes = [child.wait(100) for child in children]
    finally:
        end_all(children)
    assert codes == [0] * num_ranks, "\n".join(child.printed()[-3000:] for child in children)


def seen(run_dir: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(run_dir / "seen" / f"rank{rank}.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process."""
    run_dir = tmp_path_factory.mktemp("alone") / "alone"
    assert fit(run_dir.parent, settings_of(tiny_folder, run_dir, None)) == 0
    return run_dir


def assert_same(run_dir: Path, alone: Path, num_ranks: int = 2, tolerance: float = 1e-9) -> None:
    for round_index in (0, 1):
        mine, theirs = ({a.attempt_id: a for a in attempts(of, round_index)} for of in (run_dir, alone))
        assert mine.keys() == theirs.keys()
        assert len(attempts(run_dir, round_index)) == len(mine)  # each stored once
        for name in mine:
            assert mine[name].edit.text == theirs[name].edit.text
            assert mine[name].reward == pytest.approx(theirs[name].reward, abs=tolerance)
        assert [row.text for row in buffer(run_dir, round_index)] == [row.text for row in buffer(alone, round_index)]
    expected = seen(alone)
    all_found = [seen(run_dir, rank) for rank in range(num_ranks)]
    losses = torch.tensor([found["losses"] for found in all_found], dtype=torch.float64).mean(0)
    assert losses.tolist() == pytest.approx(expected["losses"], abs=tolerance)
    for found in all_found:
        for step, expected_step in zip(found["loras"], expected["loras"], strict=True):
            for tensor, other in zip(step, expected_step, strict=True):
                torch.testing.assert_close(tensor, other, rtol=0, atol=tolerance)
        for name, weight in found["weights"].items():
            torch.testing.assert_close(weight, expected["weights"][name], rtol=0, atol=tolerance)


@pytest.mark.slow
def test_sharded_fit_equals_one_process(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "two"
    fit_on_two(tmp_path, settings_of(tiny_folder, run_dir, {"whole_replicas": "always"}))
    assert_same(run_dir, alone)
    for rank in (0, 1):
        found = seen(run_dir, rank)
        assert found["held"] == seen(alone)["held"] / 2
        assert found["collectives_in_e_step"] == 0  # so ranks may do unlike work
    logged = [scalars(of) for of in (run_dir, alone)]
    for name in ("m_step/loss", "validation/reward", "round/reward_mean"):
        assert logged[0][name] == pytest.approx(logged[1][name], rel=1e-5)


def scalars(run_dir: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.slow
def test_sharded_fit_adapts_upper_layers_only(tiny_folder: Path, tmp_path: Path) -> None:
    """Passes that stop at the first adapted layer leave no layer gathered."""
    options: dict[str, Any] | None
    for name, options in (("one", None), ("two", {"whole_replicas": "always"})):
        settings = settings_of(tiny_folder, tmp_path / name, options, rounds=1)
        settings["model"]["domain"]["init_args"]["adapter"]["layers"] = [1]
        if options is None:
            assert fit(tmp_path, settings) == 0
        else:
            fit_on_two(tmp_path, settings)
    rewards = [{a.attempt_id: a.reward for a in attempts(tmp_path / name, 0)} for name in ("one", "two")]
    assert rewards[1] == pytest.approx(rewards[0], abs=1e-9)
    for name, weight in seen(tmp_path / "two", 1)["weights"].items():
        torch.testing.assert_close(weight, seen(tmp_path / "one")["weights"][name], rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sharded_fit_learns_in_bfloat16(dtype: str, tiny_folder: Path, tmp_path: Path) -> None:
    """Weights of bfloat16 under a LoRA; and float32 weights that all train while layers compute in bfloat16."""
    options: dict[str, Any] = {"whole_replicas": "always"}
    more: dict[str, Any] = {"rounds": 1, "gradient_checkpointing": True}
    if dtype == "float32":
        options["compute_dtype"] = "bfloat16"
        more |= {"policy_adapter": None, "reinforce": {"learning_rate": 0.002, "num_epochs": 3, "batch_size": 3}}
    settings = settings_of(tiny_folder, tmp_path / "run", options, **more)
    settings["model"]["pretrained"]["dtype"] = dtype
    fit_on_two(tmp_path, settings)
    of_ranks = [seen(tmp_path / "run", rank) for rank in (0, 1)]
    losses = torch.tensor([found["losses"] for found in of_ranks]).mean(0)
    assert losses[-3:].mean() < losses[:3].mean()
    for name, weight in of_ranks[0]["weights"].items():
        assert weight.dtype is getattr(torch, dtype)
        assert torch.equal(weight, of_ranks[1]["weights"][name])


@pytest.mark.slow
def test_sharded_fit_on_one_rank(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """As on a machine with one GPU."""
    settings = settings_of(tiny_folder, tmp_path / "run", {}, gradient_checkpointing=True)
    settings["trainer"]["devices"] = 1
    fit_on_two(tmp_path, settings, num_ranks=1)
    assert_same(tmp_path / "run", alone, num_ranks=1)


@pytest.mark.slow
def test_sharding_options_change_memory_only(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "frugal"
    options = {"whole_replicas": "always", "cpu_offload": True}
    fit_on_two(tmp_path, settings_of(tiny_folder, run_dir, options, gradient_checkpointing=True))
    assert_same(run_dir, alone)


@pytest.mark.slow
def test_sharded_fit_in_two_groups_of_two(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "groups"
    options = {"whole_replicas": "always", "ranks_per_copy": 2}
    settings = settings_of(tiny_folder, run_dir, options)
    settings["trainer"]["devices"] = 4
    fit_on_two(tmp_path, settings, num_ranks=4)
    assert_same(run_dir, alone, num_ranks=4)
