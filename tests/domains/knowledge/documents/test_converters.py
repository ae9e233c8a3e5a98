"""Kinds, encodings, and the conversion of text, Markdown and HTML."""

from __future__ import annotations

import codecs
import re
from pathlib import PurePath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seal_lightning.domains.knowledge.documents.converters import (
    html_to_markdown,
    plain_to_markdown,
    without_front_matter,
)
from seal_lightning.domains.knowledge.documents.decoding import Unreadable, cleaned, declared_charset, decode, kind_of
from seal_lightning.domains.knowledge.documents.markdown import ParsedDocument, parse_markdown

PANGRAM = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. "


def read_plain(text: str) -> ParsedDocument:
    return parse_markdown(plain_to_markdown(text))


def read_markdown(text: str) -> ParsedDocument:
    return parse_markdown(without_front_matter(text))


def read_html(text: str) -> ParsedDocument:
    return parse_markdown(html_to_markdown(text))


def outline(extract: ParsedDocument) -> list[tuple[tuple[str, ...], list[str]]]:
    return [(section.headings, [p.text for p in section.paragraphs]) for section in extract.sections]


def all_text(extract: ParsedDocument) -> str:
    return "\n".join([extract.title or "", *(f"{h} {p}" for h, p in outline(extract))])


# Kinds


@pytest.mark.timeout(10)
def test_kind_of_html_is_known_by_its_start() -> None:
    name = PurePath("page.txt")
    for page in (
        b"\xef\xbb\xbf \n<?xml version='1.0'?>\n<!-- a -->\n<!-- <p> -->\n<!DOCTYPE  html>",
        b"<html>",
        b"\n" * 99 + b"<HTML >",
    ):
        assert kind_of(name, page) == "html"
    for text in (b"<!---->" * 1150 + b"x words", b"<!-- <html> x words", b" " * 8190 + b"x", b"<htmlx>"):
        assert kind_of(name, text) == "text"


def test_kind_of_pdf_is_known_by_its_start() -> None:
    text = b"# The format\n\nA PDF file begins with `%PDF-1.7`."
    assert [kind_of(PurePath(name), text) for name in ("a.txt", "a.md", "a.pdf")] == ["text", "markdown", "pdf"]
    for content in (b"%PDF-1.7\n", b"\xef\xbb\xbf%PDF-1.7", b"\r\n \n%PDF-1.7"):
        assert {kind_of(PurePath(name), content) for name in ("a.txt", "a.md", "a", "a.PDF")} == {"pdf"}


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_decode_reads_unicode(encoding: str) -> None:
    assert decode(PANGRAM.encode(encoding)).text == PANGRAM
    assert decode(codecs.BOM_UTF16_BE + PANGRAM.encode("utf-16-be")).text == PANGRAM


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", PANGRAM * 3 + "10 € – “so”"),
        ("cp1252", "café"),
        ("cp1251", "Съешь же ещё этих мягких французских булок, да выпей чаю. " * 5),
        ("shift_jis", "これは日本語の文章です。水は百度で沸きます。" * 5),
        ("gb18030", "这是一个中文句子。水在一百度时沸腾。" * 5),
        ("iso8859_7", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία με μεγάλη χαρά. " * 5),
    ],
)
def test_decode_guesses_older_encodings(encoding: str, text: str) -> None:
    found = decode(text.encode(encoding))
    assert found.text == text
    assert found.num_replaced == 0


def test_decode_uses_a_fitting_declaration() -> None:
    assert decode("łódź".encode("iso8859_2"), "iso-8859-2").text == "łódź"
    assert decode("łódź".encode(), "iso-8859-2").text == "łódź", "what is UTF-8 is UTF-8"
    assert decode(PANGRAM.encode("cp1252"), "no-such-encoding").text == PANGRAM
    assert decode(PANGRAM.encode("cp1252"), "rot13").text == PANGRAM
    assert decode(PANGRAM.encode("cp1252"), "utf-8").text == PANGRAM


@pytest.mark.parametrize(
    ("declared", "encoding", "text"),
    [
        ("iso-8859-1", "cp1252", "“It’s 10 € – or more…”"),
        ("latin1", "cp1252", "“It’s 10 € – or more…”"),
        ("us-ascii", "cp1252", "“It’s 10 € – or more…”"),
        ("iso-8859-9", "cp1254", "“İzmir”"),
        ("tis-620", "cp874", "“ไทย”"),
        ("gb2312", "gb18030", "朱镕基喆“€”" + "这" * 30),
        ("gbk", "gb18030", "㐀" + "这" * 30),
        ("shift_jis", "cp932", "①髙" + "日本" * 30),
        ("euc-kr", "cp949", "똠방" + "각하" * 30),
    ],
)
def test_decode_reads_declarations_as_browsers_do(declared: str, encoding: str, text: str) -> None:
    found = decode(text.encode(encoding), declared)
    assert (found.text, found.encoding) == (text, encoding)


def test_decode_reads_mixed_encodings_by_line() -> None:
    lines = [PANGRAM.encode(), PANGRAM.encode("cp1252"), PANGRAM.encode(), b"plain", PANGRAM.encode()]
    found = decode(b"\n".join(lines))
    assert (found.encoding, found.num_replaced) == ("mixed", 0)
    assert found.text == "\n".join([PANGRAM] * 3 + ["plain", PANGRAM])
    lost = decode(b"\n".join([*lines, b"b\x81d\x8d"]))
    assert (lost.num_replaced, lost.text.split("\n")[-1]) == (2, "b\ufffdd\ufffd")


@pytest.mark.parametrize(
    "content", [b"\x7fELF\0\0", bytes(range(256)) * 40, b"\x01\x02\x03" * 50, b"\xff\xfe" + b"\x00\xd8" * 90]
)
def test_decode_refuses_binary_files(content: bytes) -> None:
    with pytest.raises(Unreadable, match="binary"):
        decode(content)


def test_cleaned_drops_control_characters() -> None:
    assert cleaned("a\r\nb\rc\x85d\u2028e\x00\x07\x1b[31mf\x9b\ufeff\u00adg\tx\fy") == "a\nb\nc\nd\ne[31mfg\tx\fy"
    assert cleaned("Cafe\u0301 m²") == "Café m²"
    assert "\ud800" not in cleaned("a\ud800b")
    assert len(cleaned("a" + "\u0301\u0316" * 100_000)) > 100_000, "no quadratic time for a run of accents"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
@example(b"\xef\xbb\xbf")
def test_decode_handles_any_bytes(content: bytes) -> None:
    try:
        found = decode(content)
    except Unreadable:
        return
    found.text.encode()
    assert not any(c in found.text for c in "\x00\r\x1b\x7f\ufeff")


# Plain text


def test_plain_text_has_paragraphs_lists_and_headings() -> None:
    text = (
        "The Title\n=========\n\nA paragraph that was broken to a width of some seventy\ncharacters goes on here.\n\n"
        "Part one\n--------\n- an item that is long enough to have been broken at this\n  width, as it was\n- another\n\n"
        "Roses are red\nViolets are blue\n\n"
        "Deeper\n~~~~~~\nname    size\niron    12\n\nPart two\n--------\nEnd.\f Next page.\n----\n"
    )
    found = read_plain(text)
    assert found.title == "The Title"
    assert outline(found) == [
        ((), ["A paragraph that was broken to a width of some seventy characters goes on here."]),
        (
            ("Part one",),
            [
                "- an item that is long enough to have been broken at this width, as it was\n- another",
                "Roses are red\nViolets are blue",
            ],
        ),
        (("Part one", "Deeper"), ["name  size\niron  12"]),
        (("Part two",), ["End.", "Next page."]),
    ]


def test_restructured_text_keeps_tables_and_fields() -> None:
    fields = ":Number of Instances: one hundred and seventy-eight of them all\n:Donor: nobody"
    text = f".. _a-label:\n\n{fields}\n\n==== ====\na    b\n==== ====\n"
    assert outline(read_plain(text)) == [((), [fields, "a  b"])]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab.-=~*\n\n\f\t 1)é"), max_size=300))
def test_plain_text_loses_only_rules(text: str) -> None:
    found = read_plain(text)
    words = [w for p in found.sections for q in p.paragraphs for w in q.text.split()]
    heads = [w for s in found.sections for h in s.headings for w in h.split()] + (found.title or "").split()
    wanted = {w for w in text.split() if any(c.isalnum() for c in w)}
    assert wanted <= {*words, *heads}


# Markdown


def test_markdown_becomes_text_under_headings() -> None:
    text = """---
title: "The front's title"
secret: yes
---
Intro with **bold**, a [link](http://x.example/y "t"), ![a picture](p.png) and `code <b>`.

Setext
======
<!-- a comment --><script>evil()</script>

## Part & parcel ##
1. one
2. two
   - nested

   more of two

> quoted
> words

| a | b |
|---|---|
| 1 | **2** |

```python
# no heading
x = 1
```

<div align="center"><p>In HTML</p><style>p {}</style><img alt="logo" src="https://x.example/l.png"></div>

Hard\\
break &copy; <span onclick="x()">inline</span>
"""
    found = read_markdown(text)
    assert found.title == "The front's title"
    assert outline(found) == [
        ((), ["Intro with bold, a link, a picture and code <b>."]),
        (("Setext",), []),
        (
            ("Setext", "Part & parcel"),
            [
                "1. one\n2. two\n   - nested\n     more of two",
                "quoted words",
                "a | b\n1 | 2",
                "# no heading\nx = 1",
                "In HTML",
                "Hard\nbreak © inline",
            ],
        ),
    ]


@pytest.mark.parametrize(
    "text", ["> " * 5_000 + "deep", "- " * 2_000 + "x", "[" * 20_000, "*a " * 20_000, "`" * 20_000, "<" * 20_000]
)
def test_hostile_markdown_is_parsed(text: str) -> None:
    assert read_markdown(text).num_chars >= 0


PAGE = """<!DOCTYPE html><html><head><title>The page - site</title><style>p{}</style><script>evil()</script></head>
<body onload="evil()"><header>Site header</header><nav><a href="/">Home</a></nav>
<ul><li><a href="/a">Alpha page</a></li><li><a href="/b">Beta page</a></li><li><a href="/c">Gamma page</a></li></ul>
<h1>Main  heading<a href="#m">¶</a></h1><!-- a comment -->
<p>Short para with <b>bold</b>, a&nbsp;<a href="http://x.example/">link</a> and
<img src="http://x.example/i" alt="a picture">.<br>New line</p>
Loose text
<h2>Second</h2><ol><li>one</li><li>two<ul><li>nested</li></ul></li></ol>
<dl><dt>Term</dt><dd>what it means</dd></dl>
<table><caption>Sizes</caption><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2 <i>x</i></td></tr></table>
<pre>code  line
  more</pre><p style="display: none">hidden</p><p hidden>hidden</p><noscript>noscript</noscript>
<template><p>template</p></template>
<object data="http://x.example/o">object</object><iframe src="file:///etc/passwd">frame</iframe>
<table><tr><td><h3>Third</h3><p>In a layout table.</p></td></tr></table>
<textarea>form</textarea><footer>Footer</footer></body></html>"""


def test_html_becomes_text_under_headings() -> None:
    found = read_html(PAGE)
    assert found.title == "Main heading"
    assert outline(found) == [
        ((), ["Short para with bold, a link and a picture.\nNew line", "Loose text"]),
        (
            ("Second",),
            ["1. one\n2. two\n   - nested", "Term", "what it means", "Sizes", "a | b\n1 | 2 x", "code  line\n  more"],
        ),
        (("Second", "Third"), ["In a layout table."]),
    ]
    assert found.notes == ("about 7 words of menus were skipped",)


def test_html_main_part_is_the_page() -> None:
    page = f"<body><div>Log in or register</div><main><aside>A note.</aside><p>{PANGRAM * 3}</p></main></body>"
    assert outline(read_html(page)) == [((), ["A note.", (PANGRAM * 3).strip()])]
    tiny = f"<body><p>{PANGRAM * 9}</p><main>x</main></body>"
    assert PANGRAM.strip() in all_text(read_html(tiny)), "an empty main element is not believed"


@pytest.mark.parametrize(
    "page",
    [
        '<!DOCTYPE html [<!ENTITY x SYSTEM "file:///etc/hostname"><!ENTITY y "yyy">]><p>&x;&y; text</p>',
        '<?xml version="1.0" encoding="utf-8"?><!DOCTYPE html SYSTEM "http://127.0.0.1:9/x.dtd"><html><p>text</p></html>',
        "<p>" + "<b>" * 200 + "text",
        "<p>text<![CDATA[ x ]]><unknown>",
        "<html><body><p>text\x0b\ufffe</p><script>",
        "text",
    ],
)
def test_hostile_html_is_only_text(page: str) -> None:
    found = all_text(read_html(page))
    assert "text" in found
    assert not any(word in found for word in ("root", "yyy", "hostname"))


def test_html_nested_too_deeply_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="too deeply"):
        read_html("<p>" + "<b>" * 5_000 + "text")


@pytest.mark.parametrize(
    "huge", ["<script>{}</script>", "<p title='{}'>p</p>", "<!--{}-->", "<img src='data:{}'>", "<p hidden>{}</p>"]
)
def test_html_after_a_huge_part_is_read(huge: str) -> None:
    page = "<p>before</p>" + huge.format("x" * 11_000_000) + "<p>behind</p>"
    found = all_text(read_html(page))
    assert "before" in found
    assert "behind" in found


def test_html_without_text_is_empty() -> None:
    for page in ("<html></html>", "<script>x</script>", "<p hidden>x</p>"):
        assert read_html(page).num_chars == 0


def test_declared_charset_is_found() -> None:
    assert declared_charset(b'<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-2">') == "iso-8859-2"
    assert declared_charset(b"<meta charset='windows-1251'>") == "windows-1251"
    assert declared_charset(b'<?xml version="1.0" encoding="latin1"?>') == "latin1"
    assert declared_charset(b"<p>") is None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "<p>",
                "</p>",
                "<ul>",
                "<li>",
                "</ul>",
                "<table>",
                "<tr>",
                "<td>",
                "</table>",
                "<h2>",
                "</h2>",
                "<pre>",
                "</pre>",
                "<div>",
                "</div>",
                "<br>",
                "<b>",
                "</b>",
                "w",
            ]
        ),
        max_size=40,
    )
)
def test_html_loses_no_word(parts: list[str]) -> None:
    page = "".join(f"{part}{number} " if part == "w" else part for number, part in enumerate(parts))
    seen = re.findall(r"w\d+", all_text(read_html(f"<body><main>{page}</main></body>")))
    assert set(seen) == set(re.findall(r"w\d+", page))
