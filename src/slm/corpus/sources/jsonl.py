"""JSON Lines, plain, gzip or zstd: one object a line, the text in `text_columns`, read line by line.

A plain file falls into ranges of bytes; a line belongs to the range in which it begins. Documents are known by the
byte at which their line begins, unpacked, since counting lines would mean reading what is before; where a person has to
look is said by line in the first range of a file and by byte in later ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.files import PACKED, files_signature, find_files, is_damage, unpacked
from slm.corpus.sources.rows import document_of
from slm.corpus.units import Piece, Unit

SUFFIXES = (
    ".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst", ".json.gz", ".json.zst",
)  # fmt: skip
LINE_GROWTH, LINE_MORE_BYTES = 2, 1 << 20
"""A line may be so many times as long as the longest document (escapes), and so much more (other columns)."""

ARRAY = "if the file is one JSON array, make lines of it: jq -c '.[]' array.json > lines.jsonl"


class Line(NamedTuple):
    """A line, where a person finds it, and the byte at which it begins."""

    content: bytes
    place: str
    offset: int


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """Ranges of bytes of plain files, packed ones whole."""
    for found in find_files(config, SUFFIXES):
        step = max(found.size, 1) if found.name.endswith(PACKED) else unit_bytes
        for first in range(0, max(found.size, 1), step):
            last = min(first + step, found.size)
            size = found.text_bytes if found.name.endswith(PACKED) else last - first
            yield Piece(found.name, found.address, first, last, bytes=size, version=f"{found.size} {found.version}")


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """One document a line; a line that is not an object, or lacks a column, is refused with file and line."""
    for piece in unit.pieces:
        for line in _lines(piece, rejects):
            content = rejects.decode(line.content, line.place, line.offset)
            if content is None:
                continue
            if not content.strip():
                rejects.skip("empty", line.place)
                continue
            row = _object(content, line.place, rejects)
            if row is None:
                continue
            document = document_of(config, row, f"{piece.name}:@{line.offset}", line.place, rejects, file=piece.name)
            if document is not None:
                yield document


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _lines(piece: Piece, rejects: Rejects) -> Iterator[Line]:
    """The lines that begin in a piece; one that is too long for any document is passed over without being held."""
    packed = piece.name.endswith(PACKED)
    limit = rejects.limit_bytes * LINE_GROWTH + LINE_MORE_BYTES
    offset = number = 0
    try:
        with unpacked(piece.address) as stream:
            if piece.first:
                offset = stream.seek(piece.first - 1)
                offset += _pass_over(stream)
            while packed or offset < piece.last:
                content = stream.readline(limit)
                if not content:
                    return
                number += 1
                place = f"{piece.address} from byte {offset:,}" if piece.first else f"{piece.address}:{number}"
                if len(content) == limit and not content.endswith(b"\n"):
                    length = limit + _pass_over(stream)
                    rejects.fits(length, place)
                else:
                    length = len(content)
                    yield Line(content, place, offset)
                offset += length
    except (EOFError, OSError, ValueError) as error:
        if not is_damage(error):
            raise
        kind = piece.name.rpartition(".")[2] if packed else "text"
        rejects.damaged(piece.address, f"is not whole as {kind} after {offset:,} unpacked bytes ({error})")


def _pass_over(stream: Any) -> int:
    """Read to the end of a line; returns the bytes passed over."""
    passed = 0
    while content := stream.readline(1 << 20):
        passed += len(content)
        if content.endswith(b"\n"):
            break
    return passed


def _object(content: str, place: str, rejects: Rejects) -> dict[str, Any] | None:
    try:
        row = json.loads(content)
    except json.JSONDecodeError as error:
        found = f"not JSON ({error.msg} at character {error.pos}, {content[:40].strip()!r})"
        rejects.bad("not JSON", place, found, ARRAY if content.startswith("[") else "correct or delete the line")
        return None
    except RecursionError:
        rejects.bad("not JSON", place, "nested too deeply", "correct or delete the line")
        return None
    if not isinstance(row, dict):
        found = f"holds a {type(row).__name__}, but each line must be an object"
        rejects.bad("not JSON", place, found, ARRAY if isinstance(row, list) else "correct the line")
        return None
    return row
