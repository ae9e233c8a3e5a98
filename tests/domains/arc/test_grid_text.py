"""What a model reads of a grid, and which of its answers are one."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seal_lightning.core.errors import ConfigError
from seal_lightning.domains.arc.grids import (
    MAX_SIDE,
    GridText,
    InvalidGrid,
    as_array,
    as_grid,
    as_text,
    checked_grid,
    fits,
    from_text,
    share_of_cells_right,
)

quick = settings(max_examples=50, deadline=None, derandomize=True)
SIDES = st.integers(1, 6) | st.sampled_from([29, 30])
GRIDS = arrays(np.int8, st.tuples(SIDES, SIDES), elements=st.integers(0, 9)).map(as_grid)

TEXTS = {
    "digits": GridText(),
    "digits with blanks": GridText(cell_separator=" "),
    "letters behind blanks": GridText(symbols="abcdefghij", cell_separator=" ", row_start=" "),
    "bars": GridText(cell_separator="|", row_start="|"),
    "commas": GridText(symbols=".#ABCDEFGH", cell_separator=", ", row_start="> "),
    "emoji": GridText(symbols="⬛🟦🟥🟩🟨⬜🟪🟧🟫🔵"),
}
every_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
GRID = ((0, 1, 2), (3, 4, 5))


def test_encode_writes_rows_of_symbols():
    assert TEXTS["digits"].encode(GRID) == "012\n345"
    assert TEXTS["digits with blanks"].encode(GRID) == "0 1 2\n3 4 5"
    assert TEXTS["letters behind blanks"].encode(GRID) == " a b c\n d e f"
    assert TEXTS["bars"].encode(GRID) == "|0|1|2\n|3|4|5"


@every_text
@quick
@given(grid=GRIDS)
def test_decode_is_the_inverse_of_encode(text, grid):
    encoded = text.encode(grid)
    assert encoded == encoded.rstrip()
    assert text.decode(encoded) == grid
    assert text.decode(encoded.strip()) == grid  # a chat template may take the first row's blank
    assert text.decode(f"\n {encoded}\n\n") == grid


@every_text
def test_decode_reads_largest_and_smallest_grid(text):
    for grid in (((7,) * MAX_SIDE,) * MAX_SIDE, ((7,),), ((7,) * MAX_SIDE,), ((7,),) * MAX_SIDE):
        assert text.decode(f"{text.encode(grid)}\n") == grid


@every_text
@pytest.mark.parametrize("shape", [(31, 1), (1, 31), (31, 31), (30, 31)], ids=str)
def test_decode_refuses_over_30_a_side(text, shape):
    with pytest.raises(InvalidGrid):
        text.decode(text.encode(((3,) * shape[1],) * shape[0]))


NO_DIGITS = {
    "empty": "",
    "blanks": " \n\t",
    "ragged": "012\n34",
    "ragged first": "01\n345",
    "empty row": "012\n\n345",
    "blank row": "012\n \n345",
    "unknown symbol": "01a\n345",
    "minus": "-12\n345",
    "separators": "0 1 2\n3 4 5",
    "one separator": "012\n34 5",
    "blank behind a row": "012 \n345",
    "blank before a row": "012\n 345",
    "commas": "0,1,2\n3,4,5",
    "Python": "[[0, 1, 2], [3, 4, 5]]",
    "text before": "Output:\n012\n345",
    "text behind": "012\n345\nDone.",
    "text behind on the line": "012\n345.",
    "fence": "```\n012\n345\n```",
    "two grids": "012\n345\n\n012\n345",
    "letters": "abc\ndef",
    "capital": "O12\n345",
    "line ends of another kind": "012\r\n345",
    "carriage return": "012\r345",
    "line separator": "012\u2028345",
    "vertical tab": "012\v345",
    "wide digits": "０１２\n３４５",
    "Arabic digits": "٠١٢\n٣٤٥",
    "superscript": "⁰¹²\n³⁴⁵",
    "nul": "012\0\n345",
    "byte order mark": "\ufeff012\n345",
    "lone surrogate": "01\ud800\n345",
    "end token": "012\n345<|im_end|>",
    "emoji": "🌾🌾\n🌾🌾",
    "too many blanks around": " " * 2_000 + "012\n345",
}


@pytest.mark.parametrize("answer", NO_DIGITS.values(), ids=NO_DIGITS.keys())
def test_decoding_is_strict(answer):
    with pytest.raises(InvalidGrid) as caught:
        GridText().decode(answer)
    assert 0 < len(str(caught.value).encode()) < 500


@pytest.mark.parametrize(
    "answer",
    [
        *("a b c\nd e f\n", "abc\ndef", "a b c\n d  e f", "a b c\n d ef", "a b c\n de f", "a  b c\n d e f"),
        *(" a b c \n d e f", " a b c\n d e", " A B C\n D E F", " 0 1 2\n 3 4 5", " a b c\n d e k", " a b c\n\n d e f"),
        *("\ta b c\n\td e f", " a\tb c\n d e f", " a\xa0b c\n d e f"),
    ],
)
def test_decode_checks_separators(answer):
    with pytest.raises(InvalidGrid):
        TEXTS["letters behind blanks"].decode(answer)


@every_text
@pytest.mark.parametrize("piece", ["0", "a", "0\n", " ", "\n", "|", "0 ", "\ud800", "🌾", ", "], ids=ascii)
def test_decode_refuses_10_mb_at_once(text, piece):
    answer = piece * (10_000_000 // len(piece))
    start = time.process_time()
    with pytest.raises(InvalidGrid) as caught:
        text.decode(answer)
    assert time.process_time() - start < 1  # a guard against reading all of it; measured: microseconds
    assert len(str(caught.value).encode()) < 500


PIECES = st.sampled_from(
    ["0", "1", "9", "a", "b", "j", " ", "\n", "\r", "|", "", ",", "\0", "\ud800", "🟦", "０", "012\n"]
)


@every_text
@quick
@given(grid=GRIDS, data=st.data())
def test_decode_handles_any_text(text, grid, data):
    """And what is taken for a grid is that grid's text, but for blanks around it."""
    answer = text.encode(grid)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(answer)))
        end = min(len(answer), at + data.draw(st.integers(0, 3)))
        answer = answer[:at] + data.draw(PIECES) + answer[end:]
    try:
        found = text.decode(answer)
    except InvalidGrid:
        return
    assert text.encode(found).strip() == answer.strip()
    assert checked_grid(found) == found


@pytest.mark.parametrize(
    "settings_",
    [
        {"symbols": ""},
        {"symbols": "012345678"},
        {"symbols": "01234567890"},
        {"symbols": "0123456788"},
        {"symbols": "012345678 "},
        {"symbols": "012345678\n"},
        {"symbols": "012345678\u2003"},
        {"cell_separator": "0"},
        {"cell_separator": ", 1"},
        {"cell_separator": "\n"},
        {"row_start": "row 9: "},
        {"row_start": "\n"},
    ],
    ids=str,
)
def test_ambiguous_grid_text_is_a_config_error(settings_):
    with pytest.raises(ConfigError, match=rf"grid_text\.{next(iter(settings_))}: .* is not allowed"):
        GridText(**settings_)


# --- grids


@quick
@given(grid=GRIDS)
def test_arrays_and_stored_texts_are_the_same_grid(grid):
    assert as_grid(as_array(grid)) == grid
    assert from_text(as_text(grid)) == grid
    assert checked_grid([list(row) for row in grid]) == grid
    assert fits(as_array(grid))
    assert share_of_cells_right(grid, grid) == 1.0
    assert hash(grid) == hash(as_grid(as_array(grid)))


@pytest.mark.parametrize(
    "rows",
    [
        *(None, 3, "012", b"012", {}, {0: [1]}, [], [[]], [1], ["01"], [None], [[0], []], [[0, 1], [2]], [[[0]]]),
        *([[10]], [[-1]], [[0.0]], [[True]], [["0"]], [[None]], [[10**100]], [[0]] * 31, [[0] * 31], np.zeros((2, 2))),
    ],
    ids=lambda rows: str(rows)[:20],
)
def test_checked_grid_refuses_other_values(rows):
    with pytest.raises(InvalidGrid) as caught:
        checked_grid(rows)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("text", ["", "\n", "01\n2", "0 1", "a", "²", "-1", "0" * 31, "0\n" * 31])
def test_from_text_refuses_other_texts(text):
    with pytest.raises(InvalidGrid):
        from_text(text)


@pytest.mark.parametrize(
    ("predicted", "gold", "share"),
    [
        ("12\n34", "12\n34", 1.0),
        ("12\n35", "12\n34", 0.75),
        ("00\n00", "12\n34", 0.0),
        ("12", "12\n34", 0.5),
        ("12\n34", "12", 0.5),
        ("123\n456", "12\n45\n78", 4 / 6),
        ("1", "111\n111\n111", 1 / 9),
        ("1" * 30, "\n".join("1" * 30), 1 / 30),
    ],
)
def test_share_of_cells_right(predicted, gold, share):
    assert share_of_cells_right(from_text(predicted), from_text(gold)) == pytest.approx(share)
