"""The pieces of a streamed text add up to the text, whatever it is and wherever it ends."""

from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.adapt.ask.streaming import TextStream

STOPS = st.lists(st.text("ab\n é", min_size=1, max_size=4), max_size=3)


def decoded(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def stream(pieces: list[str], *stops: str) -> TextStream:
    return TextStream(lambda ids: decoded(bytes(ids)), stops, pieces.append, lambda: False)


def emitted(data: bytes, stops: list[str]) -> tuple[list[str], str]:
    """The pieces emitted byte by byte, and what they should add up to."""
    pieces: list[str] = []
    text, end = stream(pieces, *stops), 0
    for end in range(1, len(data) + 1):
        text([*data[:end]])
        if any(stop in decoded(data[:end]) for stop in stops):
            break
    whole = decoded(data[:end])
    cut = min((at for stop in stops if (at := whole.find(stop)) >= 0), default=len(whole))
    text.finish(whole[:cut])
    return pieces, whole[:cut]


@given(st.text("ab\n é😀x", max_size=20).map(str.encode), STOPS)
def test_pieces_add_up_to_the_text(data: bytes, stops: list[str]) -> None:
    pieces, whole = emitted(data, stops)
    assert "".join(pieces) == whole


@given(st.lists(st.sampled_from([b"a", b"b", b" ", b"\n", b"\xc3", b"\xa9", b"\xf0\x9f", b"\xff"]), max_size=12), STOPS)
def test_pieces_of_broken_bytes_add_up(parts: list[bytes], stops: list[str]) -> None:
    pieces, whole = emitted(b"".join(parts), stops)
    assert "".join(pieces) == whole


def test_text_is_emitted_as_it_grows_up_to_the_stop() -> None:
    pieces: list[str] = []
    text = stream(pieces, "\n")
    for grown in ("The", "The stone", "The stone ", "The stone is", "The stone is red\nand"):
        text.grow(grown)
    assert pieces == ["The", " stone", " is", " red"]


def test_the_start_of_a_stop_string_waits() -> None:
    pieces: list[str] = []
    text = stream(pieces, "STOP")
    for grown in ("a ST", "a STIR", "a STIR STOP"):
        text.grow(grown)
    assert pieces == ["a", " STIR", " "]


def test_half_a_character_waits() -> None:
    pieces: list[str] = []
    text = stream(pieces)
    text([*"é".encode()[:1]])
    assert pieces == []
    text([*"é".encode()])
    assert pieces == ["é"]
