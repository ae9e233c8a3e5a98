"""Two real processes with the policy's layers spread over them end as one process does, whichever way they work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from children import end_all, ranks
from test_end_to_end import attempts, buffer, config, fit

STRATEGY = "seal_lightning.sharded_strategy.ShardedStrategy"


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


@pytest.mark.parametrize("whole_replicas", ["always", "never"])
def test_equals_one_process(whole_replicas: str, alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / whole_replicas
    fit_on_two(tmp_path, settings_of(tiny_folder, run_dir, {"whole_replicas": whole_replicas}))
    assert_same(run_dir, alone)


def test_options_change_nothing_but_memory(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "frugal"
    options = {"whole_replicas": "always", "activation_checkpointing": True, "cpu_offload": True}
    fit_on_two(tmp_path, settings_of(tiny_folder, run_dir, options))
    assert_same(run_dir, alone)


def test_two_groups_of_two(alone: Path, tiny_folder: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "groups"
    options = {"whole_replicas": "never", "ranks_per_copy": 2}
    settings = settings_of(tiny_folder, run_dir, options)
    settings["trainer"]["devices"] = 4
    fit_on_two(tmp_path, settings, num_ranks=4)
    assert_same(run_dir, alone, num_ranks=4)
