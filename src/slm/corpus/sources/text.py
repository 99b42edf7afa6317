"""Plain text files, plain, gzip or zstd: each is one document, or falls into documents at the matches of `separator`.

Files are memory-mapped and split as bytes, so a file larger than memory works and an error names the byte; packed
and remote ones are unpacked, and those of another encoding recoded, onto the disk first. Text is kept as it is: line
ends, control characters and spaces survive; only a byte-order mark at a file's start is dropped, being a signature
and not text, and what stands around the body where `begins_after` and `ends_before` say so.

A plain file on this disk falls into ranges of bytes, each read on its own; a document belongs to the range in which
the separator before it begins, and is known by the byte at which it begins itself. Where a separator matches depends
on where the search for it began, so the search begins anew at every multiple of `STRIDE`, whatever the ranges: the
documents are the same for ranges of any size. They are those of one search through the file unless a match crosses
such a border and the expression, begun inside that match, then finds others than it would after it.
"""

from __future__ import annotations

import codecs
import contextlib
import mmap
import re
import tempfile
from collections.abc import Iterator
from typing import IO, Any

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.files import PACKED, files_signature, find_files, is_damage, on_disk
from slm.corpus.units import Piece, Unit

SUFFIXES = tuple(f".{name}{packed}" for name in ("txt", "text", "md", "rst") for packed in ("", *PACKED))
BLOCK_BYTES = 1 << 20
STRIDE = 1 << 16


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """Ranges of the files that can be cut, the others whole."""
    for found in find_files(config, SUFFIXES):
        whole = _is_whole(config, found.address)
        step = max(found.size, 1) if whole else max(unit_bytes // STRIDE, 1) * STRIDE
        for first in range(0, max(found.size, 1), step):
            last = min(first + step, found.size)
            size = found.text_bytes if whole else last - first
            yield Piece(found.name, found.address, first, last, bytes=size, version=f"{found.size} {found.version}")


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """The documents of each piece in turn."""
    for piece in unit.pieces:
        try:
            for offset, content in _contents(config, piece, rejects):
                text = rejects.decode(content, piece.address, offset) if content is not None else None
                if text is not None:
                    place = f"{piece.name}:@{offset}" if config.separator else piece.name
                    yield Document.of(config, place, text, file=piece.name)
        except (EOFError, OSError, ValueError) as error:
            if not is_damage(error):
                raise
            rejects.damaged(piece.address, f"is not whole as {piece.name.rpartition('.')[2]} ({error})")


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _is_whole(config: SourceConfig, address: str) -> bool:
    """Whether a file is one piece: a single document, or known only once it was read from its beginning."""
    from_the_start = config.begins_after or config.ends_before or not _is_utf8(config)
    return not config.separator or bool(from_the_start) or "://" in address or address.endswith(PACKED)


def _is_utf8(config: SourceConfig) -> bool:
    return codecs.lookup(config.encoding).name == "utf-8"


def _contents(config: SourceConfig, piece: Piece, rejects: Rejects) -> Iterator[tuple[int, bytes | None]]:
    """The documents of a piece, each with its offset; None for one that is too long."""
    with on_disk(piece.address) as raw, _recoded(raw, config, piece, rejects) as stream:
        if stream is None:
            return
        if stream.seek(0, 2) == 0:  # an empty file cannot be mapped
            yield 0, b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            body = _body(config, content, piece, rejects)
            if body is None:
                return
            head, stop = body
            last = stop if _is_whole(config, piece.address) else piece.last
            start = head if piece.first == 0 else None
            expression = re.compile(config.separator.encode())
            for begin, end in _separators(content, expression, piece.first, head, stop) if config.separator else ():
                if end > head and not _inside(content, begin) and not _inside(content, end):
                    if start is not None and begin > start:
                        yield start, _cut(content, start, begin, piece, rejects)
                    if begin >= last and last < stop:
                        return
                    start = end
            if start is not None:
                yield start, _cut(content, start, stop, piece, rejects)


def _separators(
    content: mmap.mmap, expression: re.Pattern[bytes], first: int, head: int, stop: int
) -> Iterator[tuple[int, int]]:
    """Where each separator between `head` and `stop` begins and ends, of those that begin at `first` or later.

    The search of one stride finds what begins in it. Of that, what lies inside the last match of the stride before is
    passed over, so one stride has to be searched ahead of the first that counts.
    """
    start, before = max(first - STRIDE, head), 0
    while True:
        border = (start // STRIDE + 1) * STRIDE
        end, following = start, -1
        for match in expression.finditer(content, start, stop):
            if match.start() >= border:
                following = match.start()
                break
            end = match.end()
            if match.start() >= max(first, before):
                yield match.span()
        if end > border:  # what a match reaches into is searched from its own beginning
            start, before = border, end
        elif following >= 0:
            start, before = following // STRIDE * STRIDE, 0
        else:
            return


def _body(config: SourceConfig, content: mmap.mmap, piece: Piece, rejects: Rejects) -> tuple[int, int] | None:
    """Where the text of a file begins and ends; None for one without its marks, refused or counted."""
    start, stop = len(codecs.BOM_UTF8) if content[:3] == codecs.BOM_UTF8 else 0, len(content)
    for key, mark in (("begins_after", config.begins_after), ("ends_before", config.ends_before)):
        found = re.compile(mark.encode()).search(content, start) if mark else None
        if mark and found is None:
            way_out = f"correct the expression, or read the file by a source without {key}"
            rejects.bad("no body", piece.address, f"nothing matches {key} ({mark})", way_out)
            return None
        if found is not None:
            start, stop = (found.end(), stop) if key == "begins_after" else (start, found.start())
    return start, stop


@contextlib.contextmanager
def _recoded(raw: IO[bytes], config: SourceConfig, piece: Piece, rejects: Rejects) -> Iterator[IO[bytes] | None]:
    """The file in UTF-8; None for one that is not in its encoding, refused or counted."""
    if _is_utf8(config):  # which is checked piece by piece
        yield raw
        return
    decoder = codecs.getincrementaldecoder(config.encoding)()
    with tempfile.TemporaryFile() as copy:
        try:
            while block := raw.read(BLOCK_BYTES):
                copy.write(decoder.decode(block).encode())
            copy.write(decoder.decode(b"", True).encode())
        except UnicodeError as error:
            finding = f"is not in encoding {config.encoding} ({getattr(error, 'reason', error)})"
            rejects.bad("wrong encoding", piece.address, finding, "name the right one")
            yield None
            return
        copy.flush()
        yield copy


def _cut(content: mmap.mmap, start: int, stop: int, piece: Piece, rejects: Rejects) -> bytes | None:
    return content[start:stop] if rejects.fits(stop - start, f"{piece.address} at byte {start:,}") else None


def _inside(content: mmap.mmap, offset: int) -> bool:
    """Whether `offset` lies inside a character: where an expression for bytes may match, but no text ends."""
    return offset < len(content) and content[offset] & 0xC0 == 0x80
