"""Free text behind a schema's choices, against plain forward passes over the same tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seal_lightning.core import (
    Choice,
    ChoiceScoreRequest,
    FinishReason,
    FreeText,
    GenerationRequest,
    SamplingSpec,
    Task,
    TextSchema,
    fill_choices,
)
from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.core.interfaces import Domain
from seal_lightning.generation import FixedChoices, PolicyWriter, TransformersEngine
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.pretrained import Pretrained

FORM = Choice(name="form", options=("list", "story", "none"))
SIZE = Choice(name="size", options=("1", "2", "12"))
SCHEMA: TextSchema = (
    "form: ",
    FORM,
    ", size: ",
    SIZE,
    "!",
    FreeText(choice="form", prefixes=(("list", "\n1."), ("story", "\nOnce"))),
)
SAMPLED = SamplingSpec(temperature=1.0, top_p=1.0, max_new_tokens=7)


@pytest.fixture
def tiny(tiny_folder: str) -> LanguageModel:
    return Pretrained(source=tiny_folder, dtype="float64").load()


@pytest.fixture
def engine(tiny: LanguageModel) -> TransformersEngine:
    engine = TransformersEngine()
    engine.bind(tiny)
    return engine


def asked(seed: int = 0, schema: TextSchema = SCHEMA, sampling: SamplingSpec = SAMPLED) -> GenerationRequest:
    return GenerationRequest(prompt="The stone", sampling=sampling, schema=schema, seed=seed)


def greedy_ids(model: LanguageModel, ids: list[int], count: int) -> list[int]:
    """By full forward passes, without a cache; up to an end token."""
    written: list[int] = []
    while len(written) < count and (not written or written[-1] not in model.eos_ids):
        logits = model.model(torch.tensor([[*ids, *written]])).logits[0, -1]
        written.append(int(logits.argmax()))
    return written


def test_free_text_follows_choices_and_prefix(tiny: LanguageModel, engine: TransformersEngine) -> None:
    sampling = SamplingSpec(temperature=0.0, choice_temperature=3.0, max_new_tokens=7)
    completions = engine.generate([asked(seed, sampling=sampling) for seed in range(24)])
    forms = set()
    for completion in completions:
        assert completion.choices is not None
        assert completion.chosen is not None
        form, size = completion.choices["form"], completion.choices["size"]
        forms.add(form)
        pieces = ["form: ", form, ", size: ", size, "!"]
        if form == "none":
            assert completion.text == "".join(pieces)
            assert completion.token_ids[-1] == tiny.eos_ids[0]
            assert completion.chosen[-1] is False
            continue
        pieces.append({"list": "\n1.", "story": "\nOnce"}[form])
        given = [token for piece in pieces for token in tiny.encode_text(piece)]
        expected = greedy_ids(tiny, [*tiny.encode_prompt("The stone"), *given], 7)
        assert completion.token_ids == (*given, *expected)
        assert completion.text == "".join(pieces) + tiny.decode(expected)
        assert completion.chosen[len(given) :] == (True,) * len(expected)
        assert sum(completion.chosen[: len(given)]) >= 1
        assert not any(completion.chosen[len(given) - len(tiny.encode_text(pieces[-1])) : len(given)])
        ended = expected[-1] in tiny.eos_ids
        assert completion.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
    assert forms == {"list", "story", "none"}


def test_free_text_depends_on_own_seed_only(engine: TransformersEngine) -> None:
    requests = [asked(seed) for seed in range(10)]
    requests.insert(3, GenerationRequest(prompt="The other", sampling=SAMPLED, seed=3))
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    assert [(c.text, c.token_ids) for c in together] == [(c.text, c.token_ids) for c in alone]
    assert len({completion.text for completion in together}) > 5


def test_log_prob_covers_choices_only(engine: TransformersEngine) -> None:
    for completion in engine.generate([asked(seed) for seed in range(5)]):
        assert completion.choices is not None
        assert completion.log_prob is not None
        scored = engine.score_choices(
            [ChoiceScoreRequest(prompt="The stone", schema=SCHEMA, choices=completion.choices)]
        )
        assert scored[0] == pytest.approx(completion.log_prob, abs=1e-9)


def test_stop_string_ends_free_text_only(engine: TransformersEngine) -> None:
    """It stands in the literals too."""
    whole = engine.generate([asked(seed, fill_choices(SCHEMA, {"form": "story"})) for seed in range(6)])
    for seed, completion in enumerate(whole):
        free = completion.text.split("\nOnce", 1)[1]
        if len(free) < 2:
            continue
        stopped = asked(seed, fill_choices(SCHEMA, {"form": "story"}), replace(SAMPLED, stop=(free[1], "form")))
        (cut,) = engine.generate([stopped])
        assert cut.text == completion.text[: -len(free)] + free[: free.find(free[1])]
        assert cut.finish_reason is FinishReason.STOP


def test_choice_temperature_applies_to_choices(engine: TransformersEngine) -> None:
    cold = engine.generate([asked(seed, sampling=replace(SAMPLED, choice_temperature=0.0)) for seed in range(8)])
    assert len({tuple((c.choices or {}).items()) for c in cold}) == 1
    hot = engine.generate([asked(seed, sampling=replace(SAMPLED, choice_temperature=50.0)) for seed in range(30)])
    assert {(c.choices or {})["form"] for c in hot} == {*FORM.options}
    with pytest.raises(ConfigError, match="choice_temperature"):
        SamplingSpec(choice_temperature=-1.0)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ((FORM, FreeText(), "end"), "free text before its end"),
        ((FORM, FreeText(choice="form", prefixes=(("poem", "x"),))), "'poem'"),
        ((FORM, FreeText(choice="size", prefixes=(("1", "x"),))), "'size'"),
    ],
)
def test_schema_rejects_unreachable_free_text(engine: TransformersEngine, schema: TextSchema, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.generate([asked(schema=schema)])


def test_engine_rejects_free_text_without_room(tiny: LanguageModel, engine: TransformersEngine) -> None:
    long = " red" * tiny.max_length
    with pytest.raises(DataError, match="do not fit the model's context"):
        engine.generate([asked(schema=(FORM, FreeText(choice="form", prefixes=(("list", long),))))])


def test_fill_choices_settles_free_text() -> None:
    assert fill_choices(SCHEMA, {}) == SCHEMA
    assert fill_choices(SCHEMA, {"size": "12"})[2:] == (", size: ", "12", "!", SCHEMA[-1])
    assert fill_choices(SCHEMA, {"form": "list", "size": "1"}) == (
        "form: ",
        "list",
        ", size: ",
        "1",
        "!",
        "\n1.",
        FreeText(),
    )
    assert fill_choices(SCHEMA, {"form": "none", "size": "1"}) == ("form: ", "none", ", size: ", "1", "!")


def test_fixed_choices_give_the_same_tokens(engine: TransformersEngine) -> None:
    sampling = SamplingSpec(temperature=0.0, choice_temperature=5.0, max_new_tokens=6)
    free = engine.generate([asked(seed, sampling=sampling) for seed in range(12)])
    made = engine.generate([asked(0, fill_choices(SCHEMA, c.choices or {}), sampling) for c in free])
    assert [c.token_ids for c in made] == [c.token_ids for c in free]
    assert len({c.text for c in free}) > 3


class Stones(Domain[Task]):
    """A domain with nothing but a schema."""

    def edit_prompt(self, task: Task) -> str:
        return "The stone"

    def edit_stop(self) -> tuple[str, ...]:
        return ()

    def edit_schema(self, task: Task) -> TextSchema:
        return SCHEMA

    plan = plan_without_edit = exam = in_context_exam = answered_questions = None  # type: ignore[assignment]


STONES = Stones.__new__(type("AllStones", (Stones,), {"__abstractmethods__": frozenset()}))
TASKS = [Task(task_id="a"), Task(task_id="b")]
SEEDS = {(task.task_id, index): 10 * index + place for place, task in enumerate(TASKS) for index in range(3)}


def test_fixed_choices_writes_edits(engine: TransformersEngine) -> None:
    fixed = FixedChoices({"form": " story", "size": "2"}, sampling=SAMPLED)
    fixed.bind(STONES, engine)
    edits = fixed.write(TASKS, 3, SEEDS)
    assert [(e.task_id, e.edit_index) for e in edits] == [(t.task_id, i) for t in TASKS for i in range(3)]
    assert all(e.text.startswith("form: story, size: 2!\nOnce") for e in edits)
    assert all(e.directives == {"form": "story", "size": "2"} for e in edits)
    assert len({e.text for e in edits}) > 1
    free = PolicyWriter(STONES, engine, SAMPLED).write(TASKS, 3, SEEDS)
    assert {tuple(e.directives) for e in free} == {("form", "size")}
    assert any(e.directives != {"form": "story", "size": "2"} for e in free)


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"colour": "red"}, "colour is 'red'; allowed: the choices form, size"), ({"size": "3"}, "allowed: 1, 2, 12")],
)
def test_fixed_choices_rejects_unknown_choices(choices: dict[str, str], message: str) -> None:
    fixed = FixedChoices(choices)
    fixed.bind(STONES, TransformersEngine())
    with pytest.raises(ConfigError, match=message):
        fixed.check(TASKS, 1)
    with pytest.raises(ConfigError, match="num_edits: 0 is not allowed"):
        FixedChoices(choices, num_edits=0)
