"""Documents as a source: found and skipped files, limits, origins of passages, and the sandbox."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import socket
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser
from written_pdf import encrypted, pdf_of

from seal_lightning.core.errors import ConfigError, DataError
from seal_lightning.core.interfaces import TaskSource
from seal_lightning.domains.knowledge import Documents, Passage
from seal_lightning.domains.knowledge.documents import sandbox, source
from seal_lightning.domains.knowledge.documents.decoding import Unreadable
from seal_lightning.domains.knowledge.documents.sandbox import ReaderSandbox

FACTS = "The bridge over the river was built in 1512 by two brothers. It has nine arches of grey stone. "


def filled(folder: Path) -> Path:
    """A document of every kind."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plain_notes-2.txt").write_text(f"{FACTS}\n")
    (folder / "guide.md").write_text(
        f"# The Guide\n\n{FACTS * 3}Read in Markdown.\n\n## Tolls\n\n{FACTS * 3}Nobody pays.\n"
    )
    (folder / "page.html").write_text(f"<title>A page</title><h1>Page</h1><p>{FACTS}Read in HTML.</p>")
    (folder / "paper.pdf").write_bytes(pdf_of([[FACTS[:60], FACTS[60:], "Read in a PDF."]], title="The Paper"))
    (folder / "README").write_text(f"{FACTS}No ending.")
    row = {
        "title": "Asked",
        "context": f"{FACTS}Asked.",
        "questions": [{"question": "How many arches?", "answer": "nine"}],
    }
    (folder / "asked.json").write_text(json.dumps([row, {"title": "T", "text": f"{FACTS}In a corpus."}]))
    (folder / "lines.jsonl").write_text(
        "\n".join(json.dumps(r) for r in [{"text": f"{FACTS}Line."}, {"text": 5}]) + "\n{\n"
    )
    squad = {"title": "Old_Bridge", "paragraphs": [{"context": f"{FACTS}In SQuAD.", "qas": []}]}
    (folder / "squad.json").write_text(json.dumps({"data": [squad]}))
    return folder


def reasons(documents: Documents) -> dict[str, str]:
    return {Path(record.where).name: record.problem for record in documents.skipped}


def test_documents_reads_every_kind(tmp_path: Path) -> None:
    documents = Documents(paths=[str(filled(tmp_path))])
    assert isinstance(documents, TaskSource)
    passages = documents.load()
    found = {p.context.replace(FACTS.strip(), "").strip(): p for p in passages}
    assert {ending: p.title for ending, p in found.items()} == {
        "": "plain notes 2",
        "Read in Markdown.": "The Guide",
        "Nobody pays.": "The Guide › Tolls",
        "Read in HTML.": "Page",
        "Read in a PDF.": "The Paper",
        "No ending.": "README",
        "Asked.": "Asked",
        "In a corpus.": "T",
        "Line.": "lines",
        "In SQuAD.": "Old Bridge",
    }
    assert [q.answers for q in found["Asked."].questions] == [("nine",)]
    kinds = {Path(d.path).name: (d.kind, d.num_passages) for d in documents.documents}
    assert kinds == {
        "README": ("text", 1),
        "asked.json": ("json", 2),
        "guide.md": ("markdown", 2),
        "lines.jsonl": ("jsonl", 1),
        "page.html": ("html", 1),
        "paper.pdf": ("pdf", 1),
        "plain_notes-2.txt": ("text", 1),
        "squad.json": ("squad", 1),
    }
    for document in documents.documents:
        assert document.sha256 == hashlib.sha256(Path(document.path).read_bytes()).hexdigest()
    tolls = documents.places[found["Nobody pays."].task_id]
    assert (tolls.path, tolls.headings, tolls.page, tolls.order) == (str(tmp_path / "guide.md"), ("Tolls",), None, 1)
    assert documents.places[found["Read in a PDF."].task_id].page == 1
    assert documents.places.keys() == {p.task_id for p in passages}
    told = reasons(documents)
    assert told.keys() == {"lines.jsonl"}
    assert told["lines.jsonl"].startswith("2 records cannot be used, the first: line 2 (record 1): ")


def test_order_of_paths_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = filled(tmp_path / "one"), filled(tmp_path / "two")
    (two / "more.txt").write_text("More text stands in the second folder, about nothing in particular.")
    ways = [[str(one), str(two)], [str(two), str(one)], [str(two), str(one / "guide.md"), str(one), str(two)]]
    monkeypatch.chdir(tmp_path)
    loaded = [Documents(paths=paths).load() for paths in [*ways, ["one", "two", "."]]]
    assert all(passages == loaded[0] for passages in loaded)
    (tmp_path / "0.md").symlink_to(two / "guide.md")  # first as it is spelled, last as it lies
    spelled = [str(tmp_path / "0.md"), str(one / "plain_notes-2.txt")]
    assert [p.title for p in Documents(paths=spelled).load()] == ["plain notes 2", "The Guide", "The Guide › Tolls"]
    documents = Documents(paths=ways[0])
    documents.load()
    assert sum(d.num_passages for d in documents.documents) == len(loaded[0]) == 11
    again = [record for record in documents.skipped if "the same title and context as" in record.problem]
    assert len(again) == 10


def test_passages_keep_the_budget_of_count_tokens(tmp_path: Path) -> None:
    text = " ".join(f"In {year} the bridge had {year % 97} arches of stone." for year in range(1200, 1300))
    (tmp_path / "long.txt").write_text(text)
    documents = Documents(paths=[str(tmp_path)], passage_tokens=64)
    documents.count_tokens = len  # every character a token
    passages = documents.load()
    assert all(len(p.context) <= 64 for p in passages)
    assert "".join("".join(p.context for p in passages).split()) == "".join(text.split())


def test_documents_obeys_settings_of_sources(tmp_path: Path) -> None:
    paths = [str(filled(tmp_path))]
    assert len(Documents(paths=paths, limit=3, shuffle_seed=1).load()) == 3
    documents = Documents(paths=paths, limit=2)
    first = documents.load()
    assert documents.places.keys() == {p.task_id for p in first}
    asked = Documents(paths=paths, require_questions=True)
    assert [p.title for p in asked.load()] == ["Asked"]
    with pytest.raises(DataError, match=r"lines\.jsonl: line 2 \(record 1\).*field 'text'"):
        Documents(paths=paths, skip_invalid=False).load()


def test_documents_is_configured_by_class_path(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=TaskSource)
    name = "seal_lightning.domains.knowledge.Documents"
    given: dict[str, Any] = {"class_path": name, "init_args": {"paths": [str(tmp_path)], "passage_tokens": 64}}
    made = parser.instantiate_classes(parser.parse_object({"source": given})).source
    assert made == Documents(paths=[str(tmp_path)], passage_tokens=64)
    assert "count_tokens" not in parser.get_defaults().as_dict()


# Files that cannot be used

UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.txt": (lambda p: p.write_bytes(b""), "is empty"),
    "blank.md": (lambda p: p.write_text(" \n\n"), "is empty"),
    "word.txt": (lambda p: p.write_text("Word"), "fewer than 8 words"),
    "rules.txt": (lambda p: p.write_text("-----\n=====\n"), "has no text"),
    "program": (lambda p: p.write_bytes(b"\x7fELF\x02\x01\x01\0"), "binary file"),
    "noise.txt": (lambda p: p.write_bytes(bytes(range(256)) * 50), "binary file"),
    "report.docx": (lambda p: zipfile.ZipFile(p, "w").writestr("a", "b"), "ZIP archive"),
    "notes.txt.gz": (lambda p: p.write_bytes(gzip.compress(b"text")), "compressed"),
    "picture.png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n\0"), "an image"),
    "secret.pdf": (lambda p: p.write_bytes(encrypted(pdf_of([["Text."]]), "x")), "needs a password"),
    "scan.pdf": (lambda p: p.write_bytes(pdf_of([[]])), "perhaps scanned"),
    "broken.pdf": (lambda p: p.write_bytes(pdf_of([["Text."]])[:99]), "damaged PDF"),
    "text.pdf": (lambda p: p.write_text("Just text."), "its start is missing"),
    "void.html": (lambda p: p.write_text("<html><script>x</script></html>"), "has no text"),
    "deep.html": (lambda p: p.write_text("<b>" * 9999 + "text"), "too deeply"),
    "bad.json": (lambda p: p.write_text("{"), "is not JSON"),
    "deep.json": (lambda p: p.write_text("[" * 99999), "recursion limit"),
    "odd.json": (lambda p: p.write_text('{"a": 1}'), "must hold SQuAD's object"),
    "style.css": (lambda p: p.write_text("p {}"), "is not a document"),
    "pipe": (lambda p: os.mkfifo(p), "a pipe"),
    "socket": (lambda p: socket.socket(socket.AF_UNIX).bind(str(p)), "No such device|socket"),
    "nowhere.txt": (lambda p: p.symlink_to("missing"), "out of the folder or nowhere"),
    "passwd.txt": (lambda p: p.symlink_to("/etc/passwd"), "out of the folder"),
    "etc": (lambda p: p.symlink_to("/etc"), "out of the folder"),
    "loop": (lambda p: p.symlink_to("loop"), "out of the folder|levels of symbolic links"),
}


def test_unusable_files_are_skipped_with_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    good = Documents(paths=[str(filled(Path("good").absolute()))]).load()
    for name, (make, _) in UNUSABLE.items():
        make(Path("good") / name)
    documents = Documents(paths=["good"])
    assert documents.load() == good
    told = reasons(documents)
    for name, (_, reason) in UNUSABLE.items():
        assert name in told, told
        assert re.search(reason, told[name]), f"{name}: {told[name]}"
    assert len(told) == len(UNUSABLE) + 1


def test_error_without_passages_lists_reasons(tmp_path: Path) -> None:
    for name in ("empty.txt", "scan.pdf", "word.txt", "program"):
        UNUSABLE[name][0](tmp_path / name)
    with pytest.raises(DataError, match=r"no document gives a passage: .*empty.txt: is empty; .*program.*and 1 more"):
        Documents(paths=[str(tmp_path)]).load()
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="there is no file"):
        Documents(paths=[str(tmp_path / "none")]).load()


def test_unreadable_paths_are_listed_in_one_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    wrong = [str(tmp_path / "typo.txt"), str(tmp_path / "pipe"), "/dev/zero", "", "a\0b", str(tmp_path / ("x" * 300))]
    wrong.append(str(tmp_path / "new\nline\x1b[31m"))
    with pytest.raises(DataError) as error:
        Documents(paths=[str(filled(tmp_path / "good")), *wrong]).load()
    text = str(error.value)
    assert "7 of 8 paths are not readable files or folders" in text
    assert "and 2 more" in text
    assert "\x1b" not in text
    assert "\n" not in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_without_permission_are_skipped(tmp_path: Path) -> None:
    (filled(tmp_path) / "README").chmod(0)
    documents = Documents(paths=[str(tmp_path)])
    documents.load()
    assert "Permission" in reasons(documents)["README"]
    with pytest.raises(DataError, match="Permission"):
        Documents(paths=[str(tmp_path / "README")]).load()


def test_hidden_files_and_links_are_skipped(tmp_path: Path) -> None:
    folder = filled(tmp_path / "folder")
    (folder / ".git").mkdir()
    (folder / ".git" / "notes.txt").write_text(FACTS)
    (folder / ".hidden.txt").write_text(FACTS)
    (folder / "again.md").symlink_to("guide.md")
    (folder / "self").symlink_to(".")
    documents = Documents(paths=[str(folder)])
    assert len(documents.load()) == 10
    assert reasons(documents)["folder"] == "2 hidden files or folders were skipped"
    assert len(Documents(paths=[str(folder / ".hidden.txt")]).load()) == 1, "named itself, it is meant"


def test_folders_of_seal_adapt_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text(FACTS)
    for name, mark in {"done": "adapted.json", "stopped": "work/job.json"}.items():
        left = tmp_path / "deep" / name
        (left / "work").mkdir(parents=True)
        (left / mark).write_text("{}")
        (left / "work" / "answers.jsonl").write_text(json.dumps({"text": f"{FACTS}Written by the model, {name}."}))
    (tmp_path / "linked.jsonl").symlink_to("deep/done/work/answers.jsonl")
    (tmp_path / "job.json").write_text(json.dumps({"text": f"{FACTS}A job."}))  # of no `seal adapt`
    documents = Documents(paths=[str(tmp_path)])
    assert [d.path for d in (documents.load(), documents.documents)[1]] == [
        str(tmp_path / name) for name in ("job.json", "own.txt")
    ]
    told = reasons(documents)
    assert told.keys() == {"done", "stopped", "linked.jsonl"}
    assert "`seal adapt` wrote its folder, which holds adapted.json" in told["done"]
    assert "adapted.json" in told["linked.jsonl"]
    assert "work/job.json" in told["stopped"]
    named_itself = Documents(paths=[str(tmp_path / "deep" / "done")])
    assert "Written by the model, done." in "".join(p.context for p in named_itself.load())


def test_leave_out_is_skipped(tmp_path: Path) -> None:
    for name in ("kept.txt", "out/written.txt", "one.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{FACTS}{name}")
    (tmp_path / "linked.txt").symlink_to("out/written.txt")
    (tmp_path / "other_name").symlink_to("out")
    documents = Documents(paths=[str(tmp_path)])
    documents.leave_out = (tmp_path / "other_name", tmp_path / "one.txt", tmp_path / "not_there")
    documents.load()
    assert [d.path for d in documents.documents] == [str(tmp_path / "kept.txt")]
    assert reasons(documents).keys() == {"out", "one.txt", "linked.txt", "other_name"}
    assert all("leave_out" in problem for problem in reasons(documents).values())


def test_odd_names_are_escaped(tmp_path: Path) -> None:
    names = ["new\nline.txt", "esc\x1b[31mape.txt", os.fsdecode(b"latin-\xe9.txt"), "-.txt", "…" * 60 + ".txt"]
    for number, name in enumerate(names):
        (tmp_path / name).write_text(f"{FACTS} Number {number}.")
    documents = Documents(paths=[str(tmp_path)])
    passages = documents.load()
    assert len(passages) == 5
    for text in [d.path for d in documents.documents] + [p.title for p in passages] + [p.task_id for p in passages]:
        text.encode()
        assert text.isprintable()


def test_huge_file_is_skipped(tmp_path: Path) -> None:
    with (filled(tmp_path) / "huge.txt").open("wb") as file:
        file.truncate(2**30)
    documents = Documents(paths=[str(tmp_path)])
    assert len(documents.load()) == 10
    assert "has more than 67108864 bytes (max_file_bytes)" in reasons(documents)["huge.txt"]


def test_limits_are_enforced(tmp_path: Path) -> None:
    (filled(tmp_path) / "long.txt").write_text(FACTS * 100)
    (tmp_path / "long.md").write_text(FACTS * 100)
    (tmp_path / "long.html").write_text(f"<p>{FACTS * 100}</p>")
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": FACTS * 100}))
    documents = Documents(paths=[str(tmp_path)], max_chars=1000)
    assert len(documents.load()) == 10
    told = reasons(documents)
    for name in ("long.txt", "long.md", "long.html", "long.jsonl: line 1 (record 0)"):
        assert "characters of text; allowed are 1000 (max_chars)" in told[name]
    with pytest.raises(DataError, match="more than 12 passages"):
        Documents(paths=[str(tmp_path)], max_passages=12).load()
    with pytest.raises(DataError, match="more than 3 files"):
        Documents(paths=[str(tmp_path)], max_files=3).load()


@pytest.mark.parametrize(
    "settings",
    [
        {"paths": []},
        {"paths": "x"},
        {"passage_tokens": 15},
        {"min_words": 0},
        {"max_chars": 0},
        {"max_seconds": 0.0},
        {"limit": 0},
    ],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"Documents: {next(iter(settings))} is"):
        Documents(**{"paths": ["x"], **settings})


def test_content_decides_over_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(pdf_of([[FACTS]]))
    (tmp_path / "b.txt").write_text(f"<!-- x --><!DOCTYPE html><p>{FACTS}</p>")
    (tmp_path / "c.pdf").write_text(f"<html><p>{FACTS}</p>")
    documents = Documents(paths=[str(tmp_path)])
    documents.load()
    assert [d.kind for d in documents.documents] == ["pdf", "html", "html"]


def test_undecodable_places_are_noted(tmp_path: Path) -> None:
    (tmp_path / "mixed.txt").write_bytes(FACTS.encode() + "é\n".encode() + FACTS.encode() + b"caf\xe9 \x81\n")
    documents = Documents(paths=[str(tmp_path)])
    assert "café" in documents.load()[0].context
    assert reasons(documents)["mixed.txt"] == "1 places could not be decoded (mixed) and are U+FFFD now"


# The sandboxed process


def test_sandbox_ends_a_slow_document() -> None:
    with ReaderSandbox(max_seconds=0.05, max_memory_bytes=2**31) as reader:
        slow = ("*" + "[a](b " * 40_000).encode()
        with pytest.raises(Unreadable, match=r"more than 0\.05 s"):
            reader.read("markdown", slow * 8, 10**8)
        reader.max_seconds = 60
        assert reader.read("markdown", b"# A\n\ntext", 100).title == "A"
        process = reader._process
        assert process is not None
        assert process.poll() is None
    assert process.poll() is not None


def test_sandbox_restarts_after_a_crash() -> None:
    with ReaderSandbox(max_seconds=60, max_memory_bytes=2**31) as reader:
        reader.read("markdown", b"text", 100)
        assert reader._process is not None
        reader._process.kill()
        with pytest.raises(Unreadable, match="ended its reader"):
            reader.read("markdown", b"text", 100)
        assert reader.read("markdown", b"text", 100).num_chars == 4


def test_sandbox_imports_nothing_beside_the_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("markdown_it", "json", "seal_lightning"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with ReaderSandbox(max_seconds=60, max_memory_bytes=2**31) as reader:
        assert reader.read("markdown", b"# A\n\ntext", 100).title == "A"
    assert not (tmp_path / "run").exists()


def test_sandbox_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    with ReaderSandbox(max_seconds=60, max_memory_bytes=2**31) as reader:
        with pytest.raises(DataError, match="does not start"):
            reader.read("markdown", b"text", 100)
        assert reader._process is None


@pytest.mark.slow
def test_sandbox_memory_is_bounded() -> None:
    with ReaderSandbox(max_seconds=60, max_memory_bytes=2**28) as reader:
        with pytest.raises(Unreadable, match="memory"):
            reader.read("markdown", b"*a* " * 1_000_000, 10**9)
        assert reader.read("markdown", b"text", 100).num_chars == 4


def test_invalid_records_are_summarised(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(
        "{\n" * 3_000 + json.dumps({"text": FACTS}) + "\n" + '{"text": "few"}\n' * 3_000
    )
    (tmp_path / "list.json").write_text(json.dumps([{"text": f"{FACTS}More."}, 5]))
    documents = Documents(paths=[str(tmp_path)])
    assert len(documents.load()) == 2
    told = reasons(documents)
    assert told.keys() == {"bad.jsonl", "list.json: record 1"}
    assert told["bad.jsonl"].startswith("6000 records cannot be used, the first: line 1 (record 0): ")
    with pytest.raises(DataError, match=r"bad\.jsonl: line 1 \(record 0\): "):
        Documents(paths=[str(tmp_path)], skip_invalid=False).load()


def test_readable_name() -> None:
    assert source.readable_name(Path("my_great--notes.v2.txt")) == "my great notes.v2"
    assert source.readable_name(Path("___.txt")) == "Document"


def test_documents_writes_nothing(tmp_path: Path) -> None:
    folder = filled(tmp_path)
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir())
    for path in folder.iterdir():
        path.chmod(stat.S_IRUSR)
    passages = Documents(paths=[str(folder)]).load()
    assert all(isinstance(p, Passage) for p in passages)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir()) == before
