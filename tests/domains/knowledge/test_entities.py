"""A model's list of entities: JSON, and what is made of all else."""

import json
import time

import pytest

from seal_lightning.domains.knowledge.entigraph import read_entities

READ = {
    "JSON": ('["Rye", "the flood"]', ["Rye", "the flood"]),
    "object": ('{"summary": "s", "entities": ["Rye", "flood"]}', ["Rye", "flood"]),
    "objects": ('[{"name": "Rye", "kind": "plant"}, {"entity": "flood"}, {"x": "y"}, 3, null]', ["Rye", "flood"]),
    "JSON in text": ('Here you are:\n```json\n["Rye", "flood"]\n```\nAnything else?', ["Rye", "flood"]),
    "the first array with names": ('[1] says [2]: ["Rye", \'x] ["Rye", "flood"]', ["Rye", "flood"]),
    "cut off": ('["Rye", "flo\\"od", "whe', ["Rye", 'flo"od']),
    "a comma too many": ('["Rye", "flood",]', ["Rye", "flood"]),
    "no commas": ('["Rye" "flood"]', ["Rye", "flood"]),
    "bullets": (
        "Sure!\n- **Rye**: a plant\n* flood (of 1788)\n• wheel – lost\n- Jean-Luc",
        ["Rye", "flood", "wheel", "Jean-Luc"],
    ),
    "numbers": ("The names are:\n1. Rye\n2) flood", ["Rye", "flood"]),
    "plain lines": ("Names:\nRye\n\nflood", ["Rye", "flood"]),
    "commas": ("Rye, flood; the 1,000 wheels.", ["Rye", "flood", "the 1,000 wheels"]),
    "commas after a heading": ("The names: Rye, flood", ["Rye", "flood"]),
    "repeats": ('["Rye", "RYE", " rye ", "flood", "ﬂood"]', ["Rye", "flood"]),
    "blanks and marks": ('["  Rye\\n and\\tflour. ", "*", "", "---", "`flood`"]', ["Rye and flour", "flood"]),
    "too long": (json.dumps(["Rye", "x" * 41, "y" * 40]), ["Rye", "y" * 40]),
    "too many": (json.dumps([f"n{i}" for i in range(99)]), [f"n{i}" for i in range(9)]),
    "control characters": ('["Rye", "\\u001b[31mred", "a\\u202eb", "\\ud800flood"]', ["Rye"]),
    "nothing": (" \n", []),
    "no names": ("[1, 2]", ["1", "2"]),
    "not a list": ('"Rye"', ["Rye"]),
}


@pytest.mark.parametrize(("text", "names"), READ.values(), ids=READ)
def test_written_questions_are_parsed(text, names):
    assert read_entities(text, 9, 40) == names


HOSTILE = {
    "brackets": "[" * 1_000_000,
    "objects": '{"a":' * 200_000,
    "quotes": '["' + '\\"' * 500_000,
    "open quotes": "[" + '"a\n' * 300_000,
    "lines": "a\n" * 500_000,
    "commas": ", " * 500_000,
    "blanks": " " * 1_000_000 + "x",
    "a deep array": "[" * 9_000 + '"a"' + "]" * 9_000,
    "digits": "[" + "9" * 10_000 + "]",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_takes_little_time(text):
    start = time.perf_counter()
    names = read_entities(text, 20, 80)
    assert time.perf_counter() - start < 1
    assert len(names) <= 20
    assert all(0 < len(name) <= 80 for name in names)
