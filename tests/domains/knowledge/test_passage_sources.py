"""Passage sources: reading, sampling, and the errors for invalid files and records."""

import json
import logging

import pytest

from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.domains.knowledge import BundledPassages, HubDataset, PassagesJson, PassagesJsonl, SquadJson


def squad(title="Mill_of_Tarnow", context="Rye was ground.", **question):
    qa = {"id": "s1", "question": "What?", "answers": [{"text": "rye", "answer_start": 0}], **question}
    return {"version": "1.1", "data": [{"title": title, "paragraphs": [{"context": context, "qas": [qa]}]}]}


def row(title="Mill", context="Rye was ground.", **changes):
    return {"title": title, "context": context, "questions": [{"question": "What?", "answer": "rye"}], **changes}


@pytest.fixture
def write(tmp_path):
    def _write(content):
        path = tmp_path / "data.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return _write


@pytest.fixture
def write_lines(tmp_path):
    def _write(*rows):
        path = tmp_path / "data.jsonl"
        path.write_bytes(b"\n".join(r if isinstance(r, bytes) else json.dumps(r).encode() for r in rows))
        return path

    return _write


def test_squad_v1(write):
    content = squad(answers=[{"text": t} for t in ("rye", " rye ", "Rye", "rye")])
    content["data"][0]["paragraphs"].append({"context": "Second.", "qas": squad()["data"][0]["paragraphs"][0]["qas"]})
    first, second = SquadJson(write(content)).load()
    assert (first.title, first.context) == ("Mill of Tarnow", "Rye was ground.")
    assert first.task_id.startswith("mill-of-tarnow-")
    (question,) = first.questions
    assert (question.question_id, question.question, question.answers) == ("s1", "What?", ("rye", "Rye"))
    assert second.context == "Second."


def test_squad_titles_are_read_as_urls(write):
    (passage,) = SquadJson(write(squad(title="Fr%C3%A9d%C3%A9ric_Chopin"))).load()
    assert passage.title == "Frédéric Chopin"


def test_squad_v2_drops_impossible_questions(write):
    content = squad()
    qas = content["data"][0]["paragraphs"][0]["qas"]
    qas.append({"id": "s2", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": []})
    qas.append({"id": "s3", "question": "Who?", "answers": [{"text": "miller"}], "is_impossible": False})
    (passage,) = SquadJson(write(content)).load()
    assert [q.question_id for q in passage.questions] == ["s1", "s3"]


def test_passages_json(write):
    content = [
        row(
            completions=["ignored"],
            questions=[{"question": "A?", "answer": "a"}, {"question": "B?", "answer": ["b", "c", "b"]}],
        )
    ]
    (passage,) = PassagesJson(write(content)).load()
    assert [q.answers for q in passage.questions] == [("a",), ("b", "c")]
    assert [q.question_id for q in passage.questions] == [f"{passage.task_id}-q0", f"{passage.task_id}-q1"]


def test_passages_jsonl(write_lines):
    path = write_lines(row("A"), b"", row("B", context="one\u2028two"), b"  ", row("C"))
    assert [p.title for p in PassagesJsonl(path).load()] == ["A", "B", "C"]


def test_a_byte_order_mark_is_no_problem(write):
    assert PassagesJson(write(b"\xef\xbb\xbf" + json.dumps([row()]).encode())).load()


def test_task_ids_do_not_depend_on_order_or_format(write, write_lines):
    ids = {p.title: p.task_id for p in PassagesJson(write([row("A"), row("B")])).load()}
    assert {p.title: p.task_id for p in PassagesJsonl(write_lines(row("B"), row("A"))).load()} == ids
    (passage,) = SquadJson(write(squad(title="A"))).load()
    assert passage.task_id == ids["A"]


def test_limit_cuts_in_order(write):
    path = write([row("A"), row("B"), row("C")])
    assert [p.title for p in PassagesJson(path, limit=2).load()] == ["A", "B"]
    assert len(PassagesJson(path, limit=3).load()) == 3


def test_limit_over_the_number_is_an_error(write):
    path = write([row("A"), row("B"), row("")])
    with pytest.raises(DataError, match=r"limit is 3, but there are only 2 passages \(1 records were skipped\)"):
        PassagesJson(path, limit=3, skip_invalid=True).load()


def asked(num_questions, title="A", **changes):
    return row(title, questions=[{"question": f"{title}{i}?", "answer": "a"} for i in range(num_questions)], **changes)


def sample(path, num_questions, **settings):
    passages = PassagesJson(path, num_questions=num_questions, **settings).load()
    return [[question.question for question in passage.questions] for passage in passages]


def test_num_questions_keeps_the_order(write):
    path = write([asked(4, "A"), asked(1, "B"), asked(5, "C")])
    everything = sample(path, None)
    assert sample(path, 10) == everything
    sampled = sample(path, 3)
    assert sampled == sample(path, 3, question_seed=42)
    assert sum(map(len, sampled)) == 3
    for kept, all_of_it in zip(sampled, everything, strict=True):
        assert kept == [question for question in all_of_it if question in kept]
    assert [] in sample(path, 1)
    assert len(sample(path, 1)) == 3, "a passage without a question left keeps its place"
    assert len({str(sample(path, 3, question_seed=seed)) for seed in range(9)}) > 3
    more = sample(path, 6)
    assert all(set(few) <= set(many) for few, many in zip(sampled, more, strict=True)), "nested"
    assert sum(map(len, sample(path, 5, limit=2))) == 5, "sampled from the passages that are taken"


def test_num_questions_over_the_number_is_an_error(write):
    path = write([asked(4, "A"), asked(1, "B")])
    with pytest.raises(DataError, match="num_questions is 6, but there are only 5 questions on 2 passages"):
        PassagesJson(path, num_questions=6).load()
    with pytest.raises(DataError, match="there are only 4 questions on 1 passages"):
        PassagesJson(path, num_questions=5, limit=1).load()
    with pytest.raises(ConfigError, match="num_questions is 0; allowed is 1 or more"):
        PassagesJson(path, num_questions=0)


def test_passages_without_questions_can_be_allowed(write, write_lines):
    bare = {"title": "Mill", "context": "Rye was ground."}
    rows = [bare, row("B", questions=[]), row("C")]
    for source, path in ((PassagesJson, write(rows)), (PassagesJsonl, write_lines(*rows))):
        assert [len(p.questions) for p in source(path, require_questions=False).load()] == [0, 0, 1]
        with pytest.raises(DataError, match="field 'questions' is missing"):
            source(path).load()
    with pytest.raises(DataError, match="has no question that can be answered"):
        PassagesJson(write(rows[1:])).load()
    with pytest.raises(DataError, match="num_questions is 1, but there are only 0 questions"):
        PassagesJson(write([bare]), require_questions=False, num_questions=1).load()
    assert SquadJson(write(squad(is_impossible=True, answers=[])), require_questions=False).load()[0].questions == ()
    with pytest.raises(DataError, match="field 'questions'"):
        PassagesJson(write([row(questions="x")]), require_questions=False).load()


def test_unknown_split():
    with pytest.raises(ConfigError, match="split is 'dev'; allowed are train, validation, test"):
        BundledPassages("dev")


WHOLE_FILE = {
    "empty": (b"", "the file is empty"),
    "blank": (b" \n", "the file is empty"),
    "not JSON": (b"[{", "is not JSON in UTF-8: .*line 1 column"),
    "two values": (b"[] []", "is not JSON"),
    "NaN": (b"[NaN]", "is not JSON"),
    "deep": (b"[" * 200_000, "recursion limit"),
    "not UTF-8": (b'["\xff"]', "is not JSON in UTF-8"),
    "a number": (b"3", "must hold .*; it is 3"),
    "a text": (json.dumps("x" * 900).encode(), "must hold .*; it is 'xx+…$"),
}


@pytest.mark.parametrize(("content", "message"), WHOLE_FILE.values(), ids=WHOLE_FILE)
@pytest.mark.parametrize("source", [SquadJson, PassagesJson])
@pytest.mark.parametrize("skip", [True, False])
def test_invalid_files_are_reported(source, content, message, skip, write):
    path = write(content)
    with pytest.raises(DataError, match=message) as caught:
        source(path, skip_invalid=skip).load()
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("source", "content", "message"),
    [
        (SquadJson, [], "an object with a list 'data', as SQuAD has it; it is a list of 0"),
        (SquadJson, {"data": {}}, "a list 'data'"),
        (SquadJson, {"data": []}, "the data set has no passage"),
        (SquadJson, {"data": [{"title": "t", "paragraphs": []}]}, "the data set has no passage"),
        (PassagesJson, {"a": 1}, "a list of passages; it is an object with 1 keys"),
        (PassagesJson, [], "the data set has no passage"),
    ],
)
def test_other_formats_are_reported(source, content, message, write):
    with pytest.raises(DataError, match=message):
        source(write(content)).load()


@pytest.mark.parametrize("source", [SquadJson, PassagesJson, PassagesJsonl])
def test_unreadable_paths_are_reported(source, tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        source(tmp_path / "none.json").load()
    with pytest.raises(DataError, match="cannot be read"):
        source(tmp_path).load()
    with pytest.raises(DataError, match="cannot be read"):
        source("a\0b").load()


BAD_ROWS = {
    "a number": (3, "must be a JSON object; it is 3"),
    "null": (None, "must be a JSON object; it is None"),
    "no title": ({"context": "c", "questions": []}, "field 'title' is missing"),
    "no context": ({"title": "Mill", "questions": []}, "title 'Mill', field 'context' is missing"),
    "title is no text": (row(title=3), "field 'title': Input should be a valid string; it is 3"),
    "blank title": (row(title=" "), "field 'title': must not be blank .*; it is ' '"),
    "blank context": (row(context="\n"), r"title 'Mill', field 'context': must not be blank .*; it is '\\n'"),
    "NUL": (row(context="a\0b"), r"field 'context': must not .* hold a NUL character; it is 'a\\x00b'"),
    "questions missing": ({"title": "Mill", "context": "c"}, "field 'questions' is missing"),
    "questions null": (row(questions=None), "field 'questions': Input should be a valid list; it is None"),
    "no questions": (row(questions=[]), "title 'Mill', has no question that can be answered"),
    "question is a text": (row(questions=["What?"]), r"field 'questions\[0\]': .*'What\?'"),
    "blank question": (
        row(questions=[{"question": "", "answer": "a"}]),
        r"field 'questions\[0\].question': must not be",
    ),
    "answer is a number": (
        row(questions=[{"question": "q", "answer": 5}]),
        r"field 'questions\[0\].answer': Input should be a valid list; it is 5",
    ),
    "answer missing": (row(questions=[{"question": "q"}]), r"field 'questions\[0\].answer' is missing"),
    "no answers": (row(questions=[{"question": "q", "answer": []}]), "at least 1 item.*; it is a list of 0"),
    "blank answer": (row(questions=[{"question": "q", "answer": ["a", ""]}]), r"answer\[1\]': must not be blank"),
    "several problems": (row(title=1, context=2), r"field 'title': .*it is 1 \(and 1 more\)"),
    "long value": (row(context=["x" * 5000]), "field 'context': Input should be a valid string; it is a list of 1"),
    "twice": (row(), "title 'Mill', the same title and context as record 0"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_invalid_record_error_names_it(bad, message, write):
    path = write([row(), bad])
    with pytest.raises(DataError, match=message) as caught:
        PassagesJson(path).load()
    told = str(caught.value)
    assert told.startswith(f"{path}: record 1: ")
    assert told.endswith("set skip_invalid to skip such records")
    assert len(told) < 600
    told.encode()


@pytest.mark.parametrize(("bad", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_invalid_records_are_skipped_with_a_warning(bad, message, write, caplog):
    source = PassagesJson(write([row(), bad, row("Other"), bad]), skip_invalid=True)
    with caplog.at_level(logging.WARNING):
        assert [p.title for p in source.load()] == ["Mill", "Other"]
    (record,) = caplog.records
    assert "skipped 2 invalid records, the first record 1: " in record.getMessage()
    assert [r.where for r in source.skipped] == ["record 1", "record 3"]
    source.load()
    assert len(source.skipped) == 2


def test_all_records_invalid(write):
    with pytest.raises(DataError, match="has no passage; 2 records are invalid, the first record 0: must be"):
        PassagesJson(write([1, 2]), skip_invalid=True).load()


@pytest.mark.parametrize("bad", [b"{", b"NaN", b"\xff", b"[" * 200_000, b"3"])
def test_invalid_line_is_named_or_skipped(bad, write_lines):
    path = write_lines(row("A"), b"", bad, row("B"))
    with pytest.raises(DataError, match=r"data.jsonl: line 3 \(record 1\): "):
        PassagesJsonl(path).load()
    source = PassagesJsonl(path, skip_invalid=True)
    assert [p.title for p in source.load()] == ["A", "B"]
    assert len(source.skipped) == 1


BAD_SQUAD = {
    "article is a text": ({"data": ["x"]}, r"data\[0\]: must be an object with a text 'title' and a list 'paragraphs'"),
    "no paragraphs": ({"data": [{"title": "t"}]}, r"data\[0\]: must be"),
    "paragraph is null": (
        {"data": [{"title": "t", "paragraphs": [None]}]},
        r"data\[0\].paragraphs\[0\]: must be a JSON",
    ),
    "no title": ({"data": [{"paragraphs": [{"context": "c", "qas": []}]}]}, "field 'title' is missing"),
    "title of underscores": (squad(title="__"), "field 'title': must not be blank"),
    "NUL in a URL": (squad(title="a%00b"), "field 'title': must not be blank or hold a NUL"),
    "no answers, not impossible": (squad(answers=[]), "has a question without 'answers' that is not is_impossible"),
    "blank answer": (squad(answers=[{"text": " "}]), r"field 'qas\[0\].answers\[0\].text': must not be blank"),
    "all impossible": (squad(is_impossible=True, answers=[]), "has no question that can be answered"),
    "id is a number": (squad(id=7), r"field 'qas\[0\].id'.*it is 7"),
    "impossible is a text": (squad(is_impossible="no"), r"is_impossible': Input should be a valid boolean; it is 'no'"),
}


@pytest.mark.parametrize(("content", "message"), BAD_SQUAD.values(), ids=BAD_SQUAD)
def test_invalid_squad_record_is_named_or_skipped(content, message, write):
    with pytest.raises(DataError, match=message):
        SquadJson(write(content)).load()
    content["data"] += squad(title="Good")["data"]
    source = SquadJson(write(content), skip_invalid=True)
    assert [p.title for p in source.load()] == ["Good"]
    assert len(source.skipped) == 1


def test_repeated_question_id_is_an_error(write):
    content = squad()
    content["data"][0]["paragraphs"][0]["qas"] *= 2
    with pytest.raises(DataError, match="has the question id 's1' twice"):
        SquadJson(write(content)).load()


class TestHub:
    """A local directory stands for the hub."""

    @pytest.fixture
    def directory(self, tmp_path, monkeypatch):
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

        def _make(rows):
            folder = tmp_path / "squad"
            folder.mkdir()
            (folder / "train.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
            return str(folder)

        return _make

    @staticmethod
    def flat(title, question, answers, context="c"):
        return {"id": question, "title": title, "context": context, "question": question, "answers": {"text": answers}}

    def test_rows_are_grouped_in_first_seen_order(self, directory):
        name = directory(
            [
                self.flat("B_1", "q1", ["x", "x", "y"]),
                self.flat("A", "q2", ["z"]),
                self.flat("B_1", "q3", ["w"]),
                self.flat("B_1", "q4", ["w"], context="other"),
                self.flat("A", "q5", []),
            ]
        )
        first, second, third = HubDataset(name, "train").load()
        assert (first.title, [q.question_id for q in first.questions]) == ("B 1", ["q1", "q3"])
        assert first.questions[0].answers == ("x", "y")
        assert (second.title, [q.question_id for q in second.questions]) == ("A", ["q2"])
        assert third.context == "other"
        assert len(HubDataset(name, "train", limit=2).load()) == 2

    def test_bad_rows(self, directory):
        rows = [self.flat("A", "q1", ["x"]), self.flat("A", "", ["x"]), self.flat("B", "q2", [])]
        name = directory(rows)
        with pytest.raises(DataError, match=r"split train: row 1: title 'A', field .*must not be blank"):
            HubDataset(name, "train").load()
        source = HubDataset(name, "train", skip_invalid=True)
        assert [p.title for p in source.load()] == ["A"]
        assert [r.where for r in source.skipped] == ["row 1", "row 2"]

    def test_missing_columns(self, directory):
        with pytest.raises(DataError, match="row 0: title 'A', field 'context' is missing"):
            HubDataset(directory([{"title": "A"}]), "train").load()

    def test_unloadable_data_set_is_reported(self, directory, tmp_path):
        name = directory([self.flat("A", "q1", ["x"])])
        with pytest.raises(DataError, match=r"cannot be loaded: .*Check the name, configuration, revision and split"):
            HubDataset(name, "dev").load()
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match="cannot be loaded"):
            HubDataset(str(tmp_path / "empty"), "train").load()

    def test_split_is_required(self, directory):
        name = directory([self.flat("A", "q1", ["x"])])
        with pytest.raises(DataError, match="is not a single split"):
            HubDataset(name, None).load()
