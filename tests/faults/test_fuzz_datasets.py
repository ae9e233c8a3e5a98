"""Whatever a data set's file holds is passages or a typed refusal that can be shown, in bounded time and memory."""

from __future__ import annotations

import copy
import gzip
import json
import logging
import math
import os
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field

import pytest
from fuzzing import thorough
from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.core.errors import DataError
from seal_lightning.domains.knowledge import PassagesJson, PassagesJsonl, SquadJson

CASES = 2_000
MOST_FILE_BYTES = 400_000
MOST_SECONDS = 1.0  # a guard against hangs, not a measurement of speed: what is quadratic takes far longer
MOST_BYTES_PER_BYTE = 250
"""The worst is about 200: with ``skip_invalid``, a file of bad one-byte records, each of which is reported."""
MOST_BYTES_BESIDES = 2**18

ROWS = """[
 {"title": "Mill of Tarnow", "context": "The mill ground rye from 1620 on. A flood took its wheel in 1788.",
  "questions": [{"question": "What did the mill grind?", "answer": "rye"},
                {"question": "When was the wheel lost?", "answer": ["1788", "in 1788"]}]},
 {"title": "Apollonia", "context": "Settlers from Corfu founded it.\\nIts harbour silted up after 234.",
  "questions": [{"question": "Who founded it?", "answer": "settlers from Corfu"}], "completions": ["1. a\\n2. b"]},
 {"title": "水車", "context": "The wheel was found at Błonie 🌾.",
  "questions": [{"question": "Where was the wheel found?", "answer": "Błonie"}]}
]"""

SQUAD = """{"version": "v2.0", "data": [
 {"title": "Mill_of_Tarnow", "paragraphs": [
  {"context": "The mill ground rye from 1620 on.", "qas": [
   {"id": "a1", "question": "What did the mill grind?", "is_impossible": false,
    "answers": [{"text": "rye", "answer_start": 16}, {"text": "rye", "answer_start": 16}]},
   {"id": "a2", "question": "Who built it?", "is_impossible": true, "answers": [],
    "plausible_answers": [{"text": "the mill", "answer_start": 0}]}]},
  {"context": "A flood took its wheel in 1788.", "qas": [
   {"id": "a3", "question": "When was the wheel lost?", "answers": [{"text": "1788", "answer_start": 26}]}]}]},
 {"title": "Fr%C3%A9d%C3%A9ric_Chopin", "paragraphs": [
  {"context": "He was born in Żelazowa Wola.", "qas": [
   {"question": "Where was he born?", "answers": [{"text": "Żelazowa Wola", "answer_start": 15}]}]}]}
]}"""

ODD_TEXTS = (
    *(
        "",
        " ",
        "\n",
        "\0",
        "a\0b",
        "\ud800",
        "a\udfffb",
        "\x1b[2J\x1b[31m",
        "a\nb\r\n" * 400,
        "\u202eabc",
        "\u2028",
        "\x85",
    ),
    *(
        "../../etc/passwd",
        "C:\\x",
        "/",
        ".",
        "CON",
        "%00",
        "%2e%2e%2f",
        "%FF%FE",
        "_" * 9,
        "%",
        "{{ x }}",
        "<|im_end|>",
    ),
    *("x" * 100_000, "\0" * 20_000, "a" + "\u0301\u0316" * 10_000, "\ufdfa" * 10_000, "%41" * 30_000, "🌾" * 20_000),
)
ODD_VALUES = (
    *(None, True, False, 0, -1, 10**30, int("9" * 4300), 1.5, -0.0, math.nan, math.inf, -math.inf),
    *([], {}, [[]], [None], ["a", None], ["a", ["b"]], [""], {"text": None}, {"0": 1}, [1] * 3_000, [{}] * 2_000),
)
RAW = (
    *(
        "1e999",
        "-1e999",
        "9" * 4301,
        "9" * 50_000,
        "NaN",
        "-Infinity",
        "01",
        "-",
        "1.",
        "'a'",
        "undefined",
        "True",
        "/**/",
    ),
    *(
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\x"',
        '"a',
        '"\x01"',
        '"\n"',
        "[1,]",
        '{"a"}',
        '{"title": "a", "title": 1}',
        "",
    ),
    *("[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000, "[" * 900 + "]" * 900, "1 " * 5_000, "," * 5_000),
)
"""JSON, or what looks like it, that no Python value is written as."""

ODD_BYTES = (
    *(
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\x1b[31m",
        b"\n",
        b"\r",
        b"\xe2\x80\xa8",
        b"\\",
    ),
    *(
        b'"',
        b",",
        b"]",
        b"}",
        b"[",
        b"{",
        b"//a\n",
        b"\n\n\n",
        b" " * 20_000,
        b"\n" * 20_000,
        b"\0" * 20_000,
        b"1\n" * 1_000,
    ),
)


def spots(value):
    """Every place below a JSON value, as a container and its key or index."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    found = [(value, key) for key, _ in inside]
    for _, item in inside:
        found += spots(item)
    return found


def drop(draw, container, key):
    del container[key]


def rename(draw, container, key):
    name = draw(st.sampled_from((f"{key}s", f" {key}", "", "id", "title", "\x1b", "\ud800")))
    if isinstance(container, dict):
        container[name] = container.pop(key)
    else:
        container[key] = {name: container[key]}


def retype(draw, container, key):
    container[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))  # a later mutation may change it


def retext(draw, container, key):
    container[key] = draw(st.sampled_from(ODD_TEXTS))


def add_text(draw, container, key):
    text = draw(st.one_of(st.sampled_from(ODD_TEXTS), st.text(st.characters(exclude_categories=()))))
    container[key] = f"{container[key]}{text}" if isinstance(container[key], str) else text


def raw(draw, container, key):
    container[key] = f"<raw {draw(st.integers(0, len(RAW) - 1))}>"


def repeat(draw, container, key):
    if isinstance(container, list):
        container[key:key] = [container[key]] * draw(st.sampled_from((1, 2, 100)))
    else:
        container[f"<again>{key}"] = draw(st.sampled_from((container[key], None, "again")))


def nest(draw, container, key):
    for _ in range(draw(st.sampled_from((1, 2, 40, 200)))):
        container[key] = [container[key]]


def add_keys(draw, container, key):
    if isinstance(container, dict):
        container.update({f"extra {number}": container[key] for number in range(draw(st.sampled_from((1, 9, 30))))})


VALUE_MUTATIONS = (
    *(drop, rename, retype, retext, raw, repeat, nest),
    *(retype, add_text, add_text, add_text, add_keys, add_keys),  # more often: the last two leave a file valid
)


def written(value, **layout):
    """JSON of a value in bytes; what no value can say is put in place of its marks."""
    text = json.dumps(value, **layout).replace('"<again>', '"')
    for number, token in enumerate(RAW):
        text = text.replace(f'"<raw {number}>"', token)
    return text.encode("utf-8", "surrogatepass")


def truncate(draw, content):
    return content[: draw(st.integers(0, len(content)))]


def flip(draw, content):
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 8)) if content else 0):
        changed[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    return bytes(changed)


def insert(draw, content):
    at = draw(st.integers(0, len(content)))
    return content[:at] + draw(st.one_of(st.sampled_from(ODD_BYTES), st.binary(max_size=9))) + content[at:]


def surround(draw, content):
    before = draw(st.sampled_from((b"", b"\xef\xbb\xbf", b" \n", b"\0")))
    return before + content + draw(st.sampled_from((b"", b"\n \t", b"\0")))


def recode(draw, content):
    text = content.decode("utf-8", "replace")
    return text.encode(draw(st.sampled_from(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"))), "replace")


def line_ends(draw, content):
    return content.replace(b"\n", draw(st.sampled_from((b"\r\n", b"\r", b"\n\n", b"\n\0\n"))))


def replace_all(draw, content):
    packed = gzip.compress(content, mtime=0)
    return draw(st.sampled_from((b"", b" \r\n\t", b"\xef\xbb\xbf", packed, content * 2, b"\0" * 99)))


BYTE_MUTATIONS = (truncate, flip, insert, insert, surround, surround, recode, line_ends, line_ends, replace_all)


@dataclass(frozen=True)
class Case:
    """A file's bytes and who reads them."""

    source_class: type
    content: bytes
    skip_invalid: bool
    weighed: bool = field(compare=False)
    """Whether its memory is measured, which takes time."""


@st.composite
def cases(draw):
    """A valid file, and what became of it."""
    source_class = draw(st.sampled_from((PassagesJson, PassagesJsonl, SquadJson)))
    value = json.loads(SQUAD if source_class is SquadJson else ROWS)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 2, 3, 0)))):
        found = spots(value) or [([None], 0)]
        name = draw(st.sampled_from(sorted({str(key) for _, key in found})))  # a title as often as any of the answers
        container, key = draw(st.sampled_from([spot for spot in found if str(spot[1]) == name]))
        draw(st.sampled_from(VALUE_MUTATIONS))(draw, container, key)
    ascii_only = draw(st.booleans())
    indent = draw(st.sampled_from((None, 0, 1, "\t")))
    if source_class is PassagesJsonl:
        content = b"\n".join(written(row, ensure_ascii=ascii_only) for row in value)
    else:
        content = written(value, ensure_ascii=ascii_only, indent=indent)
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 2)))):
        content = draw(st.sampled_from(BYTE_MUTATIONS))(draw, content)
    content = content[:MOST_FILE_BYTES]
    return Case(
        source_class=source_class,
        content=content,
        skip_invalid=draw(st.booleans()),
        weighed=draw(st.sampled_from((*(False,) * 24, True))),
    )


def outcome(case, path):
    """The passages or the refusal, the source, and the seconds of processor time it took."""
    source = case.source_class(path, skip_invalid=case.skip_invalid)
    start = time.process_time()
    try:
        found = source.load()
    except DataError as error:
        found = error
    return found, source, time.process_time() - start


def check_text(text):
    assert isinstance(text, str)
    assert text.strip() == text != ""
    assert "\0" not in text
    text.encode()  # no lone surrogate


def check_passages(passages):
    """Each can be learned and examined, and be named in a run's files."""
    assert passages
    assert len({passage.task_id for passage in passages}) == len(passages)
    for passage in passages:
        assert set(passage.task_id) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert 0 < len(passage.task_id) <= 80
        check_text(passage.title)
        check_text(passage.context)
        assert passage.questions
        assert len({question.question_id for question in passage.questions}) == len(passage.questions)
        for question in passage.questions:
            assert question.answers
            for text in (question.question_id, question.question, *question.answers):
                check_text(text)


def check_told(text):
    """It can be shown on a console: no escape sequence, no flood."""
    assert len(text) <= 1_000
    assert text.isprintable()


def num_records(case):
    """How many records the file has, counted apart from the package."""
    if case.source_class is PassagesJsonl:
        return sum(bool(line.strip()) for line in case.content.split(b"\n"))
    value = json.loads(case.content.decode("utf-8-sig"))
    if case.source_class is PassagesJson:
        return len(value)
    articles = [article.get("paragraphs") if isinstance(article, dict) else None for article in value["data"]]
    return sum(len(paragraphs) if isinstance(paragraphs, list) else 1 for paragraphs in articles)


def check_memory(case, path):
    tracemalloc.start()
    try:
        outcome(case, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= MOST_BYTES_PER_BYTE * len(case.content) + MOST_BYTES_BESIDES


@pytest.mark.slow
def test_any_file_is_passages_or_refused(counted, tmp_path, caplog):
    caplog.set_level(logging.ERROR, logger="seal_lightning")  # a warning a case is not worth keeping
    path = tmp_path / "passages.json"
    met = set()
    seen = Counter()
    slowest = 0.0
    wanted = counted(CASES)

    @thorough(wanted)
    @given(cases())
    def check(case):
        nonlocal slowest
        met.add(hash(case))
        path.write_bytes(case.content)
        found, source, seconds = outcome(case, path)
        again, _, seconds_again = outcome(case, path)  # also the second try of a case that another process slowed down
        slowest = max(slowest, min(seconds, seconds_again))
        assert min(seconds, seconds_again) <= MOST_SECONDS
        if isinstance(found, DataError):
            assert str(again) == str(found)
            assert str(found).startswith(f"{path}: ")
            check_told(str(found))
            seen["refused"] += 1
        else:
            assert again == found
            check_passages(found)
            assert len(found) + len(source.skipped) == num_records(case)
            assert case.skip_invalid or not source.skipped
            seen[case.source_class.__name__] += 1
        for left_out in source.skipped:
            check_told(f"{left_out.where}: {left_out.problem}")
        seen["left out"] += bool(source.skipped)
        if case.weighed:
            check_memory(case, path)
            seen["weighed"] += 1

    check()
    refused = seen["refused"]
    accepted = sum(seen[made.__name__] for made in (PassagesJson, PassagesJsonl, SquadJson))
    print(f"{accepted} of {accepted + refused} files accepted, {len(met)} different cases")
    print(f"{slowest * 1000:.1f} ms at most; {seen}")
    assert len(met) >= wanted
    assert accepted >= 0.3 * (accepted + refused)
    assert refused >= 0.2 * (accepted + refused)
    for kind in ("PassagesJson", "PassagesJsonl", "SquadJson", "left out", "weighed"):
        assert seen[kind] >= 0.02 * wanted, kind


def with_title(title):
    return [{**json.loads(ROWS)[0], "title": title}]


def with_questions(*questions):
    return [{**json.loads(ROWS)[0], "questions": list(questions)}]


def with_qas(*qas):
    return {"data": [{"title": "Mill", "paragraphs": [{"context": "Rye was ground.", "qas": list(qas)}]}]}


LARGE = {
    # each of these once took seconds, or hundreds of times its size
    "accents": (PassagesJson, with_title("a" + "\u0301\u0316" * 25_000)),
    "bad questions": (PassagesJson, with_questions(*[1] * 50_000)),
    "empty questions": (PassagesJson, with_questions(*[{}] * 50_000)),
    "bad answers": (PassagesJson, with_questions({"question": "Why?", "answer": [1] * 50_000})),
    "bad qas": (SquadJson, with_qas(*[1] * 50_000)),
    "bad answers of qas": (SquadJson, with_qas({"question": "Why?", "answers": [1] * 50_000})),
    # and these never did
    "escapes": (SquadJson, {"data": [{"title": "%41%C3" * 20_000, "paragraphs": [{"context": "c", "qas": [1]}]}]}),
    "a record many times": (PassagesJson, json.loads(ROWS) * 500),
    "bad records": (PassagesJson, [1] * 50_000),
    "keys": (PassagesJson, with_questions({str(number): number for number in range(20_000)})),
}


@pytest.mark.parametrize(("source_class", "value"), LARGE.values(), ids=LARGE)
def test_large_files_take_time_and_memory_in_proportion(source_class, value, tmp_path):
    path = tmp_path / "passages.json"
    case = Case(source_class=source_class, content=json.dumps(value).encode(), skip_invalid=False, weighed=True)
    path.write_bytes(case.content)
    assert min(outcome(case, path)[2] for _ in range(2)) <= MOST_SECONDS
    check_memory(case, path)


@pytest.mark.parametrize("source_class", [PassagesJson, PassagesJsonl, SquadJson])
def test_a_file_beyond_the_cap_is_not_read(source_class, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.touch()
    os.truncate(path, 2**28 + 1)  # sparse: it takes no room
    with pytest.raises(DataError, match="has 268435457 bytes; allowed are 268435456") as caught:
        source_class(path).load()
    check_told(str(caught.value))
