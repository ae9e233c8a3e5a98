"""Passages of documents: nothing lost, nothing over the budget, and deterministic."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import example, given, settings
from hypothesis import strategies as st

from seal_lightning.domains.knowledge.documents.markdown import Paragraph, Section
from seal_lightning.domains.knowledge.documents.packing import Packing, estimated_tokens, num_words


def section(text: str, *headings: str) -> Section:
    return Section(headings=headings, paragraphs=tuple(Paragraph(text=t) for t in text.split("\n\n")))


def texts(sections: list[Section], budget: int, min_words: int = 8) -> list[str]:
    return [p.text for p in Packing(budget=budget, count=estimated_tokens, min_words=min_words).pieces(sections)]


SENTENCE = "The bridge over the Aare was built in 1512. "  # 13 estimated tokens
LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=200).filter(str.strip)
PROSE = st.lists(
    st.sampled_from([SENTENCE.strip(), "Dr. No left.", "水は、百度で沸く。冷たい。", "x" * 90, "- an item", "a, b; c"])
)
PARAGRAPHS = st.one_of(LINES, PROSE.filter(bool).map(" ".join), PROSE.filter(bool).map("\n".join))
SECTIONS = st.lists(
    st.builds(
        lambda headings, paragraphs: Section(
            headings=tuple(headings), paragraphs=tuple(Paragraph(text=p.strip()) for p in paragraphs)
        ),
        st.lists(st.sampled_from(["One", "Two words", "Three"]), max_size=3),
        st.lists(PARAGRAPHS, max_size=6),
    ),
    max_size=6,
)


def count_bytes(text: str) -> int:
    """Not additive, as no tokenizer is: a text has fewer than its parts together."""
    return len(text.encode()) // 3 + 2


def count_thirds(text: str) -> int:
    """Nor this way: a text has more than its parts together."""
    return len(text.encode()) // 3


@settings(max_examples=300, deadline=None)
@given(SECTIONS, st.integers(16, 120), st.sampled_from([estimated_tokens, count_bytes, count_thirds]))
@example([section("x" * 3000)], 16, estimated_tokens)
@example([section("𓀀" * 500)], 16, count_bytes)
@example([section("ab. " * 60)], 17, count_thirds)
@example([section(" ".join("abcdefgh"[:n] + "." for n in range(1, 9)) * 30)], 16, count_thirds)
def test_passages_hold_all_text_within_the_budget(
    sections: list[Section], budget: int, count: Callable[[str], int]
) -> None:
    packing = Packing(budget=budget, count=count, min_words=8)
    pieces = list(packing.pieces(sections))
    for piece in pieces:
        assert piece.text == piece.text.strip() != ""
        assert count(piece.text) <= budget
    filled = [s for s in sections if s.paragraphs]
    found, wanted = "".join("".join(p.text.split()) for p in pieces), ""
    position = 0
    for one in filled:  # each section's text, its headings before it or in its passage's headings
        wanted = "".join("".join(p.text.split()) for p in one.paragraphs)
        at = found.find(wanted, position)
        assert at >= 0
        between = found[position:at]
        assert between in {
            "".join("".join(h.split()) + ":" for h in one.headings[n:]) for n in range(len(one.headings) + 1)
        }
        position = at + len(wanted)
    assert position == len(found)
    assert pieces == list(packing.pieces(sections))


def test_small_sections_are_joined() -> None:
    long, short = (SENTENCE * 11).strip(), SENTENCE.strip()
    found = Packing(budget=150, count=estimated_tokens, min_words=8)
    pieces = list(found.pieces([section(long, "A"), section(long, "B"), section(short, "C"), section("End.", "D")]))
    assert [p.headings for p in pieces] == [("A",), ("B",), ()]
    assert pieces[2].text == f"C: {short}\n\nD: End."
    long = (SENTENCE * 8).strip()
    assert texts([section(long, "A"), section("Few words.", "A", "B")], 150) == [f"{long}\n\nB: Few words."]


def test_tiny_sections_are_joined_over_the_budget() -> None:
    long = (SENTENCE * 12).strip()
    found = texts([section(long, "A"), section("One word.", "B")], 150)
    assert len(found) == 2
    assert found[-1].endswith("B: One word.")
    assert all(num_words(text) >= 8 for text in found)


def test_table_rows_stay_lines() -> None:
    table = "\n".join(f"{i} | {i * i} | a row of numbers" for i in range(40))
    found = texts([section(table)], 60)
    assert len(found) > 2
    assert "\n".join(found) == table


def test_num_words_counts_scripts_without_blanks() -> None:
    assert num_words("水は百度で沸く。" * 10) >= 10
    assert num_words("one two, three-four") == 4
    assert num_words("x" * 400) == 10
    assert num_words("?! …") == 0


def test_passages_end_with_sentences() -> None:
    found = texts([section((SENTENCE * 30).strip())], 150)
    assert all(re.search(r"1512\.$", text) for text in found)
    assert min(map(estimated_tokens, found)) > 150 // 4, "a small rest is evened out"


def test_passages_end_between_paragraphs() -> None:
    paragraph = (SENTENCE * 5).strip()
    assert texts([section("\n\n".join([paragraph] * 6))], 150) == [f"{paragraph}\n\n{paragraph}"] * 3
    longer, shorter = (SENTENCE * 9).strip(), (SENTENCE * 6).strip()
    assert texts([section(f"{longer}\n\n{shorter}")], 150) == [longer, shorter]


def test_long_words_and_runs_are_cut_in_time() -> None:
    for text in ("a " * 20_000, "x" * 50_000):
        assert "".join("".join(texts([section(text.strip())], 100)).split()) == text.replace(" ", "")
