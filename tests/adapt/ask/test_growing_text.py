"""What is told of a growing text adds up to the text, whatever it is and wherever it ends."""

from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.adapt.ask.growing_text import GrowingText

STOPS = st.lists(st.text("ab\n é", min_size=1, max_size=4), max_size=3)


def decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def told(data: bytes, stops: list[str]) -> tuple[list[str], str]:
    """The pieces told byte by byte, and what they should add up to."""
    growing, pieces, end = GrowingText(stops), [], len(data)
    for end in range(1, len(data) + 1):
        pieces.append(growing.grown_to(decoded(data[:end])))
        if growing.is_stopped:
            break
    whole = decoded(data[:end])
    cut = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=len(whole))
    pieces.append(growing.rest(whole[:cut]))
    return pieces, whole[:cut]


@given(st.text("ab\n é😀x", max_size=20).map(str.encode), STOPS)
def test_pieces_of_a_text_are_the_text(data: bytes, stops: list[str]) -> None:
    pieces, whole = told(data, stops)
    assert "".join(pieces) == whole


@given(st.lists(st.sampled_from([b"a", b"b", b" ", b"\n", b"\xc3", b"\xa9", b"\xf0\x9f", b"\xff"]), max_size=12), STOPS)
def test_pieces_of_broken_bytes_are_the_text(parts: list[bytes], stops: list[str]) -> None:
    pieces, whole = told(b"".join(parts), stops)
    assert "".join(pieces) == whole


def test_it_is_told_as_it_grows() -> None:
    growing = GrowingText(("\n",))
    assert [growing.grown_to(t) for t in ("The", "The stone", "The stone ", "The stone is")] == [
        "The",
        " stone",
        "",
        " is",
    ]
    assert growing.grown_to("The stone is red\nand") == " red"
    assert growing.is_stopped


def test_a_beginning_of_a_stop_string_waits() -> None:
    growing = GrowingText(("STOP",))
    assert growing.grown_to("a ST") == "a"
    assert growing.grown_to("a STIR") == " STIR"
    assert growing.grown_to("a STIR STOP") == " "
    assert growing.rest("a STIR ") == ""


def test_half_a_character_waits() -> None:
    growing = GrowingText()
    assert growing.grown_to(decoded("é".encode()[:1])) == ""
    assert growing.grown_to("é") == "é"
    assert growing.rest("é") == ""
