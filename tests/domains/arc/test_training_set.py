"""From a task to its training puzzles: which, how often, in which order, and always the same."""

import os
import subprocess
import sys
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.arc.augmenters import MENU, Puzzle, leave_out, shifted
from seal_lightning.domains.arc.grids import ArcTask, Demonstration, TestPair, as_grid, as_text, checked_grid, from_text
from seal_lightning.domains.arc.training_set import training_puzzles

quick = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)

SIDES = st.integers(1, 3) | st.sampled_from([8, 16])
GRIDS = arrays(np.int8, st.tuples(SIDES, SIDES), elements=st.integers(0, 9)).map(as_grid)
PAIRS = st.builds(Demonstration, input=GRIDS, output=GRIDS)
GROUPS = st.builds(lambda groups, num: groups[:num], st.permutations(list(MENU)), st.sampled_from([0, 1, 2, 2, 3, 5]))
ALL = {"max_puzzles": 10**6, "max_size": 10**6}


def arc_task(demonstrations, task_id="task"):
    test = TestPair(input=from_text("9"), output=None)
    return ArcTask(task_id=task_id, demonstrations=tuple(demonstrations), tests=(test,))


TASKS = st.sampled_from([1, 2, 3, 3, 4]).flatmap(lambda n: st.lists(PAIRS, min_size=n, max_size=n)).map(arc_task)
"""So that few have one demonstration, and so no puzzles."""


def pair(text):
    """Of "12/34>5": the output is behind the arrow, rows are parted by strokes."""
    before, after = (from_text(grid.replace("/", "\n")) for grid in text.split(">"))
    return Demonstration(input=before, output=after)


def puzzle(text):
    """Of pairs, the last of which is the query."""
    *demonstrations, query = map(pair, text.split())
    return Puzzle(demonstrations=tuple(demonstrations), query=query)


def written(puzzle):
    pairs = (*puzzle.demonstrations, puzzle.query)
    return " ".join(f"{as_text(p.input)}>{as_text(p.output)}".replace("\n", "/") for p in pairs)


A, B, C, D = (pair(text) for text in ("1>2", "3>4", "5>6", "7>8"))
LINES = arc_task([pair("12>21"), pair("30>03")])
SQUARES = arc_task([pair("1200/0034/5006>0012/3400/0650"), pair("700/089>0/7"), pair("11/23/45>1/2"), pair("67/80>6")])

LINES_GEOMETRIC = """
30>03 12>21
0/3>3/0 2/1>1/2
03>30 21>12
3/0>0/3 1/2>2/1
12>21 30>03
2/1>1/2 0/3>3/0
21>12 03>30
1/2>2/1 3/0>0/3
"""
"""Of the seven maps of a line four differ: a half turn is a flip, a flip upside down nothing, a transposition a turn."""
LINES_REFLECTED = """
3003>0330 1221>2112
0330>3003 2112>1221
30/30>03/03 12/12>21/21
1221>2112 3003>0330
2112>1221 0330>3003
12/12>21/21 30/30>03/03
"""
LINES_SHIFTED = [("03>00 01>02", "00>30 20>10"), ("01>02 03>00", "20>10 00>30")]
"""To the right, or to the left."""


def is_recoloured_and_reordered(twin, original):
    """Whether one renaming of the colours, which keeps 0, and one order of the demonstrations make one of the other."""
    for order in permutations(original.demonstrations):
        there, back = {0: 0}, {0: 0}
        before = [*Puzzle(demonstrations=order, query=original.query).grids]
        after = [*twin.grids]
        alike = [[len(row) for row in grid] for grid in before] == [[len(row) for row in grid] for grid in after]
        cells = [sum((sum(grid, ()) for grid in grids), ()) for grids in (before, after)]
        if alike and all(
            there.setdefault(b, a) == a and back.setdefault(a, b) == b for b, a in zip(*cells, strict=True)
        ):
            return True
    return False


def all_puzzles(task, groups=(), *, two=False, seed=0):
    return training_puzzles(task, groups, leave_two_out=two, seed=seed, **ALL).puzzles


# --- leave-one-out, leave-two-out


def test_leave_out_by_hand():
    one = [([B, C], A), ([A, C], B), ([A, B], C)]
    two = [([C], A), ([C], B), ([B], A), ([B], C), ([A], B), ([A], C)]
    for with_two, expected in ((False, one), (True, one + two)):
        puzzles = leave_out(arc_task([A, B, C]), with_two)
        assert [(list(p.demonstrations), p.query) for p in puzzles] == expected


@pytest.mark.parametrize(
    ("demonstrations", "num_one", "num_two"), [([A], 0, 0), ([A, B], 2, 0), ([A, B, C], 3, 6), ([A, B, C, D], 4, 12)]
)
def test_how_many_puzzles_a_task_gives(demonstrations, num_one, num_two):
    assert len(leave_out(arc_task(demonstrations), False)) == num_one
    assert len(leave_out(arc_task(demonstrations), True)) == num_one + num_two


def test_size_counts_cells_and_rows():
    assert puzzle("12/34>5 123>4/5").size == (4 + 2) + (1 + 1) + (3 + 1) + (2 + 2)


# --- which puzzles


def test_without_a_group_each_puzzle_and_a_twin_of_it():
    originals = [puzzle("30>03 12>21"), puzzle("12>21 30>03")]
    puzzles = all_puzzles(LINES)
    assert len(puzzles) == 4
    twins = [p for p in puzzles if p not in originals]
    assert len(twins) == 2
    for original in originals:
        assert sum(is_recoloured_and_reordered(twin, original) for twin in twins) == 1


@pytest.mark.parametrize("groups", [["geometric"], ["basic"], ["basic", "geometric"], ["geometric", "basic"]], ids=str)
def test_training_puzzles_by_hand(groups):
    """Different variants only, each with one twin, also where two augmenters or two groups make the same."""
    expected = LINES_GEOMETRIC.split("\n")[1:-1]
    puzzles = [written(p) for p in all_puzzles(LINES, groups)]
    if "basic" in groups:
        expected += LINES_REFLECTED.split("\n")[1:-1]
        for either in LINES_SHIFTED:
            found = [text for text in either if text in puzzles]
            assert len(found) == 1
            expected += found
    assert len(puzzles) == 2 * len(expected)
    twins = [text for text in puzzles if text not in expected]
    assert len(twins) == len(expected)
    for text in expected:
        assert sum(is_recoloured_and_reordered(puzzle(twin), puzzle(text)) for twin in twins) >= 1


def test_twins_have_their_own_colours_and_orders():
    task = arc_task([pair(f"123456789>{n}") for n in (1, 2, 3, 4, 5)])
    (first, *others) = [p for p in all_puzzles(task) if p not in leave_out(task, False)]
    assert len(others) == 4
    colours = [p.query.input for p in (first, *others)]
    assert len(dict.fromkeys(colours)) == 5
    orders = [
        tuple(p.query.input[0].index(d.output[0][0]) for d in p.demonstrations)  # in the original colours
        for p in (first, *others)
    ]
    assert any(order != tuple(sorted(order)) for order in orders)
    gaps = [tuple(sorted(order).index(place) for place in order) for order in orders]
    assert len(dict.fromkeys(gaps)) > 1


def test_training_puzzles_draw_their_own_shifts():
    squares = [
        pair(f"{n}23{n}/5{n}{n}8/4{n}{n}1/{n}11{n}>{n}76{n}/4{n}{n}1/8{n}{n}5/{n}67{n}") for n in (1, 2, 3, 4, 5)
    ]
    possible = [s for s in product((-2, -1, 0, 1, 2), repeat=2) if s != (0, 0)]

    def shifts(task):
        puzzles = all_puzzles(task, ["basic"])
        for original in leave_out(task, False):
            (found,) = [s for s in possible if original.mapped(lambda array, s=s: shifted(array, *s)) in puzzles]
            yield found

    first, second = (list(shifts(arc_task(squares, task_id))) for task_id in ("a", "b"))
    assert len(dict.fromkeys(first)) > 2
    assert first != second


@quick
@given(task=TASKS, groups=GROUPS, two=st.booleans(), seed=st.integers(0, 2**31))
def test_training_puzzles_invariants(task, groups, two, seed):
    puzzles = all_puzzles(task, groups, two=two, seed=seed)
    assert len(dict.fromkeys(puzzles)) == len(puzzles)
    assert all(original in puzzles for original in leave_out(task, two))
    assert bool(puzzles) == (len(task.demonstrations) > 1)
    for p in puzzles:
        assert len(p.demonstrations) in ((len(task.demonstrations) - 1, len(task.demonstrations) - 2))
        assert p.demonstrations
        assert all(checked_grid(grid) == grid for grid in p.grids)


# --- caps and counts


@quick
@given(task=TASKS, groups=GROUPS, max_puzzles=st.integers(0, 60), max_size=st.integers(1, 600))
def test_caps_and_counts(task, groups, max_puzzles, max_size):
    def run(**caps):
        return training_puzzles(task, groups, leave_two_out=True, seed=1, **(ALL | caps))

    everything, small, both = run(), run(max_size=max_size), run(max_size=max_size, max_puzzles=max_puzzles)
    assert (everything.num_dropped, everything.num_too_large, small.num_dropped) == (0, 0, 0)
    assert {*small.puzzles} == {p for p in everything.puzzles if p.size <= max_size}
    too_large = [p for p in everything.puzzles if p.size > max_size]
    assert len(too_large) / 2 <= small.num_too_large <= len(too_large)  # counted without twins
    assert both.puzzles == small.puzzles[:max_puzzles]
    assert both.num_dropped == len(small.puzzles) - len(both.puzzles)
    assert both.num_too_large == small.num_too_large


def test_repeated_puzzles_count_once():
    blank = arc_task([pair("0>00"), pair("0>00")])  # both puzzles are alike, and other colours change nothing
    for max_size, puzzles, num_too_large in ((9, (), 1), (10, (puzzle("0>00 0>00"),), 0)):
        found = training_puzzles(blank, [], leave_two_out=True, max_puzzles=9, max_size=max_size, seed=0)
        assert (found.puzzles, found.num_dropped, found.num_too_large) == (puzzles, 0, num_too_large)
    for groups in (["geometric"], ["geometric", "geometric"]):
        found = training_puzzles(LINES, groups, leave_two_out=True, max_puzzles=9, max_size=12, seed=0)
        assert (len(found.puzzles), found.num_dropped, found.num_too_large) == (8, 0, 4)


def test_counts_by_hand():
    """LINES has 2 puzzles of sizes 4 · (2 + 1) = 12; tiled 4 · (4 + 2) = 24, 4 · (4 + 1) = 20 and 4 · (8 + 2) = 40."""
    for max_size, num_small, num_too_large in ((11, 0, 8), (12, 2, 6), (20, 4, 4), (24, 6, 2), (39, 6, 2), (40, 8, 0)):
        found = training_puzzles(LINES, ["repeat"], leave_two_out=True, max_puzzles=3, max_size=max_size, seed=0)
        assert len(found.puzzles) == min(3, 2 * num_small)
        assert found.num_dropped == max(0, 2 * num_small - 3)
        assert found.num_too_large == num_too_large


def test_the_order_is_shuffled_by_the_seed():
    """So the cut takes from all puzzles and variants alike."""
    places = []
    for seed in range(40):
        puzzles = all_puzzles(SQUARES, ["size"], seed=seed)
        places.append(tuple(puzzles.index(original) for original in leave_out(SQUARES, False)))
    assert len(dict.fromkeys(places)) > 35
    assert 0.4 < np.mean(places) / (len(puzzles) - 1) < 0.6


# --- seeds


@quick
@given(task=TASKS, first=GROUPS, second=GROUPS, two=st.booleans())
def test_another_group_adds_puzzles_and_changes_none(task, first, second, two):
    assume(second)
    alone, together = all_puzzles(task, first, two=two), all_puzzles(task, first + second, two=two)
    assert {*alone} <= {*together}


@quick
@given(task=TASKS, groups=GROUPS)
def test_leave_two_out_adds_puzzles_and_changes_none(task, groups):
    assert {*all_puzzles(task, groups)} <= {*all_puzzles(task, groups, two=True)}


@quick
@given(task=TASKS, groups=GROUPS)
def test_order_and_repetition_of_groups_do_not_matter(task, groups):
    assert all_puzzles(task, groups) == all_puzzles(task, [*reversed(groups), *groups])


def test_training_puzzles_are_reproducible():
    """Stored runs are made again from these: what is drawn must never change."""
    task = arc_task([pair("12>34"), pair("56>78"), pair("910>230")])
    found = training_puzzles(task, ["basic"], leave_two_out=True, max_puzzles=6, max_size=999, seed=0)
    assert [written(p) for p in found.puzzles] == [
        "29>64 710>380 13>85",
        "09>08 021>056 01>06",  # shifted to the right, other colours, other order
        "320023>840048 1771>6556",
        "910/910>230/230 12/12>34/34",
        "042>037 81>69",
        "470074>280082 7227>8668",
    ]


IN_ANOTHER_PROCESS = """
from test_training_set import SQUARES, all_puzzles, written
for p in all_puzzles(SQUARES, ["basic", "size", "chain", "repeat", "geometric"]):
    print(written(p))
"""


def test_hash_seeds_do_not_matter():
    here = "".join(written(p) + "\n" for p in all_puzzles(SQUARES, list(MENU)))
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
        result = subprocess.run(
            [sys.executable, "-c", IN_ANOTHER_PROCESS],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        )
        assert result.stdout == here
    assert here.count("\n") > 100


# --- refusals


@pytest.mark.parametrize("groups", [["basics"], ["basic", ""], "basic", [None]], ids=str)
def test_unknown_group_is_a_config_error(groups):
    with pytest.raises(ConfigError, match=r"not on the menu; allowed are basic, size, chain, repeat, geometric$"):
        all_puzzles(LINES, groups)


def test_task_without_puzzles_is_allowed():
    found = training_puzzles(arc_task([A]), list(MENU), leave_two_out=True, max_puzzles=250, max_size=8192, seed=0)
    assert (found.puzzles, found.num_dropped, found.num_too_large) == ((), 0, 0)
