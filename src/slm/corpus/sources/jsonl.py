"""JSON Lines, plain or gzip: one object a line, the text in `text_column`, read line by line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.files import Found, files_signature, find_files

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json.gz")


def read(config: SourceConfig, rejects: Rejects) -> Iterator[Document]:
    """One document a line; a line that is not an object, or lacks a column, is refused with file and line."""
    for found in find_files(config, SUFFIXES):
        for number, offset, line in _lines(found):
            place = f"{found.path}:{number}"
            content = rejects.decode(line, place, offset)
            if content is None:
                continue
            if not content.strip():
                rejects.skip("empty")
                continue
            row = _object(content, place)
            text = _column(row, config.text_column, "text_column", place)
            if not isinstance(text, str):
                raise UserError(
                    f"{place}: {config.text_column} holds {type(text).__name__}, not text; correct the line, or name "
                    f"another column with text_column (the line has {', '.join(row)})"
                )
            if rejects.encodable(text, place):
                name = str(_column(row, config.id_column, "id_column", place)) if config.id_column else f":{number}"
                identity = name if config.id_column else f"{found.name}{name}"
                yield Document.of(config, identity, text, file=found.name)


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _lines(found: Found) -> Iterator[tuple[int, int, bytes]]:
    """Line number, offset in the (unpacked) file and content of each line."""
    offset = 0
    try:
        with _opened(found) as stream:
            for number, line in enumerate(stream, 1):
                yield number, offset, line
                offset += len(line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError(
            f"{found.path} is not whole as gzip after {offset:,} unpacked bytes ({error}); fetch the file again"
        ) from error


def _opened(found: Found) -> BinaryIO:
    if found.name.endswith(".gz"):
        return cast("BinaryIO", gzip.open(found.path, "rb"))
    return found.path.open("rb")


def _object(content: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not JSON ({error.msg} at character {error.pos}, {content[:40].strip()!r}); correct or delete "
            "the line"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: holds a {type(row).__name__}, but each line must be an object; correct the line")
    return row


def _column(row: dict[str, Any], name: str, key: str, place: str) -> Any:
    if name not in row:
        raise UserError(f"{place}: no column {name}; name one of {', '.join(row) or 'none'} with {key}")
    return row[name]
