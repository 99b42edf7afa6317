"""Files of evaluation items to the texts that must not be trained on.

In: a file (.jsonl, .json, .csv, .txt, plain or .gz) and the fields that count. Out: items, each with an id and its
texts, in file order. A file that is missing or malformed, or an item without a field, is refused with file and
place: an evaluation that is silently not looked for is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm.core.errors import UserError
from slm.corpus.decontamination.config import GOLDEN, BenchmarkConfig
from slm.corpus.decontamination.rows import read_rows, suffix_of, values

KEY = "corpus.decontamination.against"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation: each of its texts counts on its own."""

    id: str
    texts: tuple[str, ...]


def read_items(config: BenchmarkConfig) -> Iterator[Item]:
    """The items of one evaluation; `UserError` naming file and place where it is malformed."""
    path = Path(config.path).expanduser()
    key = f"{KEY}: {config.name}"
    if suffix_of(path) == ".txt":
        if config.fields or config.id_field:
            raise UserError(f"{KEY}: {config.name} is a .txt file, whose items are lines; remove fields and id_field")
    elif not config.fields:
        raise UserError(f"{KEY}: {config.name} names no fields; name those whose text must not be trained on")
    remove = re.compile(config.remove) if config.remove else None
    count = 0
    for place, number, row in read_rows(path, key, config.items):
        texts = [row] if isinstance(row, str) else [text for name in config.fields for text in _texts(row, name, place)]
        name = next(iter(_texts(row, config.id_field, place)), str(number)) if config.id_field else str(number)
        count += 1
        yield Item(name, tuple(remove.sub("", text) if remove else text for text in texts))
    if not count:
        key = "evaluate.golden" if config.name == GOLDEN else f"{KEY}: {config.name}"
        raise UserError(f"{key} has no item in {path}; correct the path, or remove it")


def _texts(row: Any, field: str, place: str) -> Iterator[str]:
    """The texts at a dotted field, lists gone through; a field that is not there is refused."""
    found = values(row, field.split("."))
    if found is None:
        known = ", ".join(map(str, row)) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise UserError(f"{place}: no field {field}; name one of {known}")
    for value in found:
        if not isinstance(value, str | int | float | None):
            raise UserError(f"{place}: {field} holds {type(value).__name__}, not text; name a field inside it")
        if value is not None:
            yield str(value)
