"""PDF: text by pages, headings of the outline, dropped margins, and the errors of unreadable files."""

from __future__ import annotations

import zlib

import pytest
from written_pdf import assembled, encrypted, pdf_of, stream, with_outline

from seal_lightning.domains.knowledge.documents.converters import read_document
from seal_lightning.domains.knowledge.documents.decoding import Unreadable
from seal_lightning.domains.knowledge.documents.markdown import ParsedDocument
from seal_lightning.domains.knowledge.documents.pdf import without_margins

FULL = "This line of print is as wide as the column of its page is, which is wide"


def read_pdf(content: bytes) -> ParsedDocument:
    return read_document("pdf", content, 10**6)


def paragraphs(extract: ParsedDocument) -> list[tuple[tuple[str, ...], str, int | None]]:
    return [(section.headings, p.text, p.page) for section in extract.sections for p in section.paragraphs]


def test_pdf_lines_become_paragraphs_with_pages() -> None:
    pages = [
        [FULL, "and ends here.", f"{FULL} and the ex-", "periment goes over", FULL],
        [
            f"{FULL} over the page goes all of it.",
            "Well-",
            f"known things, as the well-known {FULL}",
            "(in brackets) have a \\ and caf\xe9.",
        ],
    ]
    found = read_pdf(pdf_of(pages, title="A title"))
    assert found.title == "A title"
    assert [(text, page) for _, text, page in paragraphs(found)] == [
        (f"{FULL} and ends here.", 1),
        (
            f"{FULL} and the experiment goes over {FULL} {FULL} over the page goes all of it. Well-known things, as the "
            f"well-known {FULL} (in brackets) have a \\ and café.",
            1,
        ),
    ]
    assert found.notes == ()


@pytest.mark.parametrize("title", ["Microsoft Word - report.doc", "untitled", "thesis.tex", "  "])
def test_pdf_titles_of_programs_are_ignored(title: str) -> None:
    assert read_pdf(pdf_of([["Some text."]], title=title)).title is None


def test_pdf_outline_gives_headings() -> None:
    content = pdf_of(
        [
            ["1 Introduction", "It begins.", "1.1 A long", "heading", "Deeper."],
            ["Still deeper.", "2 The end", "It ends."],
            ["Rest."],
        ]
    )
    entries = [("Introduction", 0, -1), ("1.1 A long heading", 0, 0), ("The end", 1, -1), ("Not in the text", 2, -1)]
    assert paragraphs(read_pdf(with_outline(content, entries))) == [
        (("Introduction",), "It begins.", 1),
        (("Introduction", "1.1 A long heading"), "Deeper.", 1),
        (("Introduction", "1.1 A long heading"), "Still deeper.", 2),
        (("The end",), "It ends.", 2),
        (("Not in the text",), "Rest.", 3),
    ]


def test_pdf_running_headers_are_dropped() -> None:
    pages = [
        [
            f"Chapter {n // 3}: Iron {n + 5}",
            f"Text of page {n} stands here.",
            f"{1900 + 7 * n} was a year.",
            f"- {n + 5} -",
        ]
        for n in range(1, 9)
    ]
    text = " ".join(text for _, text, _ in paragraphs(read_pdf(pdf_of(pages))))
    assert all(f"Text of page {n} stands here. {1900 + 7 * n} was a year." in text for n in range(1, 9))
    assert "Chapter" not in text
    assert "- " not in text
    assert without_margins(pages[:3]) == pages[:3], "of three pages nobody knows"


def test_margins_repeated_on_half_of_pages_are_dropped() -> None:
    pages = [["A report", f"{'abcdefghi'[n]} word", "confidential"] for n in range(9)]
    assert without_margins(pages) == [[f"{'abcdefghi'[n]} word"] for n in range(9)]
    assert without_margins([["Only this"]] * 9) == [["Only this"]] * 9, "no page is emptied"


def test_margins_keep_repeated_lines_within_pages() -> None:
    pages = [[f"a{n}", f"b{n * n}x", "Refrain", f"c{n}x{n}", f"d{n}y"] for n in "vwxyz" for n in [ord(n)]]
    assert all("Refrain" in page for page in without_margins(pages))


def test_pdf_with_password_is_unreadable() -> None:
    content = pdf_of([["Some text stands here."]])
    with pytest.raises(Unreadable, match="encrypted and needs a password"):
        read_pdf(encrypted(content, "secret"))
    assert paragraphs(read_pdf(encrypted(content, "")))[0][1] == "Some text stands here.", "a file that only restricts"


def test_pdf_without_text_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="without text, perhaps scanned"):
        read_pdf(pdf_of([[], []]))


def test_pdf_notes_pages_without_text() -> None:
    found = read_pdf(pdf_of([["Some text."], [], ["More."], []]))
    assert found.notes == ("2 pages have no text (scanned or blank): 2, 4",)


def test_damaged_pdf_is_read_as_far_as_possible() -> None:
    content = pdf_of([["First page."], ["Second page."]], packed=False)
    assert paragraphs(read_pdf(content.replace(b"0000000", b"0000009")))[0][1] == "First page. Second page.", (
        "its table is lost"
    )
    for broken in (b"%PDF-1.7\n", content[:200], content.replace(b"/Pages", b"/Pagez"), b"%PDF-1.4" + b"\xff" * 3000):
        with pytest.raises(Unreadable, match="PDF"):
            read_pdf(broken)


def test_pdf_decompression_is_bounded() -> None:
    bomb = zlib.compress(zlib.compress(b"(x) Tj " * 60_000_000, 9), 9)
    data = b"<< /Filter [/FlateDecode /FlateDecode] /Length %d >>\nstream\n%b\nendstream" % (len(bomb), bomb)
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources << >> /Contents 4 0 R >>"
    pages = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    with pytest.raises(Unreadable, match="PDF"):
        read_pdf(assembled([b"<< /Type /Catalog /Pages 2 0 R >>", pages, page, data]))


def test_pdf_with_recursive_pages_is_unreadable() -> None:
    pages = b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 99999999 >>"
    with pytest.raises(Unreadable):
        read_pdf(assembled([b"<< /Type /Catalog /Pages 2 0 R >>", pages]))


def test_pdf_scripts_and_attachments_are_ignored() -> None:
    """Neither run nor read: they are not in the text."""
    action = b"<< /S /JavaScript /JS (app.alert\\(1\\)) >>"
    launch = b"<< /S /Launch /F (/bin/sh) >>"
    catalog = b"<< /Type /Catalog /Pages 2 0 R /OpenAction %b /AA << /WC %b >> /Names << /EmbeddedFiles 6 0 R >> >>"
    content = stream(b"BT /F1 11 Tf 50 700 Td (Plain text.) Tj ET")
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 4 0 R >> >> /Contents 5 0 R >>"
    font = b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    names = b"<< /Names [(evil.txt) << /Type /Filespec /F (evil.txt) /EF << /F 7 0 R >> >>] >>"
    pages = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"
    objects = [catalog % (action, launch), pages, page, font, content, names, stream(b"attached")]
    assert paragraphs(read_pdf(assembled(objects))) == [((), "Plain text.", 1)]
