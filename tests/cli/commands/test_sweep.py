"""`seal sweep` on a tiny model: what is tried, how settings are compared, and what is written of the best one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakes import ToyDomain, ToyTask

from seal_lightning.attempts import AttemptRunner
from seal_lightning.cli.commands.loading import load_settings, merged_settings
from seal_lightning.cli.commands.sweep import main
from seal_lightning.cli.commands.sweep_edits import given_edits
from seal_lightning.cli.commands.sweep_report import configurable
from seal_lightning.cli.main import main as seal
from seal_lightning.core import (
    AdaptationPlan,
    AdapterSpec,
    Attempt,
    AttemptStatus,
    ExamScores,
    OptimizerSpec,
    PlanSummary,
    QuestionScore,
    SelfEdit,
    Task,
    Trial,
)
from seal_lightning.core.errors import ConfigError, RunError, SealError
from seal_lightning.core.estimates import Estimate
from seal_lightning.core.interfaces import Writer
from seal_lightning.core.seeds import derive_seed
from seal_lightning.evaluation.sweep_grid import Setting, check_effective, read_grid
from seal_lightning.evaluation.sweeping import (
    GivenEdit,
    SweepTrial,
    cheapest_within_noise,
    is_within_noise,
    setting_rows,
    sweep_trials,
)
from seal_lightning.scoring.rewards import LikelihoodReward
from seal_lightning.storage.attempt_store import AttemptStore
from seal_lightning.storage.run_dir import RunDir

GRID = ["--grid", "learning_rate=1e-7,0.05", "rank=2,4"]


class StoneWriter(Writer):
    """Writes the fact twice, and a blank edit about stone 1."""

    def write(self, tasks: Sequence[Task], num_edits: int, seeds: Mapping[tuple[str, int], int]) -> list[SelfEdit]:
        texts = {task.task_id: "" if task.task_id == "stone-1" else f"{task.task_id}\n{task.task_id}" for task in tasks}
        return [
            SelfEdit(task_id=task.task_id, edit_index=index, text=texts[task.task_id])
            for task in tasks
            for index in range(num_edits)
        ]


class StubbornDomain(ToyDomain):
    """Its edits decide the learning rate, as ARC's do."""

    def plan_without_edit(self, task: ToyTask) -> AdaptationPlan:
        plan = super().plan_without_edit(task)
        return AdaptationPlan(sequences=plan.sequences, adapter=self.adapter, optimizer=OptimizerSpec())


class ClosedDomain(ToyDomain):
    """Takes no settings."""

    def __init__(self) -> None:
        super().__init__()


def settings(tiny_folder: Path) -> dict[str, Any]:
    return {
        "trainer": {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False},
        "model": {
            "pretrained": {"source": str(tiny_folder), "dtype": "float64"},
            "domain": {
                "class_path": "fakes.ToyDomain",
                "init_args": {
                    "adapter": {"rank": 8, "alpha": 8, "target_modules": "all-linear"},
                    "optimizer": {"learning_rate": 0.02, "num_epochs": 3},
                },
            },
            "sampling": {"max_new_tokens": 6},
            "rounds": 1,
            "num_edits": 2,
            "num_repeats": 1,
            "test_writers": {"stones": {"class_path": "test_sweep.StoneWriter"}},
        },
        "data": {
            "train": {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 3}},
            "test": {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 2, "offset": 10}},
        },
    }


@pytest.fixture
def config(tiny_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings(tiny_folder)))
    return path


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("sweep")
    chosen = settings(tiny_folder) | {"run_dir": str(folder / "run")}
    chosen["trainer"]["callbacks"] = [{"class_path": "seal_lightning.callbacks.BestOfK", "init_args": {"k": 1}}]
    (folder / "settings.yaml").write_text(yaml.safe_dump(chosen))
    assert seal(["fit", "-c", str(folder / "settings.yaml")]) == 0
    return RunDir(folder / "run")


# --- the grid


def test_a_grid_is_every_combination_of_typed_values() -> None:
    texts = ["schedule=linear,cosine", "rank=4", "target_modules=q_proj+v_proj,all-linear,null", "layers=0,0+1"]
    found = read_grid([*texts, "learning_rate=1e-4", "max_grad_norm=null,0.5", "use_rslora=true"], 1000)
    assert len(found) == 2 * 3 * 2 * 2
    plan = AdaptationPlan(sequences=(), adapter=AdapterSpec(rank=32, alpha=7.0), optimizer=OptimizerSpec(num_epochs=9))
    first, last = found[0].applied(plan), found[-1].applied(plan)
    modules = ("q_proj", "v_proj")
    assert first.adapter == AdapterSpec(rank=4, alpha=7.0, target_modules=modules, layers=(0,), use_rslora=True)
    assert first.optimizer == OptimizerSpec(num_epochs=9, learning_rate=1e-4, max_grad_norm=None, schedule="linear")
    assert (last.adapter.target_modules, last.adapter.layers) == (None, (0, 1))
    assert (last.optimizer.max_grad_norm, last.optimizer.schedule) == (0.5, "cosine")
    assert found[0].name.startswith(
        "rank=4,target_modules=q_proj+v_proj,layers=0,use_rslora=true,learning_rate=0.0001,"
    )
    assert len({setting.name for setting in found}) == len(found)
    assert [one.name for one in read_grid(["rank=4", "alpha=8"], 9)] == [
        one.name for one in read_grid(["alpha=8", "rank=4"], 9)
    ]


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["speed=1"], r"Fields: rank \(int\), .*schedule \(linear, cosine, constant\)"),
        (["rank"], "FIELD=VALUE"),
        (["rank=1", "rank=2"], "each field once"),
        (["rank=1,x"], r"--grid rank: 'x' is not allowed; it must be int"),
        (["rank=2,"], "rank: '' is not allowed"),
        (["rank=null"], "it must be int"),
        (["rank=2+4"], "it must be int"),
        (["rank=0"], "adapter.rank: 0 is not allowed; it must be at least 1"),
        (["learning_rate=nan"], "above 0 and finite"),
        (["schedule=steep"], "'steep' is not allowed; it must be linear, cosine, constant"),
        (["layers=a"], r"it must be 0\+1\+…, null"),
        (["target_modules=q_proj+"], "NAME"),
        (["learning_rate=1e-3,0.001"], "0.001 is given twice"),
        (["rank=1,2,3", "alpha=1,2,3"], "9 settings; allowed are 8 candidates"),
        ([], "--grid is empty"),
    ],
)
def test_a_grid_that_is_none(texts: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_grid(texts, 8)


def test_a_field_that_would_mean_nothing_is_refused() -> None:
    plan = AdaptationPlan(sequences=(), adapter=AdapterSpec(), optimizer=OptimizerSpec(max_steps=5))
    with pytest.raises(ConfigError, match=r"num_epochs means nothing while max_steps is 5; .* set max_steps=null"):
        check_effective(read_grid(["num_epochs=1,2"], 9), [plan])
    check_effective(read_grid(["num_epochs=1,2", "max_steps=null"], 9), [plan])
    with pytest.raises(ConfigError, match="num_epochs means nothing while max_steps is 3"):
        check_effective(read_grid(["num_epochs=1,2", "max_steps=3"], 9), [plan])
    with pytest.raises(ConfigError, match="rank means nothing to the run's inner loop, which trains all weights"):
        check_effective(read_grid(["rank=1,2"], 9), [plan], adapters=False)
    check_effective(read_grid(["rank=1,2"], 9), [plan])


# --- what is compared with what


def attempt(one: SweepTrial, after: float | None, num_tokens: int = 100) -> Attempt:
    def exam(log_prob: float) -> ExamScores:
        return ExamScores(questions=(QuestionScore(question_id="q", log_prob=log_prob),))

    plan = PlanSummary(num_sequences=1, num_steps=1, num_tokens=num_tokens, learning_rate=1.0, rank=1)
    return Attempt(
        attempt_id=one.trial.attempt_id,
        round=0,
        repeat=one.trial.repeat,
        seed=one.trial.seed,
        edit=one.trial.edit,
        status=AttemptStatus.SCORED if after is not None else AttemptStatus.DIVERGED,
        plan=plan,
        before=exam(-5.0),
        after=None if after is None else exam(after),
        reward=after,
    )


def stored(scores: Mapping[int, Sequence[float | None]], tokens: Mapping[int, int]) -> tuple[list[Setting], Any, Any]:
    """By rank, the scores of tasks a, b …, tried once."""
    grid = read_grid([f"rank={','.join(map(str, scores))}"], 9)
    plan = AdaptationPlan(sequences=(), adapter=AdapterSpec(), optimizer=OptimizerSpec())
    tasks = [Task(task_id=letter) for letter in "abcd"[: len(scores[1])]]
    given = [GivenEdit(task=t, edit=SelfEdit(task_id=t.task_id, edit_index=0, text="x"), plan=plan) for t in tasks]
    here = {task.task_id: "here" for task in tasks}
    trials = sweep_trials(given, grid, 1, seed=1, round_index=0, kind="k", circumstances=here)
    store = AttemptStore(None)
    for one in trials:
        rank = one.setting.adapter["rank"]
        store.add(attempt(one, scores[rank]["abcd".index(one.trial.task.task_id)], tokens[rank]))
    return grid, trials, store


def test_settings_are_compared_in_pairs_and_the_cheapest_inside_the_noise_is_named() -> None:
    """Tasks differ by far more than settings do; even so rank 2 is surely worse than rank 1, and rank 3 maybe."""
    scores = {
        1: [-1.0, -11.0, -21.0, -31.0],
        2: [-1.2, -11.3, -21.1, -31.2],
        3: [-1.5, -11.5, -20.3, -30.9],
    }
    rows = setting_rows(*stored(scores, {1: 100, 2: 10, 3: 50}), LikelihoodReward())
    assert [row.setting.adapter["rank"] for row in rows] == [1, 3, 2]
    assert [row.within_noise for row in rows] == [None, True, False]
    assert rows[2].difference is not None
    assert rows[2].difference.mean == pytest.approx(-0.2)
    assert rows[2].difference.standard_error == pytest.approx((0.02 / 3) ** 0.5 / 2)
    assert cheapest_within_noise(rows) is rows[1]


def test_what_diverged_counts_as_no_adaptation() -> None:
    rows = setting_rows(*stored({1: [-1.0, -1.0], 2: [-1.0, None]}, {1: 10, 2: 10}), LikelihoodReward())
    assert rows[1].by_task == {"a": -1.0, "b": -5.0}
    assert (rows[1].num_failed, rows[0].num_failed) == (1, 0)
    alone = setting_rows(*stored({1: [-1.0], 2: [-2.0]}, {1: 10, 2: 10}), LikelihoodReward())
    assert alone[1].within_noise is None


def test_the_noise_is_student_s_interval() -> None:
    """Of few tasks the standard error is rough itself."""
    for n, critical in ((2, 12.71), (3, 4.30), (6, 2.57), (1000, 2.09)):
        assert is_within_noise(Estimate(mean=-0.99 * critical, standard_error=1.0, n=n)) is True
        assert is_within_noise(Estimate(mean=-1.01 * critical, standard_error=1.0, n=n)) is False
    assert is_within_noise(Estimate(mean=0.0, standard_error=0.0, n=2)) is True
    assert is_within_noise(Estimate(mean=-1.0, standard_error=None, n=1)) is None


# --- the command


@pytest.mark.slow
def test_a_sweep_without_a_run(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["-c", str(config), "--out", str(tmp_path / "out"), "--edits", "passage", "--num_tasks", "2"]
    assert main([*command, *GRID]) == 0
    printed = capsys.readouterr().out
    assert "Best: rank=" in printed
    assert "Of 2 tasks the standard errors are rough themselves" in printed
    content = json.loads((tmp_path / "out" / "results" / "sweep.json").read_text())
    assert {row["setting"]["learning_rate"] for row in content["settings"][:2]} == {0.05}
    assert content["best"] == content["settings"][0]["name"]
    attempts = AttemptStore(tmp_path / "out" / "sweep").all()
    assert len(attempts) == 2 * 2 * 2
    assert {a.seed for a in attempts} == {derive_seed(1, "sweep", f"stone-{n}", 0, 0) for n in range(2)}
    row = next(row for row in content["settings"] if row["setting"] == {"rank": 4, "learning_rate": 0.05})
    assert row["by_task"] == pytest.approx(alone(config, rank=4, learning_rate=0.05))

    best = str(tmp_path / "out" / "results" / "sweep_best.yaml")
    module, _ = load_settings(merged_settings([config, best]), "")
    plan = module.domain.plan_without_edit(ToyTask(task_id="t", key="k", value="v"))
    chosen = content["settings"][0]["setting"]
    assert plan.adapter == AdapterSpec(rank=chosen["rank"], alpha=8, target_modules="all-linear")
    assert plan.optimizer == OptimizerSpec(learning_rate=0.05, num_epochs=3, batch_size=2)
    with pytest.raises(SystemExit):
        seal(["fit", "-c", str(config), "-c", best, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"] == merged_settings([config, best])["model"]

    goes_on(command, tmp_path, attempts)
    other = tmp_path / "other.yaml"
    other.write_text("model: {domain: {init_args: {optimizer: {num_epochs: 5}}}}")
    with pytest.raises(RunError, match="made with another configuration of the model"):
        main([*command, *GRID, "-c", str(other)])


def alone(config: Path, **setting: Any) -> dict[str, float]:
    """The log-probability of the answers after each passage was learned alone, by the seams themselves."""
    from dataclasses import replace

    from seal_lightning.core import Adapted, ScoreRequest

    module, data = load_settings(merged_settings([config]), "")
    module.configure_model()
    data.setup("fit")
    found = {}
    for task in data.train_tasks()[:2]:
        plan = module.domain.plan_without_edit(task)
        adapter = replace(plan.adapter, rank=setting["rank"])
        optimizer = replace(plan.optimizer, learning_rate=setting["learning_rate"])
        plan = replace(plan, adapter=adapter, optimizer=optimizer)
        seed = derive_seed(module.seed, "sweep", task.task_id, 0, 0)
        (outcome,) = module.inner_loop.adapt([plan], [seed])
        assert isinstance(outcome, Adapted)
        (prompt,) = module.domain.exam(task)
        request = ScoreRequest(prompt=prompt.prompt, target=prompt.target, adapter=outcome.adapter)
        (log_probs,) = module.engine.score([request])
        found[task.task_id] = sum(log_probs) / len(log_probs)
    return found


def goes_on(command: list[str], tmp_path: Path, first: list[Attempt]) -> None:
    """A larger grid tries what is new only, however the grid is ordered; results are kept beside the older ones."""
    assert main([*command, "--grid", "rank=2,4", "learning_rate=1e-7,0.05,1e30", "--at_once", "3"]) == 0
    attempts = AttemptStore(tmp_path / "out" / "sweep").all()
    assert attempts[: len(first)] == first
    assert len(attempts) == len(first) + 2 * 2
    content = json.loads((tmp_path / "out" / "results" / "sweep-2.json").read_text())
    failed = {row["setting"]["learning_rate"]: row["num_failed"] for row in content["settings"]}
    assert failed == {1e-7: 0, 0.05: 0, 1e30: 2}
    worst = next(row for row in content["settings"] if row["num_failed"])
    assert worst["by_task"] == content["unadapted_by_task"]


def test_a_sweep_of_a_run_takes_what_it_has_stored(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(run.path), "--grid", "num_epochs=1,2", "--score", "reward", "--num_edits", "2", "--num_seeds", "2"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "seal fit -c" in printed
    tried = {(a.task_id, a.edit.edit_index): a.edit.text for a in AttemptStore(run.round(0)).all()}
    swept = AttemptStore(run.sweep).all()
    usable = {key: text for key, text in tried.items() if text.strip()}
    assert {(a.task_id, a.edit.edit_index): a.edit.text for a in swept} == usable
    assert len(swept) == len(usable) * 2 * 2
    assert not any(a.edit.token_ids for a in swept)
    steps = {a.plan.num_steps for a in swept if a.plan is not None and "num_epochs=2" in a.attempt_id}
    assert steps == {2 * s for s in {a.plan.num_steps for a in swept if a.plan and "num_epochs=1" in a.attempt_id}}
    with pytest.raises(RunError, match=r"no edits of these tasks, only of those of the E-step"):
        main([*command, "--tasks", "test"])


def test_own_edits_and_those_of_other_writers(config: Path) -> None:
    module, data = load_settings(merged_settings([config]), "")
    module.configure_model()
    data.setup("fit")
    tasks = data.train_tasks()
    given, left_out = given_edits("writer:stones", 2, None, module, tasks)
    assert [(one.task.task_id, one.edit.edit_index) for one in given] == [
        (f"stone-{n}", index) for n in (0, 2) for index in (0, 1)
    ]
    assert [one.task_id for one in left_out] == ["stone-1", "stone-1"]
    assert [one.reason for one in left_out] == [f"edit {index} is malformed: empty: ''" for index in (0, 1)]
    with pytest.raises(ConfigError, match=r"model.test_writers has 'stones'"):
        given_edits("writer:none", 2, None, module, tasks)
    with pytest.raises(RunError, match="none of 1 tasks has an edit to train on"):
        given_edits("writer:stones", 1, None, module, tasks[1:2])
    own, _ = given_edits("own", 1, None, module, tasks)
    again, _ = given_edits("own", 1, None, module, tasks)
    assert [one.edit.text for one in own] == [one.edit.text for one in again]


def test_what_is_stored_must_be_the_same_edit(tmp_path: Path) -> None:
    plan = AdaptationPlan(sequences=(), adapter=AdapterSpec(), optimizer=OptimizerSpec())

    def trials(text: str, seed: int, asked: str = "here") -> list[SweepTrial]:
        edit = SelfEdit(task_id="a", edit_index=0, text=text)
        given = [GivenEdit(task=Task(task_id="a"), edit=edit, plan=plan)]
        grid, here = read_grid(["rank=1"], 1), {"a": asked}
        return sweep_trials(given, grid, 1, seed=seed, round_index=0, kind="k", circumstances=here)

    store = AttemptStore(None)
    store.add(attempt(trials("x", 1)[0], -1.0))

    def missing(sweep: list[SweepTrial]) -> list[Trial]:
        return AttemptRunner.missing([one.trial for one in sweep], store)

    assert missing(trials("x", 1)) == []
    assert len(missing(trials("x", 1, asked="another question"))) == 1
    for other in (trials("y", 1), trials("x", 2)):
        with pytest.raises(RunError, match="another seed or edit"):
            missing(other)


@pytest.mark.parametrize(
    ("domain", "kept", "said"),
    [
        ("StubbornDomain", {"rank": 4}, "learning_rate: the edit or the domain decides"),
        ("ClosedDomain", {}, "adapter"),
    ],
)
def test_what_no_configuration_can_say(domain: str, kept: dict[str, Any], said: str, config: Path) -> None:
    chosen = yaml.safe_load(config.read_text())
    chosen["model"]["domain"] = {"class_path": f"test_sweep.{domain}"}
    config.write_text(yaml.safe_dump(chosen))
    setting = Setting(adapter={"rank": 4}, optimizer={"learning_rate": 0.03})
    task = ToyTask(task_id="t", key="k", value="v")
    one = GivenEdit(
        task=task, edit=SelfEdit(task_id="t", edit_index=0, text=""), plan=ToyDomain().plan_without_edit(task)
    )
    found, why_not = configurable(setting, [config], [one], without_edit=True)
    assert found.values == kept
    assert why_not is not None
    assert said in why_not


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "-c", "a.yaml"], "either a run directory or configurations"),
        ([], "either a run directory or configurations"),
        (["-c", "a.yaml"], "--out is missing"),
        (["-c", "a.yaml", "--out", "o", "--edits", "stored"], "--edits stored needs a run"),
        (["-c", "a.yaml", "--out", "o", "--policy", "newest"], "--policy newest needs a run"),
        (["-c", "a.yaml", "--out", "o", "--edits", "edits.json"], "it must be stored, own, passage or writer:NAME"),
        (["-c", "a.yaml", "--out", "o", "--edits", "writer"], "it must be stored"),
        (["-c", "a.yaml", "--out", "../o"], "--out"),
        (["-c", "no-such.yaml", "--out", "o"], "no-such.yaml"),
        (["no-such-run"], "no-such-run"),
    ],
)
def test_what_is_refused_before_anything_is_loaded(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SealError, match=said):
        main([*arguments, *GRID])
    assert not list(tmp_path.iterdir())
