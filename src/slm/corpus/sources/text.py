"""Plain text files, plain, gzip or zstd: each is one document, or falls into documents at the matches of `separator`.

Files are memory-mapped and split as bytes, so a file larger than memory works and an error names the byte; packed
and remote ones are unpacked onto the disk first. Text is kept as it is: line ends, control characters and spaces
survive; only a byte-order mark at a file's start is dropped, being a signature and not text.
"""

from __future__ import annotations

import codecs
import mmap
import re
from collections.abc import Iterator
from typing import Any

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.files import PACKED, files_signature, find_files, is_damage, on_disk
from slm.corpus.units import Piece, Unit

SUFFIXES = tuple(f".{name}{packed}" for name in ("txt", "text", "md", "rst") for packed in ("", *PACKED))


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
            for number, (offset, content) in enumerate(_pieces(piece, config.separator, rejects)):
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


def _pieces(piece: Piece, separator: str, rejects: Rejects) -> Iterator[tuple[int, bytes | None]]:
    """The parts of a file between matches of `separator`, each with its offset; None for one that is too long."""
    with on_disk(piece.address) as stream:
        if stream.seek(0, 2) == 0:  # an empty file cannot be mapped
            yield 0, b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = len(codecs.BOM_UTF8) if content[:3] == codecs.BOM_UTF8 else 0
            for match in re.finditer(separator.encode(), content) if separator else ():
                if match.end() > start and not _inside(content, match.start()) and not _inside(content, match.end()):
                    if match.start() > start:
                        yield start, _cut(content, start, match.start(), piece, rejects)
                    start = match.end()
            yield start, _cut(content, start, len(content), piece, rejects)


def _cut(content: mmap.mmap, start: int, stop: int, piece: Piece, rejects: Rejects) -> bytes | None:
    return content[start:stop] if rejects.fits(stop - start, f"{piece.address} at byte {start:,}") else None


def _inside(content: mmap.mmap, offset: int) -> bool:
    """Whether `offset` lies inside a character: where an expression for bytes may match, but no text ends."""
    return offset < len(content) and content[offset] & 0xC0 == 0x80
