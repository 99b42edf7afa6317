"""Plain text files, plain, gzip or zstd: each is one document, or falls into documents at the matches of `separator`.

Files are memory-mapped and split as bytes, so a file larger than memory works and an error names the byte; packed
and remote ones are unpacked, and those of another encoding recoded, onto the disk first. Text is kept as it is: line
ends, control characters and spaces survive; only a byte-order mark at a file's start is dropped, being a signature
and not text, and what stands around the body where `begins_after` and `ends_before` say so.
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


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """The files, whole: where documents begin is known only by reading from a file's start."""
    del unit_bytes
    for found in find_files(config, SUFFIXES):
        yield Piece(
            found.name, found.address, 0, found.size, bytes=found.text_bytes, version=f"{found.size} {found.version}"
        )


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """The documents of each file in turn."""
    for piece in unit.pieces:
        try:
            for number, (offset, content) in enumerate(_pieces(config, piece, rejects)):
                text = rejects.decode(content, piece.address, offset) if content is not None else None
                if text is not None:
                    place = f"{piece.name}:{number}" if config.separator else piece.name
                    yield Document.of(config, place, text, file=piece.name)
        except (EOFError, OSError, ValueError) as error:
            if not is_damage(error):
                raise
            rejects.damaged(piece.address, f"is not whole as {piece.name.rpartition('.')[2]} ({error})")


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _pieces(config: SourceConfig, piece: Piece, rejects: Rejects) -> Iterator[tuple[int, bytes | None]]:
    """The parts of a file's body between matches of the separator, each with its offset; None for a too long one."""
    with on_disk(piece.address) as raw, _recoded(raw, config.encoding, piece, rejects) as stream:
        if stream is None:
            return
        if stream.seek(0, 2) == 0:  # an empty file cannot be mapped
            yield 0, b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            body = _body(config, content, piece, rejects)
            if body is None:
                return
            start, stop = body
            separator = re.compile(config.separator.encode())
            for match in separator.finditer(content, start, stop) if config.separator else ():
                if match.end() > start and not _inside(content, match.start()) and not _inside(content, match.end()):
                    if match.start() > start:
                        yield start, _cut(content, start, match.start(), piece, rejects)
                    start = match.end()
            yield start, _cut(content, start, stop, piece, rejects)


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
def _recoded(raw: IO[bytes], encoding: str, piece: Piece, rejects: Rejects) -> Iterator[IO[bytes] | None]:
    """The file in UTF-8; None for one that is not in `encoding`, refused or counted."""
    if codecs.lookup(encoding).name == "utf-8":  # which is checked piece by piece
        yield raw
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    with tempfile.TemporaryFile() as copy:
        try:
            while block := raw.read(BLOCK_BYTES):
                copy.write(decoder.decode(block).encode())
            copy.write(decoder.decode(b"", True).encode())
        except UnicodeError as error:
            finding = f"is not in encoding {encoding} ({getattr(error, 'reason', error)})"
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
