"""Pictures and submissions of ARC runs, from results made by hand."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import ToyTasks
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seal_lightning.callbacks import ArcPictures, ArcSubmission, arc_pictures
from seal_lightning.callbacks.arc_answers import attempted_grids
from seal_lightning.callbacks.arc_pictures import best_attempt
from seal_lightning.core import (
    Attempt,
    AttemptStatus,
    Candidate,
    ConditionNames,
    ExamScores,
    QuestionScore,
    SelfEdit,
    Task,
    Verdict,
    VerdictStatus,
)
from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.domains.arc.drawing import pixels, task_figure
from seal_lightning.domains.arc.grids import ArcTask, Demonstration, TestPair
from seal_lightning.evaluation import Condition, ConditionResult
from seal_lightning.storage.run_dir import RunDir
from seal_lightning.training.data_module import SealDataModule

NAMES = ConditionNames(unadapted="in context", self_edit="SEAL")
GOLD = ((1, 2), (3, 4))


def arc_task(task_id: str, num_tests: int = 1, output: Any = GOLD) -> ArcTask:
    return ArcTask(
        task_id=task_id,
        demonstrations=(Demonstration(input=((5,),), output=((6,),)),),
        tests=(TestPair(input=((7, 7),), output=output),) * num_tests,
    )


class Tasks(TaskSource):
    def __init__(self, *tasks: Task) -> None:
        self.given = tasks

    def load(self) -> list[Task]:
        return list(self.given)


def scores(*answers: str | tuple[str, ...] | None, right: bool = False, credit: float | None = None) -> ExamScores:
    """One question for each answer; a tuple has further answers behind the first."""
    questions = []
    for number, given in enumerate(answers):
        first, *further = given if isinstance(given, tuple) else (given,)
        status = VerdictStatus.CORRECT if right else VerdictStatus.WRONG
        question = QuestionScore(
            question_id=f"anything-{9 - number}",  # pairs go by order
            answer=first,
            further_answers=tuple(further),
            verdict=Verdict(question_id=f"anything-{9 - number}", status=status),
            partial_credit=credit,
        )
        questions.append(question)
    return ExamScores(questions=tuple(questions))


def result(task_id: str, exam: ExamScores, *, round_index: int = 2, **more: Any) -> ConditionResult:
    condition = more.pop("condition", Condition.SELF_EDIT)
    return ConditionResult(condition=condition, round=round_index, task_id=task_id, scores=exam, **more)


class Run:
    """What of a trainer and a module the callbacks see."""

    def __init__(self, folder: Path, train: TaskSource, test: TaskSource | None = None, logger: bool = True) -> None:
        data = SealDataModule(train=train, test=test)
        data.setup("fit")
        self.path = folder / "run"
        self.logger = TensorBoardLogger(self.path, name="tensorboard", version="") if logger else None
        self.trainer: Any = SimpleNamespace(
            is_global_zero=True, default_root_dir=str(self.path), datamodule=data, logger=self.logger
        )
        self.module: Any = SimpleNamespace(domain=SimpleNamespace(condition_names=NAMES), round_index=1)

    def images(self) -> dict[str, dict[int, np.ndarray]]:
        """By tag and step, what TensorBoard has."""
        if self.logger is None:
            return {}
        self.logger.experiment.flush()
        events = EventAccumulator(str(self.path / "tensorboard"), size_guidance={"images": 0})
        events.Reload()
        return {
            tag: {event.step: decoded(event.encoded_image_string) for event in events.Images(tag)}
            for tag in events.Tags()["images"]
        }

    def results(self) -> list[str]:
        return sorted(str(p.relative_to(self.path)) for p in (self.path / "results").rglob("*") if p.is_file())


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, Tasks(arc_task("t1"), arc_task("t2")), Tasks(arc_task("a", 2), arc_task("b")))


RESULTS = [
    result("b", scores("12\n34"), round_index=1),
    result("b", scores("12\n35")),
    result("a", scores(("", "12\n34"), "999")),
    result("b", scores("1"), condition=Condition.NO_ADAPTATION),
    result("a", scores("2", "3"), condition=Condition.NO_ADAPTATION, round_index=0),
]


# --- pictures of a test


def test_pictures_show_each_held_out_task(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ArcPictures().on_test_results(run.trainer, run.module, RESULTS)
    assert run.results() == ["results/arc/a.png", "results/arc/b.png"]
    task = run.trainer.datamodule.tasks("test")[1]
    expected = pixels(
        task_figure(task, {"SEAL": [[((1, 2), (3, 5))]], "in context": [[((1,),)]]}, "after 2 rounds · not solved")
    )
    picture = decoded((run.path / "results" / "arc" / "b.png").read_bytes())
    assert np.array_equal(picture, expected)
    images = run.images()
    assert {tag: list(steps) for tag, steps in images.items()} == {"arc/test/a": [2], "arc/test/b": [2]}
    assert np.array_equal(images["arc/test/b"][2], picture)
    told = capsys.readouterr().out
    assert "a  after 2 rounds · not solved" in told
    assert "attempt 1: wrong, 1 of 4 cells" in told
    assert "3 5x" in told, "digits where there are no colours"
    assert f"Pictures of 2 held-out tasks: {run.path}/results/arc" in told
    assert told.index("a  after") < told.index("b  after")


def test_pictures_ignore_results_of_other_rounds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ArcPictures().on_test_results(run.trainer, run.module, RESULTS)
    first = capsys.readouterr().out.split("b  after")[0]
    assert "SEAL" in first
    assert "in context" not in first


def test_pictures_overwrite_nothing(run: Run) -> None:
    callback = ArcPictures(show_in_terminal=False)
    callback.on_test_results(run.trainer, run.module, RESULTS)
    before = (run.path / "results" / "arc" / "a.png").read_bytes()
    callback.on_test_results(run.trainer, run.module, RESULTS)
    assert [name.split("/")[-1] for name in run.results()] == ["a-2.png", "a.png", "b-2.png", "b.png"]
    assert (run.path / "results" / "arc" / "a.png").read_bytes() == before


def test_pictures_limit_the_terminal_output(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ArcPictures(max_tasks=1).on_test_results(run.trainer, run.module, RESULTS)
    told = capsys.readouterr().out
    assert "a  after" in told
    assert "b  after" not in told
    assert len(run.results()) == 2
    ArcPictures(show_in_terminal=False).on_test_results(run.trainer, run.module, RESULTS)
    assert "a  after" not in capsys.readouterr().out


@pytest.mark.parametrize("callback", [ArcPictures(), ArcSubmission()])
def test_other_ranks_write_nothing(run: Run, callback: Any, capsys: Any) -> None:
    callback.on_test_results(run.trainer, run.module, [])
    run.trainer.is_global_zero = False
    callback.on_test_results(run.trainer, run.module, RESULTS)
    if isinstance(callback, ArcPictures):
        callback.on_buffer(run.trainer, run.module, [candidate("t1", reward=1.0, after=scores("1"))], [])
    assert not (run.path / "results").exists()
    assert run.images() == {}
    assert capsys.readouterr().out == ""


def test_pictures_name_the_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, Tasks(arc_task("t")), Tasks(arc_task("a")), logger=False)
    failed = result("a", scores("12\n34", right=True), failure="malformed: json: \n[/red]$x$" + "y" * 999)
    ArcPictures().on_test_results(run.trainer, run.module, [failed])
    assert "after 2 rounds · solved · not adapted: 'malformed: json: \\n[/red]$x$yyy" in capsys.readouterr().out


def edit(task_id: str, edit_index: int) -> SelfEdit:
    return SelfEdit(task_id=task_id, edit_index=edit_index, text="{}")


SEVERAL = [
    result("a", scores("3", right=True), edits=(edit("a", 2),)),
    result("a", scores("0"), edits=(edit("a", 0),), failure="malformed: json"),
    result("a", scores("2"), edits=(edit("a", 1),)),
]


def test_first_adapted_edit_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the one that is right: that would be a choice by the gold grid."""
    run = Run(tmp_path, Tasks(arc_task("t")), Tasks(arc_task("a")), logger=False)
    ArcPictures().on_test_results(run.trainer, run.module, SEVERAL)
    assert "a  after 2 rounds · edit 1, not solved (solved by 1 of 3 edits)\n" in capsys.readouterr().out
    ArcSubmission().on_test_results(run.trainer, run.module, SEVERAL)
    path = run.path / "results" / "submission.json"
    assert json.loads(path.read_text()) == {"a": [{"attempt_1": [[2]], "attempt_2": [[2]]}]}
    assert run.results() == ["results/arc/a.png", "results/submission.json"]


def test_first_edit_is_shown_where_all_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, Tasks(arc_task("t")), Tasks(arc_task("a")), logger=False)
    failed = [replace(r, failure="diverged: x") for r in SEVERAL]
    ArcPictures().on_test_results(run.trainer, run.module, failed)
    told = "edit 0, not solved (solved by 1 of 3 edits) · not adapted: 'diverged: x'"
    assert told in capsys.readouterr().out


def test_results_without_self_edits_are_reported(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    unadapted = [result("a", scores("1", "1"), condition=Condition.NO_ADAPTATION)]
    ArcPictures().on_test_results(run.trainer, run.module, unadapted)
    ArcSubmission().on_test_results(run.trainer, run.module, unadapted)
    assert capsys.readouterr().out == "No Kaggle submission was written: the test did not try self-edits\n"
    assert not (run.path / "results").exists()


@pytest.mark.parametrize("task_id", ["../../out", "/tmp/out", "日本", "x" * 200, "$\\frac$", "[red]", ".hidden"])
def test_picture_of_any_task_id_stays_in_the_run(task_id: str, tmp_path: Path) -> None:
    run = Run(tmp_path, Tasks(arc_task("t")), Tasks(arc_task("task-1"), arc_task(task_id)))
    ArcPictures().on_test_results(
        run.trainer, run.module, [result("task-1", scores("1")), result(task_id, scores("1"))]
    )
    assert run.results() == ["results/arc/task-1-2.png", "results/arc/task-1.png"]
    assert set(run.images()) == {"arc/test/task-1", f"arc/test/{task_id}"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- pictures of an E-step


def candidate(task_id: str, edit_index: int = 0, **attempts: Any) -> Candidate:
    return Candidate(task_id=task_id, edit_index=edit_index, attempts=(attempt(task_id, edit_index, **attempts),))


def attempt(task_id: str, edit_index: int = 0, **more: Any) -> Attempt:
    return Attempt(
        attempt_id=f"r1-{task_id}-e{edit_index}-s0",
        round=1,
        repeat=0,
        seed=0,
        edit=SelfEdit(task_id=task_id, edit_index=edit_index, text="{}"),
        status=AttemptStatus.SCORED,
        **more,
    )


def test_best_attempt_ranks_reward_then_credit() -> None:
    malformed = replace(attempt("a"), status=AttemptStatus.MALFORMED)
    unasked = attempt("a", reward=9.0, after=scores(None))
    poor = attempt("a", reward=0.0, after=scores("1", credit=0.5))
    near = attempt("a", 1, reward=0.0, after=scores("1", credit=0.75))
    as_near = attempt("a", 2, reward=0.0, after=scores("1", credit=0.75))
    unscored = attempt("a", after=scores("1", credit=1.0))
    good = attempt("a", 3, reward=1.0, after=scores("1", credit=None))
    assert best_attempt([malformed, unscored, poor, near, as_near, unasked]) is near
    assert best_attempt([as_near, near]) is as_near
    assert best_attempt([near, good, poor]) is good
    assert best_attempt([unscored]) is unscored
    assert best_attempt([malformed, unasked]) is None
    assert best_attempt([]) is None


def test_e_step_pictures_show_the_best_attempt(run: Run) -> None:
    candidates = [
        candidate("t1", 0, reward=0.0, after=scores("1"), before=scores("2")),
        candidate("t1", 1, reward=1.0, after=scores("12\n34"), before=scores("2")),
        candidate("t2"),
    ]
    ArcPictures().on_buffer(run.trainer, run.module, candidates, [])
    images = run.images()
    assert {tag: list(steps) for tag, steps in images.items()} == {"arc/training/t1": [1]}, (
        "nothing examined: no picture"
    )
    note = "round 1 · the best of 2 attempts: edit 1, reward 1"
    task = run.trainer.datamodule.tasks("train")[0]
    expected = pixels(task_figure(task, {"SEAL": [[GOLD]], "in context": [[((2,),)]]}, note))
    assert np.array_equal(images["arc/training/t1"][1], expected)
    assert not (run.path / "results").exists()


def test_e_step_pictures_are_limited(run: Run) -> None:
    candidates = [candidate(task_id, reward=1.0, after=scores("1"), before=scores(None)) for task_id in ("t2", "t1")]
    ArcPictures(max_tasks=0).on_buffer(run.trainer, run.module, candidates, [])
    assert run.images() == {}
    ArcPictures(max_tasks=1).on_buffer(run.trainer, run.module, candidates, [])
    assert list(run.images()) == ["arc/training/t1"], "the first tasks, the same in each round"


def test_pictures_work_without_tensorboard(tmp_path: Path) -> None:
    run = Run(tmp_path, Tasks(arc_task("t1")), Tasks(arc_task("a")), logger=False)
    ArcPictures().on_buffer(run.trainer, run.module, [candidate("t1", reward=1.0, after=scores("1"))], [])
    ArcPictures().on_test_results(run.trainer, run.module, [result("a", scores("1"))])
    assert run.results() == ["results/arc/a.png"]


# --- submissions


def test_submission_holds_two_attempts_per_input(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ArcSubmission().on_test_results(run.trainer, run.module, RESULTS)
    path = run.path / "results" / "submission.json"
    assert json.loads(path.read_text()) == {
        "a": [
            {"attempt_1": [[1, 2], [3, 4]], "attempt_2": [[1, 2], [3, 4]]},
            {"attempt_1": [[9, 9, 9]], "attempt_2": [[9, 9, 9]]},
        ],
        "b": [{"attempt_1": [[1, 2], [3, 5]], "attempt_2": [[1, 2], [3, 5]]}],
    }
    assert list(json.loads(path.read_text())) == ["a", "b"], "in the order of the data set"
    assert capsys.readouterr().out == f"Kaggle submission: {path}\n"


def test_submission_fills_missing_grids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = Tasks(arc_task("a", 3, output=None), arc_task("b", 2, output=None), arc_task("c", output=None))
    run = Run(tmp_path, Tasks(arc_task("t")), test, logger=False)
    results = [result("a", scores(("12", "3", "4"), "", ("", "5"))), result("b", scores(None))]
    ArcSubmission().on_test_results(run.trainer, run.module, results)
    path = run.path / "results" / "submission.json"
    empty = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert json.loads(path.read_text()) == {
        "a": [{"attempt_1": [[1, 2]], "attempt_2": [[3]]}, empty, {"attempt_1": [[5]], "attempt_2": [[5]]}],
        "b": [empty, empty],
        "c": [empty],
    }
    told = f"Kaggle submission: {path}; for 4 of 6 test inputs there is no grid, and [[0]] stands for it\n"
    assert capsys.readouterr().out == told
    ArcSubmission().on_test_results(run.trainer, run.module, results)
    assert run.results() == ["results/submission-2.json", "results/submission.json"]


# --- what is not for them


@pytest.mark.parametrize("name", ["ArcPictures", "ArcSubmission"])
def test_other_tasks_are_a_config_error(name: str, tmp_path: Path) -> None:
    callback = {"ArcPictures": ArcPictures(), "ArcSubmission": ArcSubmission()}[name]
    right = Run(tmp_path, Tasks(arc_task("a")), Tasks(arc_task("b")))
    callback.setup(right.trainer, right.module, "fit")
    wrong = Run(tmp_path, ToyTasks(2), Tasks(arc_task("b")))
    with pytest.raises(
        ConfigError, match=f"{name} is for ARC tasks, and data.train has a ToyTask; take the callback out"
    ):
        callback.setup(wrong.trainer, wrong.module, "fit")
    wrong = Run(tmp_path, Tasks(arc_task("b")), ToyTasks(2))
    with pytest.raises(ConfigError, match=r"data\.test has a ToyTask"):
        callback.setup(wrong.trainer, wrong.module, "fit")
    with pytest.raises(ConfigError, match=r"data\.test has a ToyTask"):
        callback.on_test_results(wrong.trainer, wrong.module, [result("stone-0", scores("1"))])


def test_negative_max_tasks_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="max_tasks is -1; allowed is 0 or more"):
        ArcPictures(max_tasks=-1)


HOSTILE = [
    "",
    "a",
    "1\n\n2",
    "12\n3",
    "٣",
    "²",
    "1 2",
    "\ud800",
    "1" * 31,
    "\n".join("1" * 31),
    "[red]",
    "1\r\n2",
    "-1",
]
HUGE = {"digits": "9" * 10**7, "rows": "9\n" * 10**7}
ANSWERS = {ascii(text[:9]): text for text in HOSTILE} | HUGE


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_any_stored_answer_is_handled(answer: str, tmp_path: Path) -> None:
    start = time.perf_counter()
    assert attempted_grids(scores((answer, "1"))) == ((None, ((1,),)),)
    run = Run(tmp_path, Tasks(arc_task("t")), Tasks(arc_task("a")), logger=False)
    for callback in (ArcPictures(), ArcSubmission()):
        callback.on_test_results(run.trainer, run.module, [result("a", scores((answer, answer)))])
    assert json.loads((run.path / "results/submission.json").read_text())["a"][0]["attempt_1"] == [[0]]
    assert time.perf_counter() - start < 5


# --- what they stand on


def test_write_bytes_result_stays_in_the_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.write_bytes_result("a", "png", b"1") == run.path / "results" / "a.png"
    assert run.write_bytes_result("a", "png", b"2", folder="arc") == run.path / "results" / "arc" / "a.png"
    assert run.write_bytes_result("a", "png", b"3", folder="arc").name == "a-2.png"
    assert (run.path / "results" / "arc" / "a.png").read_bytes() == b"2"
    for names in (
        ("../a", "png", "arc"),
        ("a", "p/g", "arc"),
        ("a", "png", ".."),
        ("a", "png", "b/c"),
        ("a", "png", ""),
    ):
        with pytest.raises(ConfigError, match="of a result"):
            run.write_bytes_result(names[0], names[1], b"", folder=names[2])
    (run.path / "results" / "link").symlink_to(tmp_path)
    with pytest.raises(RunError, match="outside the run directory"):
        run.write_bytes_result("a", "png", b"", folder="link")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_data_module_returns_loaded_tasks() -> None:
    data = SealDataModule(train=Tasks(arc_task("a")), test=Tasks(arc_task("b")))
    assert (data.tasks("train"), data.tasks("test")) == ((), ())
    data.setup("test")
    assert [task.task_id for task in data.tasks("test")] == ["b"]
    assert (data.tasks("train"), data.tasks("validation"), data.tasks("train")) == ((), (), ())
    data.setup("fit")
    assert [task.task_id for task in data.tasks("train")] == ["a"]


def test_colour_terminal_shows_no_digits(run: Run, monkeypatch: Any, capsys: Any) -> None:
    console = arc_pictures.Console
    monkeypatch.setattr(
        arc_pictures, "Console", lambda **k: console(force_terminal=True, color_system="truecolor", **k)
    )
    ArcPictures().on_test_results(run.trainer, run.module, RESULTS)
    told = capsys.readouterr().out
    assert "48;2;0;116;217m" in told
    assert "3 5x" not in told
