"""The exam: every view shows the same puzzle, and what is answered in it comes back to the grid that was asked for."""

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.core import VerdictStatus
from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.arc.exam_views import Exam, ExamViews, vote
from seal_lightning.domains.arc.grids import (
    ArcTask,
    Demonstration,
    GridText,
    TestPair,
    as_array,
    as_grid,
    as_text,
    from_text,
)
from seal_lightning.domains.arc.transforms import TRANSFORMS
from seal_lightning.scoring.graders.agreement import exact_verdict

LETTERS = GridText(symbols="abcdefghij", cell_separator=" ", row_start=" ")
TURNED = {  # written anew, of NumPy's own, to hold the domain's to
    "identity": lambda a: a,
    "transpose": np.transpose,
    "flip_lr": np.fliplr,
    "flip_ud": np.flipud,
    "rot90": np.rot90,
    "rot180": lambda a: np.rot90(a, 2),
    "rot270": lambda a: np.rot90(a, 3),
}


def grid(text):
    """Of "12/34"."""
    return from_text(text.replace("/", "\n"))


def pair(text):
    """Of "12/34>5"."""
    before, after = text.split(">")
    return Demonstration(input=grid(before), output=grid(after))


def arc_task(demonstrations, *tests, task_id="t"):
    """Tests are "12>21", or "12>" for one whose output is not published."""
    pairs = [test.split(">") for test in tests]
    return ArcTask(
        task_id=task_id,
        demonstrations=tuple(map(pair, demonstrations.split())),
        tests=tuple(TestPair(input=grid(a), output=grid(b) if b else None) for a, b in pairs),
    )


GOLD = "104/253"
THREE = arc_task("12/34>21/43 500>005 60/70/80>06/07/08", f"401/352>{GOLD}")
TWO_TESTS = arc_task("12>21 34>43 56>65", "78>87", "910>019")


def exam(views=None, text=LETTERS, instruction="Find."):
    return Exam(views or ExamViews(), text, instruction, 99)


def targets(of, task):
    return {(p.question_id, p.view): p.target for p in of.prompts(task)}


def seen_in(view, text):
    """A grid's text as the view shows it: what a model that means that grid would answer there."""
    return LETTERS.encode(as_grid(TURNED[view.split(",")[0]](as_array(grid(text)))))


def answers(of, task, by_view, otherwise="?"):
    return {
        (p.question_id, p.view): seen_in(p.view, by_view[p.view]) if p.view in by_view else otherwise
        for p in of.prompts(task)
    }


def shown_in(prompt, text=LETTERS):
    """The demonstrations and the test input of a prompt."""
    grids = [text.decode(turn.content) for turn in prompt if turn.role != "system"]
    return list(zip(grids[:-1:2], grids[1::2], strict=True)), grids[-1]


# --- what is asked


def test_views_have_names_and_start_with_the_identity():
    names = [p.view for p in exam().prompts(THREE)]
    arrangements = ["", ", without 0", ", without 1", ", without 2"]
    orders = {name.partition(",")[2] for name in names} - {a.partition(",")[2] for a in arrangements}
    assert orders == {" order 1"}
    assert names[0] == "identity"
    assert len(set(names)) == len(names) == 6 * (4 + len(orders))
    assert {f"{transform}{a}" for transform in ExamViews().transforms for a in arrangements} <= {*names}
    starts = [name.split(",")[0] for name in names]
    assert starts == sorted(starts, key=ExamViews().transforms.index)


def test_questions_are_named_by_task_and_place():
    prompts = exam().prompts(TWO_TESTS)
    assert list(dict.fromkeys(p.question_id for p in prompts)) == ["t-0", "t-1"]
    by_question = Counter(p.question_id for p in prompts)
    assert by_question["t-0"] == by_question["t-1"]
    assert {p.max_new_tokens for p in prompts} == {99}
    assert [p.view for p in prompts if p.question_id == "t-0"] == [p.view for p in prompts if p.question_id == "t-1"]


@pytest.mark.parametrize("text", [GridText(), LETTERS], ids=["digits", "letters"])
def test_a_view_turns_all_grids_alike(text):
    views = ExamViews(transforms=tuple(TURNED))
    for prompt in exam(views, text).prompts(THREE):
        transform, _, arrangement = prompt.view.partition(", ")

        def turned(one, transform=transform):
            return as_grid(TURNED[transform](as_array(one)))

        kept = list(THREE.demonstrations)
        if arrangement.startswith("without"):
            kept.pop(int(arrangement.split()[1]))
        shown, query = shown_in(prompt.prompt, text)
        expected = [(turned(one.input), turned(one.output)) for one in kept]
        if arrangement.startswith("order"):
            assert shown != expected
            shown, expected = sorted(shown), sorted(expected)
        assert shown == expected
        assert query == turned(THREE.tests[0].input)
        assert prompt.target == text.encode(turned(THREE.tests[0].output))


def test_a_puzzle_is_a_chat():
    (first, *_) = exam().prompts(THREE)
    assert [turn.role for turn in first.prompt] == ["system", *["user", "assistant"] * 3, "user"]
    assert first.prompt[0].content == "Find."
    assert first.prompt[1].content == " b c\n d e"
    (bare, *_) = exam(instruction="").prompts(THREE)
    assert bare.prompt == first.prompt[1:]


def test_other_orders_depend_on_the_task():
    views = ExamViews(transforms=("identity",), num_orders=40, leave_one_out=False)
    prompts = exam(views).prompts(THREE)
    orders = [tuple(shown_in(p.prompt)[0]) for p in prompts]
    assert len(set(orders)) == len(orders) == 6  # all there are
    assert [p.view for p in exam(views).prompts(THREE)] == [p.view for p in prompts]
    two = arc_task("12>21 34>43", "56>65")
    names = [p.view for p in exam(views).prompts(two)]
    assert len(names) == 2
    assert names[0] == "identity"  # though other orders are the given one again


@pytest.mark.parametrize("number", range(40))
def test_the_given_order_is_not_drawn(number):
    task = ArcTask(task_id=f"t{number}", demonstrations=THREE.demonstrations[:2], tests=THREE.tests)
    views = ExamViews(transforms=("identity",), num_orders=1)
    assert [p.view for p in exam(views).prompts(task)] == ["identity", "identity, order 1"]


@pytest.mark.parametrize(("demonstrations", "number"), [("1>2", 1), ("1>2 3>4", 1), ("1>2 3>4 5>6", 4)])
def test_no_view_is_left_with_less_than_two_demonstrations(demonstrations, number):
    views = ExamViews(transforms=("identity",), num_orders=0)
    assert len(exam(views).prompts(arc_task(demonstrations, "7>8"))) == number


def test_equal_arrangements_make_one_view():
    task = arc_task("1>2 1>2 3>4", "7>8")
    prompts = exam(ExamViews(num_orders=20)).prompts(task)
    shown = Counter((p.view.split(",")[0], tuple(p.prompt)) for p in prompts)
    assert set(shown.values()) == {1}


def test_views_depend_on_nothing_but_the_task():
    np.random.seed(1)
    first = exam(ExamViews(num_orders=3)).prompts(THREE)
    state = np.random.get_state()[1].tolist()
    assert exam(ExamViews(num_orders=3)).prompts(THREE) == first
    assert np.random.get_state()[1].tolist() == state
    renamed = dataclasses.replace(THREE, task_id="another")
    assert {p.question_id for p in exam().prompts(renamed)} == {"another-0"}


@pytest.mark.parametrize(
    "settings_",
    [
        {"transforms": ()},
        {"transforms": ("transpose",)},
        {"transforms": ("transpose", "identity")},
        {"transforms": ("identity", "identity")},
        {"transforms": ("identity", "mirror_right")},
        {"transforms": ("identity", "rot90", "rot90")},
        {"num_orders": -1},
    ],
    ids=str,
)
def test_bounds(settings_):
    with pytest.raises(ConfigError, match=rf"views\.{next(iter(settings_))}: .* is not allowed; it must be"):
        ExamViews(**settings_)


def test_every_transform_can_be_a_view():
    assert ExamViews(transforms=tuple(TRANSFORMS)).transforms[0] == "identity"


# --- what is answered


@pytest.mark.parametrize("task", [THREE, TWO_TESTS], ids=["one test", "two tests"])
@pytest.mark.parametrize("views", [ExamViews(), ExamViews(transforms=tuple(TURNED), num_orders=2)], ids=["few", "all"])
@pytest.mark.parametrize("text", [GridText(), LETTERS], ids=["digits", "letters"])
def test_the_targets_are_right(task, views, text):
    of = exam(views, text)
    found = of.answered_questions(task, {key: f"{target}\n" for key, target in targets(of, task).items()})
    assert [one.question_id for one in found] == [f"t-{i}" for i in range(len(task.tests))]
    for one, test in zip(found, task.tests, strict=True):
        assert one.question == as_text(test.input)
        assert one.gold_answers == (one.answer,) == (as_text(test.output),)
        assert (one.further_answers, one.num_invalid, one.partial_credit) == ((), 0, 1.0)
        assert one.exact
        assert one.num_views * len(task.tests) == len(of.prompts(task))
        assert exact_verdict(one).status is VerdictStatus.CORRECT


def test_the_majority_beats_the_identity():
    of = exam(ExamViews(num_orders=0, leave_one_out=False))
    by_view = dict.fromkeys(("transpose", "rot90", "flip_ud"), GOLD) | {"identity": "9", "rot180": "9"}
    (one,) = of.answered_questions(THREE, answers(of, THREE, by_view))
    assert (one.answer, one.further_answers) == (as_text(grid(GOLD)), ("9",))
    assert (one.num_views, one.num_invalid) == (6, 1)
    assert one.partial_credit == 1.0


def test_answers_are_mapped_back_before_the_vote():
    """The same answer in all views is the same vote only after each is turned back."""
    of = exam(ExamViews(num_orders=0, leave_one_out=False))
    same = {key: LETTERS.encode(grid(GOLD)) for key in targets(of, THREE)}
    (one,) = of.answered_questions(THREE, same)
    assert one.num_invalid == 0
    assert one.answer == as_text(grid(GOLD))  # the identity's, in a tie of six
    assert one.further_answers == (as_text(grid("12/05/43")),)  # the transposed view's


def test_ties_go_to_the_identity():
    of = exam(ExamViews(num_orders=0, leave_one_out=False))

    def attempts(**by_view):
        (one,) = of.answered_questions(THREE, answers(of, THREE, by_view))
        return (one.answer, *one.further_answers)

    assert attempts(rot180="3", flip_lr="2", identity="1", rot90="4") == ("1", "2")
    assert attempts(rot180="3", rot90="4", flip_ud="2") == ("2", "4")
    assert attempts(rot180="1", rot90="1", flip_ud="2", identity="2", transpose="5") == ("2", "1")
    assert attempts(rot180="1", rot90="1", flip_ud="2", transpose="2", identity="5") == ("2", "1")


def test_the_second_attempt_counts():
    of = exam(ExamViews(num_orders=0, leave_one_out=False))
    by_view = dict.fromkeys(("transpose", "rot90", "flip_ud"), "9") | {"identity": GOLD, "rot180": "8"}
    (one,) = of.answered_questions(THREE, answers(of, THREE, by_view))
    assert (one.answer, one.further_answers) == ("9", (as_text(grid(GOLD)),))
    assert exact_verdict(one).status is VerdictStatus.CORRECT
    assert one.partial_credit == 1.0
    third = by_view | {"identity": "8", "flip_lr": GOLD}
    (one,) = of.answered_questions(THREE, answers(of, THREE, third))
    assert one.further_answers == ("8",)
    assert exact_verdict(one).status is VerdictStatus.WRONG


@pytest.mark.parametrize("text", ["", "?", "a b", "b\n", "1 0 4\n2 5 3", "\ud800", "a" * 10_000])
def test_undecodable_answers_are_wrong(text):
    of = exam(text=GridText())
    (one,) = of.answered_questions(THREE, dict.fromkeys(targets(of, THREE), text))
    assert (one.answer, one.further_answers, one.partial_credit) == ("", (), 0.0)
    assert one.num_invalid == one.num_views == len(of.prompts(THREE))
    verdict = exact_verdict(one)
    assert (verdict.status, verdict.reason) == (VerdictStatus.WRONG, "no answer could be read")


def test_partial_credit_is_of_the_better_attempt():
    of = exam(ExamViews(num_orders=0, leave_one_out=False))
    (one,) = of.answered_questions(THREE, answers(of, THREE, {"identity": "104/999", "transpose": "104/259"}))
    assert one.answer == as_text(grid("104/999"))
    assert one.partial_credit == pytest.approx(5 / 6)
    (one,) = of.answered_questions(THREE, answers(of, THREE, {"identity": "104", "transpose": "9"}))
    assert one.partial_credit == pytest.approx(1 / 2)


def test_an_unpublished_output_has_no_target_and_no_score():
    task = arc_task("12>21 34>43", "56>65", "78>")
    of = exam()
    known, unknown = ([t for (q, _), t in targets(of, task).items() if q == name] for name in ("t-0", "t-1"))
    assert all(known)
    assert set(unknown) == {""}
    guesses = {(p.question_id, p.view): p.target or LETTERS.encode(grid("3")) for p in of.prompts(task)}
    first, second = of.answered_questions(task, guesses)
    assert exact_verdict(first).status is VerdictStatus.CORRECT
    assert (second.answer, second.gold_answers, second.partial_credit) == ("3", (), None)
    assert exact_verdict(second).status is VerdictStatus.UNSCORED


def test_missing_answer_is_an_error():
    of = exam()
    given = targets(of, THREE)
    given.popitem()
    with pytest.raises(KeyError):
        of.answered_questions(THREE, given)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_answers_give_at_most_two_attempts(data):
    of = exam(ExamViews(num_orders=0, leave_one_out=False), GridText())
    wild = st.sampled_from(["0", "1", "01\n10", "", "?", "104\n253"]) | st.text(max_size=5)
    (one,) = of.answered_questions(THREE, {key: data.draw(wild) for key in targets(of, THREE)})
    assert 0 <= one.num_invalid <= one.num_views == 6
    assert (one.answer == "") == (one.num_invalid == 6)
    assert len(one.further_answers) <= 1
    assert one.answer not in one.further_answers
    assert 0 <= one.partial_credit <= 1
    assert (one.partial_credit == 1) == (as_text(grid(GOLD)) in (one.answer, *one.further_answers))


# --- the vote


def ballots(numbers):
    return [((number // 10, number % 10),) for number in numbers]


def test_vote_without_grids_is_empty():
    assert vote([]) == ()


def test_vote_of_one_grid_is_one_attempt():
    assert vote(ballots([3, 3, 3])) == (((0, 3),),)


def test_vote_orders_grids_by_frequency():
    assert vote(ballots([1, 2, 2, 3, 3, 3])) == (((0, 3),), ((0, 2),))


def test_vote_ties_go_to_the_first_view():
    assert vote(ballots([1, 2, 3])) == (((0, 1),), ((0, 2),))
    assert vote(ballots([2, 1, 1, 2, 3])) == (((0, 2),), ((0, 1),))
    assert vote(ballots([5, 4, 3, 3])) == (((0, 3),), ((0, 5),))
    assert vote(ballots([3, 9, 8, 9, 8])) == (((0, 9),), ((0, 8),))


def test_vote_distinguishes_shapes():
    tall, wide = ((1,), (1,)), ((1, 1),)
    assert vote([wide, tall, tall]) == (tall, wide)


def test_vote_agrees_with_counting():
    """1,000 ballots of the sizes an exam has; those with a strict winner have it as the first attempt."""
    rng = random.Random(0)
    num_strict = 0
    for _ in range(1_000):
        numbers = [rng.randrange(rng.choice((2, 4, 12))) for _ in range(rng.randint(1, 36))]
        counts = [(sum(other == number for other in numbers), number) for number in set(numbers)]
        most = max(count for count, _ in counts)
        winners = [number for count, number in counts if count == most]
        attempts = vote(ballots(numbers))
        assert len(attempts) == min(2, len(counts))
        assert attempts[0] == ballots([min(winners, key=numbers.index)])[0]
        if len(winners) == 1:
            num_strict += 1
            assert attempts[0] == ballots(winners)[0]
        rest = [
            (count, -numbers.index(number), number) for count, number in counts if ballots([number])[0] != attempts[0]
        ]
        assert attempts[1:] == (tuple(ballots([max(rest)[2]])) if rest else ())
    assert num_strict > 600
