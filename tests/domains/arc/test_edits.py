"""ARC self-edits: everything a schema can produce is read as it was meant, anything else is refused by its kind."""

import json
import time
from itertools import pairwise

import pytest
from arc_edits import write_edit
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.core import Choice, fill_choices
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.domains.arc.edits import (
    LEARNING_RATES,
    MAX_EDIT_BYTES,
    MAX_EPOCHS,
    ArcDirectives,
    edit_schema,
    read_edit,
)
from seal_lightning.evaluation.grid import edit_choices

SCHEMAS = ("paper", "extended")
KINDS = {"too long", "not JSON", "duplicate key", "missing key", "extra key", "out of bounds", "wrong value"}
MOST_SECONDS = 0.05
"""As asked for; measured on one busy core: 0.02 to 0.3 ms a text, 10 MB and 10,000 braces under 0.05 ms, 500 keys 2 ms."""

PAPER = """{
  "data_generation": {
    "use_basic_augmentations": true,
    "use_size_augmentations": false,
    "use_chain_augmentations": true,
    "use_repeat_augmentations": false
  },
  "training": {"strategy": "train_using_output_tokens", "learning_rate": 5e-5, "num_train_epochs": 3}
}"""
EXTENDED = (
    '{"version": 2, "data_generation": {"use_basic_augmentations": false, "use_size_augmentations": false, '
    '"use_chain_augmentations": false, "use_repeat_augmentations": false, "use_geometric_augmentations": true}, '
    '"training": {"strategy": "train_using_all_outputs", "learning_rate": 1e-07, "num_train_epochs": 375}}'
)
EDITS = {"paper": PAPER, "extended": EXTENDED}


def menu(schema, learning_rates=(1e-5, 1e-3), epochs=(1, 12)):
    """By text, the choices that it says."""
    parts = edit_schema(schema, learning_rates, epochs)
    return {"".join(fill_choices(parts, one.choices)): one.choices for one in edit_choices(parts, {})}


def refused(text, schema="paper"):
    """How the text is refused; never in another way, never slowly, and in words that can be stored."""
    seconds = []
    for _ in range(3):  # the garbage collector of a process with torch in it takes half a second when it comes
        start = time.process_time()
        with pytest.raises(MalformedEdit) as caught:
            read_edit(text, schema)
        seconds.append(time.process_time() - start)
    assert min(seconds) < MOST_SECONDS
    assert caught.value.kind in KINDS
    assert str(caught.value).startswith(f"{caught.value.kind}: ")
    assert len(str(caught.value).encode()) < 1000
    return caught.value


def with_rate(rate):
    return PAPER.replace("5e-5", rate)


def with_epochs(epochs):
    return PAPER.replace('"num_train_epochs": 3', f'"num_train_epochs": {epochs}')


# --- what is allowed


def test_the_papers_schema():
    assert read_edit(PAPER, "paper") == ArcDirectives(
        augmentations=("basic", "chain"), loss="last_output", learning_rate=5e-5, num_epochs=3
    )
    everything = PAPER.replace("false", "true").replace("_output_tokens", "_all_tokens")
    found = read_edit(everything, "paper")
    assert found.augmentations == ("basic", "size", "chain", "repeat")
    assert found.loss == "all_tokens"


def test_the_extended_schema():
    assert read_edit(EXTENDED, "extended") == ArcDirectives(
        augmentations=("geometric",), loss="all_outputs", learning_rate=1e-7, num_epochs=375
    )


def test_the_schemas_names_are_the_papers():
    names = [part.name for part in edit_schema("paper", (1e-4, 1e-3), (1, 2)) if isinstance(part, Choice)]
    augmentations = [f"use_{name}_augmentations" for name in ("basic", "size", "chain", "repeat")]
    assert names == [*augmentations, "strategy", "learning_rate", "num_train_epochs"]
    (strategy,) = [p for p in edit_schema("paper", (1e-4, 1e-3), (1, 2)) if getattr(p, "name", "") == "strategy"]
    assert strategy.options == ("train_using_all_tokens", "train_using_output_tokens")


@pytest.mark.parametrize(("schema", "number"), [("paper", 2**4 * 2 * 4), ("extended", 2**5 * 3 * 4)])
def test_every_text_of_the_schema_is_parsed(schema, number):
    found = menu(schema)
    assert len(found) == number
    losses = {"train_using_all_tokens": "all_tokens", "train_using_output_tokens": "last_output"}
    losses |= {"train_using_all_outputs": "all_outputs"}
    for text, chosen in found.items():
        said = read_edit(text, schema)
        groups = [name[4:-14] for name, option in chosen.items() if option == " true"]
        assert list(said.augmentations) == groups
        assert said.loss == losses[chosen["strategy"]]
        assert (said.learning_rate, said.num_epochs) == (
            float(chosen["learning_rate"]),
            int(chosen["num_train_epochs"]),
        )
        assert write_edit(said, schema) == text
        assert ("version" in json.loads(text)) == (schema == "extended")


def test_literals_of_a_schema_never_touch():
    for schema in SCHEMAS:
        parts = edit_schema(schema, (1e-4, 1e-3), (1, 2))
        assert all(isinstance(a, str) != isinstance(b, str) for a, b in pairwise(parts))


@given(st.floats(*LEARNING_RATES), st.integers(1, MAX_EPOCHS))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_numbers_survive_to_the_last_digit(learning_rate, num_epochs):
    said = ArcDirectives(learning_rate=learning_rate, num_epochs=num_epochs)
    assert read_edit(write_edit(said, "paper"), "paper") == said
    other = 1e-3 if learning_rate != 1e-3 else 1e-4
    schema = edit_schema("paper", (learning_rate, other), (num_epochs, MAX_EPOCHS + 1))
    (one,) = edit_choices(
        schema,
        {"learning_rate": [repr(learning_rate)], "num_train_epochs": [str(num_epochs)]}
        | {f"use_{name}_augmentations": ["false"] for name in ("basic", "size", "chain", "repeat")}
        | {"strategy": ["train_using_output_tokens"]},
    )
    assert read_edit("".join(fill_choices(schema, one.choices)), "paper") == said


@pytest.mark.parametrize("rate", ["5e-5", "5E-5", "0.00005", "1e-7", "1e-07", "0.1", "3e-4", "1.5e-3"])
def test_learning_rates_as_models_write_them(rate):
    assert read_edit(with_rate(rate), "paper").learning_rate == float(rate)


@pytest.mark.parametrize(
    "text",
    [f"```json\n{PAPER}\n```", f"```\n{PAPER}\n```", f" \n\t{PAPER}\r\n", f"\n```json \n\n{PAPER}\n\n```\n\n"],
    ids=["json fence", "fence", "blanks", "blanks and fence"],
)
def test_a_fence_and_blanks_around_are_allowed(text):
    assert read_edit(text, "paper") == read_edit(PAPER, "paper")


def test_the_order_of_keys_does_not_matter():
    content = json.loads(EXTENDED)
    turned = {
        key: dict(reversed(value.items())) if isinstance(value, dict) else value
        for key, value in reversed(content.items())
    }
    assert read_edit(json.dumps(turned), "extended") == read_edit(EXTENDED, "extended")


# --- what is not


def test_the_cap_counts_bytes_and_comes_first():
    assert read_edit(PAPER + " " * (MAX_EDIT_BYTES - len(PAPER)), "paper")
    assert refused(PAPER + " " * (MAX_EDIT_BYTES + 1 - len(PAPER))).kind == "too long"
    wide = PAPER + "\u2003" * (MAX_EDIT_BYTES // 3)
    assert len(wide) < MAX_EDIT_BYTES
    assert refused(wide).kind == "too long"


BAD = {
    "empty": ("", "not JSON"),
    "blanks": (" \n\t", "not JSON"),
    "nul": ("\0", "not JSON"),
    "prose": ("I would use basic augmentations.", "not JSON"),
    "trailing text": (PAPER + "\nDone.", "not JSON"),
    "text before": ("Sure!\n" + PAPER, "not JSON"),
    "text before a fence": (f"Sure!\n```json\n{PAPER}\n```", "not JSON"),
    "open fence": (f"```json\n{PAPER}", "not JSON"),
    "two objects": (PAPER + PAPER, "not JSON"),
    "comment": ("// an edit\n" + PAPER, "not JSON"),
    "trailing comma": (PAPER.replace(": 3}", ": 3,}"), "not JSON"),
    "Python's True": (PAPER.replace("true", "True"), "not JSON"),
    "byte order mark": ("\ufeff" + PAPER, "not JSON"),
    "cut short": (PAPER[:-1], "not JSON"),
    "lone surrogate": ("\ud800", "not JSON"),
    "lone surrogate in a key": (PAPER.replace("strategy", "\ud800"), "wrong value"),
    "lone surrogate in a value": (PAPER.replace("train_using", "\udfff"), "wrong value"),
    "nul in a value": (PAPER.replace("train_using", "\0"), "not JSON"),
    "emoji": ("\U0001f33e" * 1000, "not JSON"),
    "emoji in an added key": (
        PAPER.replace('"training": {', '"training": {"' + "\U0001f33e" * 200 + '": 1, '),
        "extra key",
    ),
    "emoji as a value": (PAPER.replace("train_using_output_tokens", "\U0001f33e" * 200), "wrong value"),
    "10,000 braces": ("{" * 10_000, "too long"),
    "10 MB": ("a" * 10_000_000, "too long"),
    "10 MB of an edit": (PAPER * 40_000, "too long"),
    "4 KB of braces": ("{" * MAX_EDIT_BYTES, "not JSON"),
    "4 KB of objects": ('{"a":' * 600 + "1" + "}" * 600, "missing key"),
    "500 keys": ("{" + ",".join(f'"{n}":1' for n in range(500)) + "}", "missing key"),
    "400 added keys": (
        PAPER.replace('"training"', ",".join(f'"{n}":1' for n in range(400)) + ',"training"'),
        "extra key",
    ),
    "list": ("[]", "wrong value"),
    "list of an edit": (f"[{PAPER}]", "wrong value"),
    "number": ("1", "wrong value"),
    "null": ("null", "wrong value"),
    "string": ('"edit"', "wrong value"),
    "empty object": ("{}", "missing key"),
    "no training": (PAPER.replace('"training"', '"trains"'), "missing key"),
    "training is a list": ('{"data_generation": [], "training": []}', "wrong value"),
    "added key": (PAPER.replace('{"strategy"', '{"batch_size": 2, "strategy"'), "extra key"),
    "added key outside": ('{"why": "because", ' + PAPER[1:], "extra key"),
    "a version in the paper's schema": ('{"version": 2, ' + PAPER[1:], "extra key"),
    "duplicate key": (PAPER.replace('"num_train', '"learning_rate": 5e-5, "num_train'), "duplicate key"),
    "duplicate key, escaped": (PAPER.replace('"num_train', '"l\\u0065arning_rate": 5e-5, "num_train'), "duplicate key"),
    "duplicate outside": (PAPER[:-1] + ', "training": {}}', "duplicate key"),
    "duplicate in what is not known": ('{"a": {"b": 1, "b": 1}}', "duplicate key"),
    "unknown strategy": (PAPER.replace("train_using_output_tokens", "train"), "wrong value"),
    "an extended strategy": (PAPER.replace("train_using_output_tokens", "train_using_all_outputs"), "wrong value"),
    "strategy in capitals": (PAPER.replace("train_using", "TRAIN_USING"), "wrong value"),
    "boolean as 1": (PAPER.replace("true", "1"), "wrong value"),
    "boolean as text": (PAPER.replace("true", '"true"'), "wrong value"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_texts_are_malformed(name):
    text, kind = BAD[name]
    assert refused(text).kind == kind


@pytest.mark.parametrize(
    ("rate", "kind"),
    [
        ("1e9", "out of bounds"),
        ("0", "out of bounds"),
        ("-0", "out of bounds"),
        ("-0.0", "out of bounds"),
        ("-1e-4", "out of bounds"),
        ("1e999", "out of bounds"),
        ("-1e999", "out of bounds"),
        ("1e-400", "out of bounds"),
        ("0.1000001", "out of bounds"),
        ("9.9e-8", "out of bounds"),
        ("1" + "0" * 400, "wrong value"),
        ("1" + "0" * 3_500, "wrong value"),
        ("0." + "0" * 3_500 + "1", "out of bounds"),
        ("NaN", "not JSON"),
        ("Infinity", "not JSON"),
        ("-Infinity", "not JSON"),
        ("nan", "not JSON"),
        (".001", "not JSON"),
        ("1e", "not JSON"),
        ("+1e-3", "not JSON"),
        ("0x1", "not JSON"),
        ("1_0e-5", "not JSON"),
        ("１e-3", "not JSON"),
        ("true", "wrong value"),
        ("null", "wrong value"),
        ('"1"', "wrong value"),
        ('"5e-5"', "wrong value"),
        ("[5e-5]", "wrong value"),
        ("{}", "wrong value"),
    ],
    ids=lambda value: value[:12],
)
def test_invalid_learning_rates_are_malformed(rate, kind):
    assert refused(with_rate(rate)).kind == kind


@pytest.mark.parametrize(
    ("epochs", "kind"),
    [
        ("1000000000", "out of bounds"),
        ("0", "out of bounds"),
        ("-0", "out of bounds"),
        ("-3", "out of bounds"),
        ("376", "out of bounds"),
        ("1" + "0" * 3_500, "out of bounds"),
        ("1e1", "wrong value"),
        ("2.0", "wrong value"),
        ("1e999", "wrong value"),
        ("true", "wrong value"),
        ("null", "wrong value"),
        ('"1"', "wrong value"),
        ("[1]", "wrong value"),
        ("03", "not JSON"),
        ("NaN", "not JSON"),
    ],
    ids=lambda value: value[:12],
)
def test_invalid_epochs_are_malformed(epochs, kind):
    assert refused(with_epochs(epochs)).kind == kind


@pytest.mark.parametrize("version", ["1", "3", "2.0", "true", "null", '"2"', "[2]", "2e0"])
def test_invalid_versions_are_malformed(version):
    error = refused(EXTENDED.replace('"version": 2', f'"version": {version}'), "extended")
    assert error.kind == ("out of bounds" if version in "13" else "wrong value")


def test_the_schemas_are_not_mixed():
    assert refused(PAPER, "extended").kind == "missing key"
    assert refused(EXTENDED, "paper").kind == "extra key"


def test_malformed_error_names_field_and_value():
    error = refused(with_rate("1e9"))
    assert "training.learning_rate" in str(error)
    assert "0.1" in str(error)
    assert "1000000000.0" in str(error)
    assert str(refused("[]")) == "wrong value: the edit: Input should be an object; it is a list"
    assert "num_train_epochs" in str(refused(PAPER.replace(', "num_train_epochs": 3', "")))


# --- writing


def test_the_order_of_augmentations_is_the_menus():
    turned = ArcDirectives(augmentations=("geometric", "size", "basic"))
    assert read_edit(write_edit(turned, "extended"), "extended").augmentations == ("basic", "size", "geometric")


@pytest.mark.parametrize(
    "settings_",
    [
        {"augmentations": ("basics",)},
        {"learning_rate": 0.0},
        {"learning_rate": -1e-4},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"num_epochs": 0},
    ],
    ids=str,
)
def test_directives_out_of_bounds(settings_):
    with pytest.raises(ConfigError, match="is not allowed; it must be"):
        ArcDirectives(**settings_)


# --- fuzzing

TOKENS = (
    *("{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\ud800", "\\u0000", " ", "\n", "\t", "\0", "\x1b", "\x7f"),
    *("true", "false", "null", "NaN", "Infinity", "-", "-0", "1e999", "1e-999", "0.1", "1e-7", "9" * 400, "0", "3"),
    *('"training": {}', '"a": 1,', '"version": 2,', '"__proto__": 1,', "/*", "//", "```", "```json\n", "<|im_end|>"),
    *(
        "\ud800",
        "\udfff",
        "\ufeff",
        "\u2028",
        "\x85",
        "\xa0",
        "\U0001f33e",
        "\U0010ffff",
        "１",
        "\u0660",
        "İ",
        "e",
        ".",
    ),
)


@st.composite
def mutated(draw):
    """A valid edit and what became of it: cut, doubled, with tokens and noise in it."""
    schema = draw(st.sampled_from(SCHEMAS))
    text = draw(st.sampled_from([EDITS[schema], json.dumps(json.loads(EDITS[schema]))]))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from((0, 0, 1, 2, 8, 40))))
        put = draw(
            st.sampled_from(TOKENS)
            | st.text(st.characters(exclude_categories=()), max_size=4)
            | st.just(text[start:end] * 2)
        )
        text = text[:start] + put * draw(st.sampled_from((1, 1, 1, 2, 300))) + text[end:]
    return schema, text


@given(mutated())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_read_edit_handles_any_text(case):
    schema, text = case
    try:
        said = read_edit(text, schema)
    except MalformedEdit:
        refused(text, schema)
    else:
        assert LEARNING_RATES[0] <= said.learning_rate <= LEARNING_RATES[1]
        assert type(said.num_epochs) is int
        assert 1 <= said.num_epochs <= MAX_EPOCHS
        assert read_edit(write_edit(said, schema), schema) == said


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
