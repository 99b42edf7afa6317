"""Files of evaluation items, row by row.

In: a .jsonl, .json, .csv, .tsv or .txt file, plain or .gz. Out: each row with its place, for errors, and its number
from 1; a .txt file's rows are its lines. What is missing or malformed is refused with file and place.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm.core.errors import DamagedError, UserError

LINES = (".jsonl", ".ndjson")


def suffix_of(path: Path) -> str:
    """What says how a file is read: its suffix without .gz."""
    return Path(path.name.removesuffix(".gz")).suffix


def read_rows(path: Path, key: str, items: str = "") -> Iterator[tuple[str, int, Any]]:
    """Place, number and content of each row; `key` names the setting, and `items` the path to a .json file's list."""
    text, suffix = _read(path, key), suffix_of(path)
    if suffix == ".txt":
        lines = enumerate(text.splitlines(), 1)
        yield from ((f"{path}:{number}", number, line) for number, line in lines if line.strip())
    elif suffix in LINES:
        lines = enumerate(text.split("\n"), 1)
        yield from (
            (f"{path}:{number}", number, _parsed(line, f"{path}:{number}")) for number, line in lines if line.strip()
        )
    elif suffix == ".json":
        content = _parsed(text, str(path))
        rows = values(content, items.split(".")) if items else content
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{path}: no list of items; say where it is with items, such as data.paragraphs.qas")
        yield from ((f"{path}, item {number}", number, row) for number, row in enumerate(rows, 1))
    elif suffix in (".csv", ".tsv"):
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
        yield from ((f"{path}, row {number}", number, row) for number, row in enumerate(table, 1))
    else:
        raise UserError(
            f"{key}: {path} ends in {suffix or 'nothing'}; give .jsonl, .json, .csv, .tsv or .txt, plain or .gz"
        )


def values(content: Any, parts: list[str]) -> list[Any] | None:
    """What lies at a path, lists gone through; None if nothing does, which an empty list is not."""
    if isinstance(content, list):
        found = [values(item, parts) for item in content]
        present = [one for one in found if one is not None]
        return [value for one in present for value in one] if present or not content else None
    if not parts:
        return [content]
    if isinstance(content, dict) and parts[0] in content:
        return values(content[parts[0]], parts[1:])
    return None


def _read(path: Path, key: str) -> str:
    if not path.is_file():
        raise UserError(
            f"{key} has path {path}, but no such file (looked from {Path.cwd()}); correct the path, or remove "
            "the evaluation"
        )
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError(f"{path} is not whole as gzip ({error}); fetch the file again") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        raise UserError(f"{path}: {found} is not UTF-8; convert it (iconv -f ENCODING -t UTF-8)") from error


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg} at character {error.pos}); correct it") from error
