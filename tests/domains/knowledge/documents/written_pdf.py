"""PDF files for tests: pages of lines of Helvetica, written by hand."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

from pypdf import PdfReader, PdfWriter


def pdf_of(pages: Sequence[Sequence[str]], title: str | None = None, packed: bool = True) -> bytes:
    """A file with these lines on its pages, from the top."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    kids = []
    for lines in pages:
        shown = "".join(f"({_escaped(line)}) Tj 0 -14 Td\n" for line in lines)
        content = f"BT /F1 11 Tf 50 780 Td\n{shown}ET".encode("cp1252")
        objects.append(stream(content, packed))
        kids.append(len(objects) + 1)
        resources = b"<< /Font << /F1 3 0 R >> >>"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources %b /Contents %d 0 R >>"
            % (resources, len(objects))
        )
    refs = b" ".join(b"%d 0 R" % kid for kid in kids)
    objects[1] = b"<< /Type /Pages /Kids [%b] /Count %d >>" % (refs, len(kids))
    if title is not None:
        objects.append(b"<< /Title (%b) >>" % _escaped(title).encode("cp1252"))
    return assembled(objects, len(objects) if title is not None else None)


def stream(content: bytes, packed: bool = True) -> bytes:
    """A stream object."""
    data = zlib.compress(content) if packed else content
    filters = b"/Filter /FlateDecode " if packed else b""
    return b"<< %b/Length %d >>\nstream\n%b\nendstream" % (filters, len(data), data)


def assembled(objects: Sequence[bytes], info: int | None = None) -> bytes:
    """A file of these objects, the catalog first."""
    out, places = bytearray(b"%PDF-1.7\n"), []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    told = b" /Info %d 0 R" % info if info is not None else b""
    out += b"trailer\n<< /Size %d /Root 1 0 R%b >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, told, start)
    return bytes(out)


def with_outline(content: bytes, entries: Sequence[tuple[str, int, int]]) -> bytes:
    """The file with bookmarks: (title, page counted from 0, index of the parent or -1)."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    made: list[object] = []
    for title, page, parent in entries:
        made.append(writer.add_outline_item(title, page, parent=made[parent] if parent >= 0 else None))
    return _written(writer)


def encrypted(content: bytes, user: str, algorithm: str = "RC4-128") -> bytes:
    """The file behind a password."""
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt(user_password=user, owner_password="owner", algorithm=algorithm)
    return _written(writer)


def _written(writer: PdfWriter) -> bytes:
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
