"""Files of evaluation items to the texts that must not be trained on.

In: a file (.jsonl, .json, .csv, .txt, plain or .gz) and the fields that count. Out: items, each with an id and its
texts, in file order. A file that is missing or malformed, or an item without a field, is refused with file and
place: an evaluation that is silently not looked for is worse than none.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm.core.errors import DamagedError, UserError
from slm.corpus.decontamination.config import GOLDEN, BenchmarkConfig

LINES = (".jsonl", ".ndjson")
KEY = "corpus.decontamination.against"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation: each of its texts counts on its own."""

    id: str
    texts: tuple[str, ...]


def read_items(config: BenchmarkConfig) -> Iterator[Item]:
    """The items of one evaluation; `UserError` naming file and place where it is malformed."""
    path = Path(config.path).expanduser()
    text = _read(path, config.name)
    rows: Iterator[tuple[str, int, Any]]
    suffix = Path(path.name.removesuffix(".gz")).suffix
    if suffix == ".txt":
        if config.fields or config.id_field:
            raise UserError(f"{KEY}: {config.name} is a .txt file, whose items are lines; remove fields and id_field")
        rows = ((f"{path}:{number}", number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
    elif not config.fields:
        raise UserError(f"{KEY}: {config.name} names no fields; name those whose text must not be trained on")
    else:
        rows = _records(path, text, suffix, config)
    remove = re.compile(config.remove) if config.remove else None
    count = 0
    for place, number, row in rows:
        texts = [row] if isinstance(row, str) else [text for name in config.fields for text in _texts(row, name, place)]
        name = next(iter(_texts(row, config.id_field, place)), str(number)) if config.id_field else str(number)
        count += 1
        yield Item(name, tuple(remove.sub("", text) if remove else text for text in texts))
    if not count:
        key = "evaluate.golden" if config.name == GOLDEN else f"{KEY}: {config.name}"
        raise UserError(f"{key} has no item in {path}; correct the path, or remove it")


def _read(path: Path, name: str) -> str:
    if not path.is_file():
        raise UserError(
            f"{KEY}: {name} has path {path}, but no such file (looked from {Path.cwd()}); correct the path, or remove "
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


def _records(path: Path, text: str, suffix: str, config: BenchmarkConfig) -> Iterator[tuple[str, int, Any]]:
    """Place, number and content of each record."""
    if suffix in LINES:
        lines = enumerate(text.split("\n"), 1)
        yield from (
            (f"{path}:{number}", number, _parsed(line, f"{path}:{number}")) for number, line in lines if line.strip()
        )
    elif suffix == ".json":
        content = _parsed(text, str(path))
        rows = _values(content, config.items.split(".")) if config.items else content
        if not isinstance(rows, list) or not rows:
            raise UserError(f"{path}: no list of items; say where it is with items, such as data.paragraphs.qas")
        yield from ((f"{path}, item {number}", number, row) for number, row in enumerate(rows, 1))
    elif suffix in (".csv", ".tsv"):
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
        yield from ((f"{path}, row {number}", number, row) for number, row in enumerate(table, 1))
    else:
        raise UserError(
            f"{KEY}: {path} ends in {suffix or 'nothing'}; give .jsonl, .json, .csv, .tsv or .txt, plain or .gz"
        )


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error.msg} at character {error.pos}); correct it") from error


def _texts(row: Any, field: str, place: str) -> Iterator[str]:
    """The texts at a dotted field, lists gone through; a field that is not there is refused."""
    values = _values(row, field.split("."))
    if values is None:
        known = ", ".join(map(str, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise UserError(f"{place}: no field {field}; name one of {known}")
    for value in values:
        if not isinstance(value, str | int | float | None):
            raise UserError(f"{place}: {field} holds {type(value).__name__}, not text; name a field inside it")
        if value is not None:
            yield str(value)


def _values(content: Any, parts: list[str]) -> list[Any] | None:
    """What lies at a path; None if nothing does, which an empty list is not."""
    if isinstance(content, list):
        found = [_values(item, parts) for item in content]
        present = [values for values in found if values is not None]
        return [value for values in present for value in values] if present or not content else None
    if not parts:
        return [content]
    if isinstance(content, dict) and parts[0] in content:
        return _values(content[parts[0]], parts[1:])
    return None
