"""Where documents are cut: nothing lost, nothing over the budget, the same every time."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seal_lightning.domains.knowledge.documents.extract import Outline, Paragraph, Section, titled
from seal_lightning.domains.knowledge.documents.packing import Packing, estimated_tokens, num_words
from seal_lightning.domains.knowledge.documents.sentences import clauses, sentences, words


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
def test_no_text_is_lost_and_no_passage_is_over_the_budget(
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
        assert between in {"".join("".join(h.split()) for h in one.headings[n:]) for n in range(len(one.headings) + 1)}
        position = at + len(wanted)
    assert position == len(found)
    assert pieces == list(packing.pieces(sections))


@settings(max_examples=300, deadline=None)
@given(st.one_of(PARAGRAPHS, st.text(st.sampled_from("aB .!?。、,;:()\"' 1"))))
def test_sentences_clauses_and_words_joined_are_the_text(text: str) -> None:
    for cut in (sentences, clauses, words):
        assert "".join(cut(text)) == text
        assert all(cut(text))


@pytest.mark.parametrize(
    "whole",
    [
        "Dr. Smith and J. R. Tolkien met.",
        "It is 3.14 metres, i.e. Pi, cf. Fig. 3 and No. 5 of vol. 2.",
        "See e.g. Smith et al. Then they left.",
        'He asked: "Why?" and left.',
        "1. A list has numbers.",
        "The U.S. army came.",
        "Wait... what?",
        "version 2.0 of www.example.com is out",
    ],
)
def test_no_sentence_ends_there(whole: str) -> None:
    assert sentences(whole) == [whole]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three? Four", 4),
        ('He left. "Why?" she asked. Nobody knew.', 3),
        ("It costs 5. Nobody paid.", 2),
        ("They said no. Then it rained.", 2),
        ("水は百度で沸く。冷たい！本当？はい", 4),
        ("He said “so.” Then he left.", 2),
        ("Trees, shrubs, etc. The garden is large.", 2),
        ("यह पानी है। वह आग है।", 2),
    ],
)
def test_sentences_end(text: str, count: int) -> None:
    assert len(sentences(text)) == count


def test_hostile_texts_take_linear_time() -> None:
    """Each would take hours in quadratic time (the suite's time limit ends them)."""
    for text in (
        "." * 300_000 + "x",
        '."' * 200_000,
        " " * 300_000 + "x",
        "a.b" * 200_000,
        "。" * 300_000,
        "(" * 300_000,
    ):
        assert "".join(sentences(text)) == text
    texts([section("a " * 100_000)], 100)
    texts([section("x" * 300_000)], 100)


def test_a_section_is_a_passage_and_small_ones_go_together() -> None:
    long, short = (SENTENCE * 11).strip(), SENTENCE.strip()
    found = Packing(budget=150, count=estimated_tokens, min_words=8)
    pieces = list(found.pieces([section(long, "A"), section(long, "B"), section(short, "C"), section("End.", "D")]))
    assert [p.headings for p in pieces] == [("A",), ("B",), ()]
    assert pieces[2].text == f"C\n\n{short}\n\nD\n\nEnd."
    long = (SENTENCE * 8).strip()
    assert texts([section(long, "A"), section("Few words.", "A", "B")], 150) == [f"{long}\n\nB\n\nFew words."]


def test_a_tiny_rest_goes_to_its_neighbour_even_where_that_is_cut() -> None:
    long = (SENTENCE * 12).strip()
    found = texts([section(long, "A"), section("One word.", "B")], 150)
    assert len(found) == 2
    assert found[-1].endswith("B\n\nOne word.")
    assert all(num_words(text) >= 8 for text in found)


def test_passages_are_balanced_and_end_with_sentences() -> None:
    found = texts([section((SENTENCE * 30).strip())], 150)
    assert all(re.search(r"1512\.$", text) for text in found)
    sizes = [estimated_tokens(text) for text in found]
    assert max(sizes) - min(sizes) <= estimated_tokens(SENTENCE)


def test_passages_end_between_paragraphs_rather_than_within() -> None:
    paragraph = (SENTENCE * 5).strip()
    found = texts([section("\n\n".join([paragraph] * 6))], 150)
    assert found == [f"{paragraph}\n\n{paragraph}"] * 3
    longer, shorter = (SENTENCE * 9).strip(), (SENTENCE * 6).strip()
    assert texts([section(f"{longer}\n\n{shorter}")], 150) == [longer, shorter], "though by sentences they were as long"


def test_lines_of_a_table_stay_lines() -> None:
    table = "\n".join(f"{i} | {i * i} | a row of numbers" for i in range(40))
    found = texts([section(table)], 60)
    assert len(found) > 2
    assert "\n".join(found) == table


def test_a_title_is_the_one_heading_above_all() -> None:
    outline = Outline()
    outline.heading(1, "The Title")
    outline.paragraph("Text.")
    outline.heading(2, "Part")
    outline.paragraph("More.")
    found = titled(None, outline.sections())
    assert (found.title, [s.headings for s in found.sections]) == ("The Title", [(), ("Part",)])
    given_title = titled("Other", outline.sections())
    assert (given_title.title, given_title.sections[1].headings) == ("Other", ("The Title", "Part"))


def test_a_heading_as_long_as_a_paragraph_is_one() -> None:
    outline = Outline()
    outline.heading(1, "word " * 100)
    assert [s.headings for s in outline.sections()] == [()]


def test_scripts_without_blanks_have_words() -> None:
    assert num_words("水は百度で沸く。" * 10) >= 10
    assert num_words("one two, three-four") == 4
    assert num_words("x" * 400) == 10
    assert num_words("?! …") == 0


@pytest.mark.timeout(10)
def test_runs_of_blanks_take_no_quadratic_time() -> None:
    line = "a," + " " * 300_000 + "word " * 600 + " " * 300_000 + "(in brackets)"
    assert [len(clause) for clause in clauses(line)] == [300_002, 303_000, 13]
    outline = Outline()
    outline.paragraph(f"a{' ' * 80}b\n{' ' * 81}c{' ' * 300_000}d \t e")
    assert [p.text for s in outline.sections() for p in s.paragraphs] == [f"a{' ' * 80}b\n  c  d \t e"]
