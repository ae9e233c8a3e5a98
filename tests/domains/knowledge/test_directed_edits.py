"""Edits that say how they are to be learned: what is asked, what is read, and what comes of it in the plan."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonargparse import ArgumentParser

from seal_lightning.core import AdapterSpec, Choice, FreeText, OptimizerSpec, fill_choices
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.domains.knowledge import DirectedEdits, Implications, KnowledgeDomain, Rewrites, SelfQA

FORMATS = {"notes": Implications(), "versions": Rewrites(stop=("THE END",))}
DIRECTED = DirectedEdits(
    formats=FORMATS,
    learning_rates=(1e-3, 5e-3),
    num_epochs=(2, 4, 8),
    passage_weights=(0, 3),
    layers={"top": [2, 3], "all": [0, 1, 2, 3]},
)
SAID = {"format": "notes", "learning_rate": 0.005, "num_epochs": 8, "passage_weight": 3, "layers": "top"}
OPTIMIZER = OptimizerSpec(learning_rate=2e-4, num_epochs=3, batch_size=2, schedule="constant")


def written(text: str = "Implications:\n1. a\n2. b", **changes: object) -> str:
    return f"{json.dumps(SAID | changes)}\n\n{text}"


@pytest.fixture
def domain() -> KnowledgeDomain:
    return KnowledgeDomain(format=DIRECTED, adapter=AdapterSpec(rank=4), optimizer=OPTIMIZER)


def texts(plan):
    return [sequence.segments[0].text.removeprefix("Mill of Tarnow\n") for sequence in plan.sequences]


def test_the_schema_fills_in_to_what_is_read_back(domain, passage, edit):
    schema = domain.edit_schema(passage)
    menus = {part.name: part.options for part in schema if isinstance(part, Choice)}
    assert menus == {
        "format": ("notes", "versions", "none"),
        "learning_rate": ("0.001", "0.005"),
        "num_epochs": ("2", "4", "8"),
        "passage_weight": ("0", "3"),
        "layers": ("top", "all"),
    }
    chosen = {"format": "versions", "learning_rate": "0.001", "num_epochs": "4", "passage_weight": "3", "layers": "all"}
    *given, free = fill_choices(schema, chosen)
    opened = "".join(given)
    assert isinstance(free, FreeText)
    assert json.loads(opened.split("\n\n")[0]) == SAID | {
        "format": "versions", "learning_rate": 0.001, "num_epochs": 4, "layers": "all"
    }  # fmt: skip
    plan = domain.plan(passage, edit(f"{opened}a\n---\nb"))
    assert texts(plan) == ["a", "b", *[passage.context] * 3]
    assert plan.adapter == AdapterSpec(rank=4, layers=(0, 1, 2, 3))
    assert plan.optimizer == replace(OPTIMIZER, learning_rate=1e-3, num_epochs=4)
    bare = "".join(fill_choices(schema, chosen | {"format": "none"}))
    assert texts(domain.plan(passage, edit(bare))) == [passage.context] * 3


def test_the_text_is_split_as_the_directives_say(domain, passage, edit):
    assert texts(domain.plan(passage, edit(written(passage_weight=0)))) == ["1. a", "2. b"]
    assert texts(domain.plan(passage, edit(written("no heading", format="versions", passage_weight=0)))) == [
        "no heading"
    ]
    assert texts(domain.plan(passage, edit(written(format="none")))) == [passage.context] * 3


def test_a_directive_wins_over_a_fixed_number_of_steps(passage, edit):
    domain = KnowledgeDomain(format=DIRECTED, optimizer=replace(OPTIMIZER, max_steps=7))
    assert domain.plan(passage, edit(written())).num_steps == 8 * 3
    assert domain.plan_without_edit(passage).num_steps == 7


def test_menus_of_none_or_one_option_give_no_choice(passage, edit):
    few = DirectedEdits(
        formats={"notes": Implications()},
        passage_only=False,
        learning_rates=(),
        num_epochs=(4,),
        passage_weights=(1, 2),
    )
    domain = KnowledgeDomain(format=few, optimizer=OPTIMIZER)
    opened, choice, end, free = domain.edit_schema(passage)
    assert opened == '{"format": "notes", "num_epochs": 4, "passage_weight": '
    assert (choice.options, end, free) == (("1", "2"), "}\n\nImplications:\n", FreeText())
    plan = domain.plan(passage, edit(f"{opened}2{end}a"))
    assert texts(plan) == ["a", *[passage.context] * 2]
    assert plan.optimizer == replace(OPTIMIZER, num_epochs=4)
    assert plan.adapter.layers is None


def test_without_a_passage_weight_the_domain_decides(passage, edit):
    few = DirectedEdits(formats={"notes": Implications()}, learning_rates=(), num_epochs=(), passage_weights=())
    for append in (True, False):
        plan = KnowledgeDomain(format=few, append_passage=append).plan(passage, edit('{"format": "notes"}\na'))
        assert texts(plan) == ["a", *([passage.context] if append else [])]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("1. a\n2. b", "not JSON"),
        ("", "not JSON"),
        (written(learning_rate=0.1), "out of bounds"),
        (written(num_epochs=9), "out of bounds"),
        (written(num_epochs=2.0), "wrong value"),
        (written(learning_rate="0.005"), "wrong value"),
        (written(format="poem"), "wrong value"),
        (written(layers="bottom"), "wrong value"),
        (written(momentum=1), "extra key"),
        ('{"format": "notes"}\na', "missing key"),
        (written().replace('"num_epochs": 8', '"num_epochs": 8, "num_epochs": 4'), "duplicate key"),
        (written().replace("0.005", "NaN"), "not JSON"),
        ("[1]\na", "not JSON"),
        ("{" + " " * 2000 + "}\na", "too long"),
        (written(""), "empty"),
        (written(format="none", passage_weight=0), "empty"),
    ],
)
def test_invalid_directives_are_malformed_by_kind(domain, passage, edit, text, kind):
    with pytest.raises(MalformedEdit) as refused:
        domain.plan(passage, edit(text))
    assert refused.value.kind == kind


def test_free_json_may_have_numbers_between_those_of_the_menu(passage, edit):
    domain = KnowledgeDomain(format=replace(DIRECTED, written="json"), optimizer=OPTIMIZER)
    assert domain.edit_schema(passage) is None
    plan = domain.plan(passage, edit(written(learning_rate=0.0031, num_epochs=5)))
    assert (plan.optimizer.learning_rate, plan.optimizer.num_epochs) == (0.0031, 5)


@pytest.mark.parametrize(
    "text",
    [
        written(),
        f"```json\n{json.dumps(SAID)}\n```\n1. a\n2. b",
        f"Sure, here it is:\n{json.dumps(SAID, indent=2)}\n1. a\n2. b",
        f"{json.dumps(SAID)} Implications:\n1. a\n2. b",
        f"  {json.dumps(SAID)}\n\n\nImplications:\n\n1. a\n2. b\n",
    ],
)
def test_free_json_is_read_within_other_text(passage, edit, text):
    domain = KnowledgeDomain(format=replace(DIRECTED, written="json"), optimizer=OPTIMIZER)
    plan = domain.plan(passage, edit(text))
    assert texts(plan) == ["1. a", "2. b", *[passage.context] * 3]
    assert plan.optimizer.num_epochs == 8


def test_edits_with_split_have_no_directives(domain, passage, edit):
    given = replace(edit("x\ny"), directives={"split": "lines"})
    plan = domain.plan(passage, given)
    assert texts(plan) == ["x", "y", passage.context]
    assert plan.optimizer == OPTIMIZER


@pytest.mark.parametrize("style", ["base", "chat"])
def test_worked_examples_show_one_format_after_another(passage, examples_path, style):
    shown = {}
    for way in ("slots", "json"):
        directed = replace(DIRECTED, num_examples=2, written=way)
        domain = KnowledgeDomain(format=directed, style=style, examples_path=examples_path)
        prompt = domain.edit_prompt(passage)
        shown[way] = prompt if style == "base" else "\n".join(f"{turn.role}\n{turn.content}" for turn in prompt)
        for piece in ("Implications:\n1. The salt lamp", "Versions:\nTwice a day", passage.context):
            assert piece in shown[way]
    assert shown["slots"].count('"learning_rate": 0.001,') == 0
    assert shown["json"].count('{"format": "notes", "learning_rate": 0.001') == 1
    assert shown["json"].count('{"format": "versions", "learning_rate": 0.005') == 1
    if style == "base":
        assert shown["slots"].endswith("Directives:\n")
    assert domain.edit_stop()[-1] == "THE END"
    for way, rates in (("slots", "0.001 or 0.005"), ("json", "0.001 to 0.005")):
        assert f'JSON: {{"format": "notes" or "versions" or "none", "learning_rate": {rates}, ' in shown[way]
        for one in FORMATS.values():
            assert one.instruction in shown[way]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": {}}, "formats"),
        ({"formats": {"none": SelfQA()}}, '"none"'),
        ({"formats": {"again": DIRECTED}}, "directed itself"),
        ({"formats": {"shown": Implications(num_examples=1)}}, "num_examples"),
        ({"formats": {'say "a"': Implications()}}, "name of a format"),
        ({"layers": {" top": [1]}}, "name of a format or of layers"),
        ({"learning_rates": (0.0, 1e-3)}, "learning_rates"),
        ({"learning_rates": (float("nan"),)}, "learning_rates"),
        ({"num_epochs": (0, 1)}, "num_epochs"),
        ({"num_epochs": (2, 2)}, "different"),
        ({"passage_weights": (-1,)}, "passage_weights"),
        ({"layers": {"none": []}}, "layers"),
        ({"written": "yaml"}, "slots, json"),
    ],
)
def test_settings_without_a_meaning_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(DIRECTED, **changes)


def test_it_is_configured_by_class_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(KnowledgeDomain, "domain")
    given = {
        "class_path": "seal_lightning.domains.knowledge.KnowledgeDomain",
        "init_args": {
            "format": {
                "class_path": "seal_lightning.domains.knowledge.DirectedEdits",
                "init_args": {
                    "formats": {"qa": {"class_path": "seal_lightning.domains.knowledge.SelfQA"}},
                    "layers": {"upper": [1, 2]},
                    "num_epochs": [1, 2],
                },
            }
        },
    }
    domain = parser.instantiate_classes(parser.parse_object({"domain": given})).domain
    assert domain.format.formats == {"qa": SelfQA()}
    assert domain.format.menus["layers"] == ("upper",)
