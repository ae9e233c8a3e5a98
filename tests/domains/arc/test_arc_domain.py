"""The domain: what an edit becomes, its caps and refusals, the exam it trains for, and the configuration."""

import dataclasses
import json

import numpy as np
import pytest
from arc_edits import write_edit
from jsonargparse import ArgumentParser

from seal_lightning.core import AdapterSpec, Choice, OptimizerSpec, SelfEdit
from seal_lightning.core.errors import ConfigError, MalformedEdit
from seal_lightning.core.interfaces import Domain
from seal_lightning.domains.arc import ArcDirectives, ArcDomain, ArcTask, Demonstration, ExamViews, GridText, TestPair
from seal_lightning.domains.arc.augmenters import leave_out
from seal_lightning.domains.arc.edits import edit_schema
from seal_lightning.domains.arc.grids import as_text, from_text

PAIRS = [("12/34", "21/43"), ("500", "005"), ("60/70/80", "06/07/08"), ("1/2", "3/4")]
LETTERS = GridText(symbols="abcdefghij", cell_separator=" ", row_start=" ")


def demonstration(pair):
    before, after = (from_text(text.replace("/", "\n")) for text in pair)
    return Demonstration(input=before, output=after)


def arc_task(num_demonstrations=3, task_id="t"):
    return ArcTask(
        task_id=task_id,
        demonstrations=tuple(map(demonstration, PAIRS[:num_demonstrations])),
        tests=(TestPair(input=((9, 8),), output=((8, 9),)),),
    )


TASK = arc_task()


def edit(schema="paper", task=TASK, **directives):
    return SelfEdit(task_id=task.task_id, edit_index=0, text=write_edit(ArcDirectives(**directives), schema))


def refusal(domain, *args, **more):
    with pytest.raises(MalformedEdit) as caught:
        domain.plan(*args, **more)
    assert len(str(caught.value)) < 300
    return caught.value


def turns(prompt):
    return [(turn.role, turn.content) for turn in prompt]


# --- plans


def test_plan_has_the_numbers_of_the_edit():
    domain = ArcDomain()
    plan = domain.plan(TASK, edit(learning_rate=5e-5, num_epochs=3, loss="all_tokens"))
    assert (plan.optimizer.learning_rate, plan.optimizer.num_epochs) == (5e-5, 3)
    assert plan.adapter == domain.adapter
    assert plan.optimizer == dataclasses.replace(domain.optimizer, learning_rate=5e-5, num_epochs=3)
    assert plan.num_steps == 3 * -(-len(plan.sequences) // 2)


def test_defaults_are_the_papers():
    plan = ArcDomain().plan_without_edit(TASK)
    adapter, optimizer = plan.adapter, plan.optimizer
    assert (adapter.rank, adapter.alpha, adapter.dropout) == (128, 16.0, 0.0)
    assert adapter.target_modules == ("q_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
    assert (optimizer.batch_size, optimizer.schedule, optimizer.warmup_steps) == (2, "cosine", 11)
    assert (optimizer.learning_rate, optimizer.num_epochs) == (1e-4, 2)
    domain = ArcDomain()
    assert (domain.max_steps, domain.max_puzzles, domain.max_puzzle_size, domain.leave_two_out) == (
        375,
        250,
        8192,
        True,
    )


def test_fixed_configuration_equals_a_possible_edit():
    domain = ArcDomain()
    assert domain.plan(TASK, edit(**dataclasses.asdict(domain.without_edit))) == domain.plan_without_edit(TASK)
    other = ArcDomain(without_edit=ArcDirectives(augmentations=("size",), learning_rate=1e-3, num_epochs=1))
    assert other.plan_without_edit(TASK) == domain.plan(
        TASK, edit(augmentations=("size",), learning_rate=1e-3, num_epochs=1)
    )


def test_more_augmentations_make_more_sequences():
    domain = ArcDomain(schema="extended", max_puzzles=10_000, max_steps=10_000)
    groups = ("basic", "size", "chain", "repeat", "geometric")
    found = {group: domain.plan(TASK, edit("extended", augmentations=(group,))) for group in groups}
    none = set(domain.plan(TASK, edit("extended")).sequences)
    for plan in found.values():
        assert none < set(plan.sequences)
    every = domain.plan(TASK, edit("extended", augmentations=groups))
    assert all(set(plan.sequences) <= set(every.sequences) for plan in found.values())
    assert found["geometric"].sequences != found["basic"].sequences


@pytest.mark.parametrize("instruction", ["Find.", ""])
@pytest.mark.parametrize("text", [GridText(), LETTERS], ids=["digits", "letters"])
def test_training_sequences_have_the_form_of_the_exam(instruction, text):
    """Each leave-one-out puzzle is, turn by turn, the exam of the task that lacks what was held out."""
    domain = ArcDomain(instruction=instruction, grid_text=text, leave_two_out=False)
    trained = [[(s.role, s.text) for s in one.segments] for one in domain.plan(TASK, edit()).sequences]
    for puzzle in leave_out(TASK, two=False):
        query = TestPair(input=puzzle.query.input, output=puzzle.query.output)
        exam = domain.exam(ArcTask(task_id="x", demonstrations=puzzle.demonstrations, tests=(query,)))
        assert exam[0].view == "identity"
        assert [*turns(exam[0].prompt), ("assistant", exam[0].target)] in trained
    assert all((sequence[0][0] == "system") == bool(instruction) for sequence in trained)
    shape = (["system"] if instruction else []) + ["user", "assistant"] * len(TASK.demonstrations)
    assert all([role for role, _ in sequence] == shape for sequence in trained)


@pytest.mark.parametrize(
    ("loss", "trained"),
    [
        ("all_tokens", lambda segments: [True] * len(segments)),
        ("last_output", lambda segments: [*[False] * (len(segments) - 1), True]),
        ("all_outputs", lambda segments: [s.role == "assistant" for s in segments]),
    ],
)
@pytest.mark.parametrize("instruction", ["Find.", ""])
def test_loss_masks(loss, trained, instruction):
    domain = ArcDomain(schema="extended", instruction=instruction)
    plan = domain.plan(TASK, edit("extended", loss=loss, augmentations=("geometric",)))
    for sequence in plan.sequences:
        assert [s.trained for s in sequence.segments] == trained(sequence.segments)
        assert sequence.segments[-1].role == "assistant"


def test_losses_change_masks_only():
    domain = ArcDomain(schema="extended")

    def texts(loss):
        plan = domain.plan(TASK, edit("extended", loss=loss, augmentations=("basic",)))
        return [[(s.role, s.text) for s in one.segments] for one in plan.sequences]

    assert texts("all_tokens") == texts("last_output") == texts("all_outputs")


def test_two_left_out_need_three():
    """Of two demonstrations, leaving two out would leave none to show."""

    def plan(num_demonstrations, two):
        return ArcDomain(leave_two_out=two).plan(arc_task(num_demonstrations), edit())

    assert plan(2, True) == plan(2, False)
    assert len(plan(3, True).sequences) > len(plan(3, False).sequences)
    for num_demonstrations in (2, 3, 4):
        for sequence in plan(num_demonstrations, True).sequences:
            assert sum(s.role == "assistant" for s in sequence.segments) >= 2


@pytest.mark.parametrize("schema", ["paper", "extended"])
def test_one_demonstration_is_malformed(schema):
    domain, task = ArcDomain(schema=schema), arc_task(1)
    assert refusal(domain, task, edit(schema, augmentations=("basic", "size"))).kind == "no sequence"
    with pytest.raises(MalformedEdit) as caught:
        domain.plan_without_edit(task)
    assert caught.value.kind == "no sequence"
    assert "1 demonstrations" in str(caught.value)


def test_puzzles_over_max_puzzle_size_are_dropped():
    whole = ArcDomain(leave_two_out=False).plan(TASK, edit())
    smaller = ArcDomain(leave_two_out=False, max_puzzle_size=60).plan(TASK, edit(augmentations=("size",)))
    assert {*smaller.sequences} & {*whole.sequences}
    assert refusal(ArcDomain(max_puzzle_size=3), TASK, edit()).kind == "no sequence"
    assert refusal(ArcDomain(max_puzzle_size=3), TASK, edit(augmentations=("size",))).kind == "no sequence"


def test_puzzles_over_max_puzzles_are_counted():
    whole = ArcDomain(max_puzzles=10_000, max_steps=10_000).plan(TASK, edit(augmentations=("basic",)))
    cut = ArcDomain(max_puzzles=7).plan(TASK, edit(augmentations=("basic",)))
    assert (len(cut.sequences), whole.dropped_sequences) == (7, 0)
    assert cut.dropped_sequences == len(whole.sequences) - 7
    assert cut.sequences == whole.sequences[:7]


def test_too_many_steps_are_malformed():
    domain = ArcDomain(max_steps=9)
    steps = domain.plan(TASK, edit(num_epochs=1)).num_steps
    allowed = 9 // steps
    assert domain.plan(TASK, edit(num_epochs=allowed)).num_steps <= 9
    error = refusal(domain, TASK, edit(num_epochs=allowed + 1))
    assert error.kind == "too many steps"
    assert str(error) == f"too many steps: {(allowed + 1) * steps}; allowed are 9"
    exactly = ArcDomain(max_steps=steps * 375)
    assert exactly.plan(TASK, edit(num_epochs=375)).num_steps == steps * 375
    assert refusal(ArcDomain(max_steps=steps * 375 - 1), TASK, edit(num_epochs=375)).kind == "too many steps"
    with pytest.raises(MalformedEdit, match="too many steps"):
        ArcDomain(max_steps=1).plan_without_edit(TASK)


def test_invalid_edit_is_malformed_by_kind():
    wrong = dataclasses.replace(edit(), text="{}")
    assert refusal(ArcDomain(), TASK, wrong).kind == "missing key"
    assert refusal(ArcDomain(), TASK, edit("extended")).kind == "extra key"
    assert refusal(ArcDomain(schema="extended"), TASK, edit()).kind == "missing key"


def test_plans_are_pure():
    domain = ArcDomain()
    first = domain.plan(TASK, edit(augmentations=("basic", "repeat")))
    np.random.seed(7)
    state = np.random.get_state()[1].tolist()
    assert domain.plan(TASK, edit(augmentations=("basic", "repeat"))) == first
    assert ArcDomain().plan(TASK, edit(augmentations=("basic", "repeat"))) == first
    assert np.random.get_state()[1].tolist() == state
    assert ArcDomain(augmentation_seed=1).plan(TASK, edit(augmentations=("basic",))) != domain.plan(
        TASK, edit(augmentations=("basic",))
    )


def test_test_pairs_are_never_trained_on():
    other = dataclasses.replace(TASK, tests=(TestPair(input=((3,),), output=((4,),)),))
    assert ArcDomain().plan(other, edit(augmentations=("basic",))) == ArcDomain().plan(
        TASK, edit(augmentations=("basic",))
    )
    assert ArcDomain().edit_prompt(other) == ArcDomain().edit_prompt(TASK)


# --- prompts and exams


@pytest.mark.parametrize("schema", ["paper", "extended"])
@pytest.mark.parametrize("constrained", [False, True])
def test_edit_prompt_shows_examples_and_tools(schema, constrained):
    domain = ArcDomain(schema=schema, constrained=constrained)
    (turn,) = domain.edit_prompt(TASK)
    assert turn.role == "user"
    places = [turn.content.index(as_text(grid)) for d in TASK.demonstrations for grid in (d.input, d.output)]
    assert places == sorted(places)
    schema_parts = edit_schema(schema, (1e-4, 1e-3), (1, 2))
    for choice in (part for part in schema_parts if isinstance(part, Choice)):
        assert choice.name in turn.content
    (strategies,) = (p.options for p in schema_parts if isinstance(p, Choice) and p.name == "strategy")
    assert all((name in turn.content) != constrained for name in strategies)  # free text must know the names
    for ours in ("geometric", "all outputs" if constrained else "all_outputs", '"version": 2'):
        assert (ours in turn.content) == (schema == "extended")
    assert domain.edit_stop() == ()


def test_constrained_decoding_has_the_menus():
    assert ArcDomain().edit_schema(TASK) is None
    domain = ArcDomain(constrained=True, learning_rates=(1e-4, 3e-3), epochs=(2, 9))
    assert domain.edit_schema(TASK) == edit_schema("paper", (1e-4, 3e-3), (2, 9))
    options = {part.name: part.options for part in domain.edit_schema(TASK) if isinstance(part, Choice)}
    assert options["learning_rate"] == ("0.0001", "0.003")
    assert options["num_train_epochs"] == ("2", "9")


def test_solving_in_context_is_the_exam_itself():
    domain = ArcDomain(
        views=ExamViews(transforms=("identity",), num_orders=0, leave_one_out=False), max_answer_tokens=7
    )
    (prompt,) = domain.exam(TASK)
    assert (prompt.question_id, prompt.view, prompt.target, prompt.max_new_tokens) == ("t-0", "identity", "89", 7)
    assert domain.in_context_exam(TASK) == ()
    (answered,) = domain.answered_questions(TASK, {("t-0", "identity"): "89"})
    assert answered.answer == "89"
    assert domain.condition_names.unadapted == "in context"


def test_the_default_answer_has_room_for_the_largest_grid():
    prompts = ArcDomain().exam(TASK)
    assert {p.max_new_tokens for p in prompts} == {960}
    assert len(GridText().encode(((1,) * 30,) * 30)) < 960


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0; allowed is 1 or more"),
        ({"max_puzzles": 0}, "max_puzzles is 0; allowed"),
        ({"max_puzzle_size": -1}, "max_puzzle_size is -1; allowed"),
        ({"max_answer_tokens": 0}, "max_answer_tokens is 0; allowed"),
        ({"schema": "v3"}, "schema is 'v3'; allowed are paper, extended"),
        ({"learning_rates": (1e-4,)}, "learning_rates is .*; allowed are 2 or more different values from 1e-07 to 0.1"),
        ({"learning_rates": ()}, "learning_rates"),
        ({"learning_rates": (1e-4, 1e-4)}, "learning_rates"),
        ({"learning_rates": (1e-4, 1e-4, 1e-3)}, "learning_rates"),
        ({"learning_rates": (1e-4, 0.2)}, "learning_rates"),
        ({"learning_rates": (1e-4, 1e-8)}, "learning_rates"),
        ({"learning_rates": (1e-4, float("nan"))}, "learning_rates"),
        ({"epochs": (1, 376)}, "epochs is .*; allowed are 2 or more different values from 1 to 375"),
        ({"epochs": (0, 1)}, "epochs"),
        ({"epochs": (3,)}, "epochs"),
        ({"optimizer": OptimizerSpec(max_steps=9)}, "optimizer.max_steps is 9"),
    ],
)
def test_bounds(settings, message):
    with pytest.raises(ConfigError, match=message):
        ArcDomain(**settings)


def test_configured_by_class_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--domain", type=Domain)
    settings = {
        "schema": "extended",
        "constrained": True,
        "learning_rates": [1e-4, 1e-3],
        "epochs": [1, 4],
        "adapter": {"rank": 16, "alpha": 16, "target_modules": ["q_proj"]},
        "optimizer": {"batch_size": 4, "warmup_steps": 0},
        "without_edit": {"augmentations": ["geometric"], "loss": "all_outputs", "learning_rate": 1e-3, "num_epochs": 4},
        "views": {"transforms": ["identity", "rot90"], "num_orders": 0, "leave_one_out": False},
        "grid_text": {"symbols": "abcdefghij", "cell_separator": " ", "row_start": " "},
        "instruction": "",
    }
    config = {"domain": {"class_path": "seal_lightning.domains.arc.ArcDomain", "init_args": settings}}
    parsed = parser.parse_object(config)
    domain = parser.instantiate(parsed).domain
    assert isinstance(domain, ArcDomain)
    assert domain.grid_text == LETTERS
    assert domain.adapter == AdapterSpec(rank=16, alpha=16, target_modules=("q_proj",))
    assert domain.optimizer == dataclasses.replace(ArcDomain().optimizer, batch_size=4, warmup_steps=0)
    assert domain.without_edit == ArcDirectives(
        augmentations=("geometric",), loss="all_outputs", learning_rate=1e-3, num_epochs=4
    )
    assert [p.view for p in domain.exam(TASK)] == ["identity", "rot90"]
    assert domain.edit_schema(TASK) == edit_schema("extended", (1e-4, 1e-3), (1, 4))
    assert json.loads(json.dumps(settings)) == settings
    config["domain"]["init_args"]["without_edit"]["augmentations"] = ["geometrical"]
    with pytest.raises(ConfigError, match=r"without_edit\.augmentations: \('geometrical',\) is not allowed"):
        parser.instantiate(parser.parse_object(config))
