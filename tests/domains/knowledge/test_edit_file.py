"""Self-edits from files: the shapes that are read, the matching to tasks, and the errors."""

import json
from dataclasses import replace

import pytest
from fakes import ToyDomain
from jsonargparse import ArgumentParser

from seal_lightning.core import Attempt, AttemptStatus, BufferRow, SelfEdit
from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.core.interfaces import Writer
from seal_lightning.core.seeds import attempt_id
from seal_lightning.domains.knowledge import EditFile, KnowledgeDomain, Passage, Rewrites
from seal_lightning.storage.journal import Journal, RecordFile

MILL = Passage.named(title="Mill of Tarnow", context="Rye was ground.", questions=())
SLUICE = Passage.named(title="Mill of Tarnow", context="The sluice stood open.", questions=())
FERRY = Passage.named(title="Grey Ferry", context="It crosses.", questions=())


def told(passage, **more):
    return {"title": passage.title, "context": passage.context, **more}


@pytest.fixture
def write(tmp_path):
    def _write(content, name="edits.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return _write


def lines(*rows):
    return b"\n".join(json.dumps(row).encode() for row in rows)


def texts(path, tasks=(MILL, FERRY), num_edits=2, **settings):
    writer = EditFile(path, **settings)
    writer.bind(KnowledgeDomain(), None)
    edits = writer.write(tasks, num_edits, {})
    assert [(e.task_id, e.edit_index) for e in edits] == [(t.task_id, i) for t in tasks for i in range(num_edits)]
    return [edit.text for edit in edits]


RELEASED = [
    told(FERRY, questions=[], completions={"gpt-4.1": ["f0", "f1", "f2"], "me": "f"}),
    told(MILL, questions=[], completions={"gpt-4.1": ["m0", "m1"], "me": "m"}),
]
BY_ID = [
    {"task_id": FERRY.task_id, "edit_index": 1, "text": "f1"},
    {"task_id": MILL.task_id, "edit_index": 1, "text": "m1", "seed": 3},
    {"task_id": MILL.task_id, "edit_index": 0, "text": "m0", "sequences": ["m0"]},
    {"task_id": FERRY.task_id, "edit_index": 0, "text": "f0"},
    {"task_id": MILL.task_id, "edit_index": 2, "text": "m2"},
]
SHAPES = {
    "completions": [told(MILL, completions=["m0", "m1"]), told(FERRY, completions=["f0", "f1", "f2"])],
    "a record an edit": [told(MILL, text="m0"), told(FERRY, text="f0"), told(MILL, text="m1"), told(FERRY, text="f1")],
    "rows by task id": BY_ID,
    "object by task id": {MILL.task_id: ["m0", "m1"], FERRY.task_id: {"completions": ["f0", "f1"]}},
    "object by title": {"Mill of Tarnow": ["m0", "m1"], "Grey_Ferry": ["f0", "f1"]},
    "titles alone": [{"title": " Mill of Tarnow", "text": ["m0", "m1"]}, {"title": "Grey Ferry", "text": ["f0", "f1"]}],
    "blanks around and SQuAD's titles": [
        {"title": "Mill_of_Tarnow ", "context": "\nRye was ground. ", "text": ["m0", "m1"]},
        told(FERRY, text=["f0", "f1"]),
    ],
    "unreadable characters": [told(MILL, text=["m\0" + "0", "m1"]), told(FERRY, text=["f0", "f1"])],
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_edit_file_reads_every_shape(content, write):
    assert texts(write(content)) == ["m0", "m1", "f0", "f1"]


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.ndjson", "edits.json", "edits"])
def test_json_lines_are_read_under_any_name(name, write):
    assert texts(write(lines(*BY_ID) + b"\n\n", name)) == ["m0", "m1", "f0", "f1"]


def test_single_record_is_read(write):
    assert texts(write(told(MILL, text=["m0", "m1"])), [MILL]) == ["m0", "m1"]
    assert texts(write(lines(told(MILL, text="m0")), "one.jsonl"), [MILL], 1) == ["m0"]


@pytest.mark.parametrize(
    ("settings", "num_edits", "expected"),
    [
        ({"writer": "gpt-4.1"}, 2, ["m0", "m1", "f0", "f1"]),
        ({"field": "completions.gpt-4.1"}, 2, ["m0", "m1", "f0", "f1"]),
        ({"field": ["completions", "gpt-4.1"]}, 2, ["m0", "m1", "f0", "f1"]),
        ({"field": "completions", "writer": "me"}, 1, ["m", "f"]),
    ],
)
def test_one_of_several_writers_is_taken(settings, num_edits, expected, write):
    assert texts(write(RELEASED), num_edits=num_edits, **settings) == expected


def test_field_prefers_the_longest_keys(write):
    path = write([told(MILL, a={"b": {"c.d": "short"}, "b.c": {"d": "long"}})])
    assert texts(path, [MILL], 1, field="a.b.c.d") == ["long"]
    assert texts(path, [MILL], 1, field=["a", "b", "c.d"]) == ["short"]


def attempt(task, index, text, repeat=0):
    edit = SelfEdit(task_id=task.task_id, edit_index=index, text=text)
    name = attempt_id(0, task.task_id, index, repeat)
    return Attempt(attempt_id=name, round=0, repeat=repeat, seed=0, edit=edit, status=AttemptStatus.MALFORMED)


def test_files_of_a_run_are_read(tmp_path):
    """As they are written, not as this test thinks they are."""
    journal = Journal(tmp_path / "attempts.rank0.jsonl", Attempt)
    for task, index, repeat in ((MILL, 1, 0), (FERRY, 0, 0), (MILL, 0, 0), (MILL, 1, 1), (FERRY, 1, 0)):
        journal.append(attempt(task, index, f"{task.title[0].lower()}{index}", repeat))
    journal.close()
    assert texts(journal.path) == ["m0", "m1", "g0", "g1"]
    rows = [
        BufferRow(task_id=task.task_id, edit_index=3, prompt="?", text=task.title, token_ids=(1,), reward=1.0)
        for task in (MILL, FERRY)
    ]
    accepted = RecordFile(tmp_path / "accepted.jsonl", BufferRow)
    accepted.write(rows)
    assert texts(accepted.path, num_edits=1) == ["Mill of Tarnow", "Grey Ferry"]


def test_context_distinguishes_passages_of_one_title(write):
    with pytest.raises(DataError, match="has no edit of the task"):
        texts(write([told(SLUICE, text="s0")]), [MILL], 1)
    assert texts(write([told(SLUICE, text="s0"), told(MILL, text="m0")]), [MILL, SLUICE], 1) == ["m0", "s0"]


def test_title_of_two_tasks_is_an_error(write):
    writer = EditFile(write({"Mill of Tarnow": "m"}))
    assert writer.write([MILL], 1, {}) == writer.write([MILL], 1, {})
    with pytest.raises(DataError, match=f"two tasks have: {MILL.task_id} and {SLUICE.task_id}"):
        writer.write([SLUICE], 1, {})


@pytest.mark.parametrize(
    ("split", "pieces"),
    [
        ("format", ["1. c\nd", "e"]),
        ("lines", ["1. c", "d", "e"]),
        ("blocks", ["b\n1. c\nd", "e"]),
        ("whole", ["b\n1. c\nd\n---\ne"]),
    ],
)
def test_split_decides_the_sequences(split, pieces, write):
    domain = KnowledgeDomain(format=Rewrites(), title_prefix=False, append_passage=False)
    (edit,) = EditFile(write([told(MILL, text="b\n1. c\nd\n---\ne")]), split=split).write([MILL], 1, {})
    plan = domain.plan(MILL, edit)
    assert [sequence.segments[0].text for sequence in plan.sequences] == pieces
    assert edit.directives == ({} if split == "format" else {"split": split})


def test_missing_task_is_an_error(write):
    path = write([told(FERRY, text="f0"), told(SLUICE, text="s0")])
    with pytest.raises(DataError) as caught:
        texts(path, [FERRY, MILL, replace(MILL, task_id="x")], 1)
    said = str(caught.value)
    assert said.startswith(f"{path}: has no edit of the task 'Mill of Tarnow' (task id mill")
    assert "Its 2 records begin with 'Grey Ferry'." in said
    assert "allow_missing" in said
    assert texts(path, [MILL, FERRY], 1, allow_missing=True) == ["", "f0"]


def test_too_few_edits_are_an_error(write):
    path = write([told(FERRY, text=["f0", "f1"]), told(MILL, text="m0")])
    with pytest.raises(DataError, match=r"has only 1 of 3 edits of the task 'Mill.*\. Lower model\.test_edits"):
        texts(path, num_edits=3, allow_missing=True)
    with pytest.raises(DataError, match="has only 0 of 1 edits"):
        texts(write([told(MILL, text=[])]), [MILL], 1)


REFUSED = {
    "several writers": (
        RELEASED,
        {},
        "record 0: field 'completions' has the edits of several writers; set `writer` to one of 'gpt-4.1, me'",
    ),
    "another writer": (RELEASED, {"writer": "x\n"}, "set `writer` to one of 'gpt-4.1, me'"),
    "a writer of one": (
        [told(MILL, text="m")],
        {"writer": "x"},
        "field 'text' does not have the edits of several writers",
    ),
    "no edit": (
        [told(MILL, answer="m")],
        {},
        "has no self-edit in .*, but 'title, context, answer'. Name",
    ),
    "no such field": (RELEASED, {"field": "completions.gpt-5"}, "no field 'gpt-5', but 'gpt-4.1, me'"),
    "a field of a text": (RELEASED, {"field": "title.x"}, "has no field 'x', but 'Grey Ferry'"),
    "no text": ([told(MILL, text=3)], {}, "field 'text' must be a text or a list of texts; it is 3"),
    "no texts": ([told(MILL, text=["a", None])], {}, "must be a text or a list of texts; it is a list of 2"),
    "nobody's": ([{"text": "m"}], {}, "record 0: must have 'task_id', or 'title' and 'context'"),
    "no record": ([3], {}, "record 0: must be a JSON object; it is 3"),
    "a number": (3, {}, "must hold a list of records or an object of them; it is 3"),
    "empty list": ([], {}, "the file has no record"),
    "empty object": ({}, {}, "the file has no record"),
    "task id of another type": ([{"task_id": 3, "text": "m"}], {}, "field 'task_id': .*string; it is 3"),
    "negative index": ([{"task_id": "a", "edit_index": -1, "text": "m"}], {}, "field 'edit_index'"),
    "two edits of one index": (
        [{"task_id": "a", "edit_index": 0, "text": t} for t in "mn"],
        {},
        "record 1: the file has another edit 0 of the same task",
    ),
    "empty": (b" ", {}, "the file is empty"),
    "not JSON": (b"[{", {}, "is not JSON"),
    "NaN": (b"[NaN]", {}, "is not JSON"),
    "not UTF-8": (b'["\xff"]', {}, "is not JSON in UTF-8"),
    "deep": (b"[" * 200_000, {}, "recursion limit"),
    "a bad line": (lines(BY_ID[0]) + b"\n{", {}, "line 2: is not JSON"),
}


@pytest.mark.parametrize(("content", "settings", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_file_is_reported_by_bind(content, settings, message, write):
    path = write(content)
    with pytest.raises(DataError, match=message) as caught:
        EditFile(path, **settings).bind(KnowledgeDomain(), None)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 3000
    assert str(caught.value).isprintable()


def test_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        EditFile(tmp_path / "nothing.json").bind(KnowledgeDomain(), None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split": "words"}, "split is 'words'; allowed are format, lines, blocks, whole"),
        ({"field": ""}, "field is ''; allowed are keys"),
        ({"field": ["a", ""]}, "field is "),
        ({"field": []}, "field is "),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        EditFile("x.json", **settings)


def test_split_needs_a_knowledge_domain(write):
    path = write([{"task_id": "stone-0", "text": "m"}])
    EditFile(path).bind(ToyDomain(), None)
    with pytest.raises(ConfigError, match="split is 'whole'; allowed with ToyDomain is 'format'"):
        EditFile(path, split="whole").bind(ToyDomain(), None)


def test_configured_by_class_path(write):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--writers", type=dict[str, Writer])
    package = "seal_lightning.domains.knowledge"
    init_args = {"path": str(write(RELEASED)), "field": ["completions", "gpt-4.1"], "split": "whole"}
    config = {"writers": {"gpt-4.1": {"class_path": f"{package}.EditFile", "init_args": init_args}}}
    config["writers"]["graph"] = {
        "class_path": f"{package}.EntiGraph",
        "init_args": {"relations": "pairs_and_triples", "sampling": {"max_new_tokens": 9}},
    }
    made = parser.instantiate(parser.parse_object(config)).writers
    assert made["gpt-4.1"].write([MILL], 1, {})[0].text == "m0"
    assert made["graph"].sizes == (2, 3)
    assert made["graph"].sampling.max_new_tokens == 9
