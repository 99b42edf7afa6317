"""Sets of prompts from files, by the same reader that keeps evaluations out of the corpus."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm.core.errors import UserError
from slm.corpus.decontamination.rows import read_rows
from slm.safety.config import PromptSet


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt; `id` is its number in the file, from 1."""

    set: str
    id: int
    text: str


def read_prompts(config: PromptSet, most: int = 0) -> list[Prompt]:
    """The prompts of a set, or `most` of them at even distances; `UserError` with the place where one is malformed."""
    found = []
    for place, number, row in read_rows(Path(config.path).expanduser(), f"safety: {config.name}"):
        if all(value_of(row, name, place) == wanted for name, wanted in config.where.items()):
            text = row if isinstance(row, str) else value_of(row, config.field, place)
            found.append(Prompt(config.name, number, text.strip()))
    if not found:
        raise UserError(f"safety: {config.name} has no prompt in {config.path}; correct its path or its where")
    return evenly(found, most)


def evenly(prompts: list[Prompt], most: int) -> list[Prompt]:
    """At most so many, at even distances; all for 0."""
    total = len(prompts)
    if not most or most >= total:
        return prompts
    return [prompts[number * total // most] for number in range(most)]


def value_of(row: Any, field: str, place: str) -> str:
    """A field of a record as text."""
    if not isinstance(row, dict) or row.get(field) is None:
        known = ", ".join(map(str, row)) if isinstance(row, dict) else "lines of text"
        raise UserError(f"{place}: no field {field}; name one of {known}")
    return str(row[field])
