"""The items of a task file, each with a stable id, and which of them the corpus is known not to hold.

In: a `TaskConfig` and the corpus. Out: items in file order, or `max_items` of them at even distances. An id is what
`id_field` names, else a hash of prompt and choices, so it survives reordering the file. An item is clean if the corpus
was checked for it and held it nowhere (`contamination.json`), contaminated if it was found, and neither if nobody
looked or it is too short to be told from common phrases.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.corpus.decontamination.report import FILE, clean_items
from slm.corpus.decontamination.rows import read_rows
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.layouts import LAYOUTS, Item

KEY = "evaluate.task_files"
LISTS = {"squad": "data.paragraphs"}
"""Where the rows of a .json file are."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """An item with its name."""

    id: str
    item: Item
    clean: bool | None


def read(config: TaskConfig, corpus: Artifact | None) -> list[Numbered]:
    """The items that the task takes."""
    found = _items(config, "path")
    items = [item for _, item in found]
    if not items:
        raise UserError(f"{KEY}: {config.name} has no item in {config.path}; correct the path, or remove the task")
    names = [_given_id(config, item) for item in items]
    ids = names if config.id_field else [prompt_hash(item) for item in items]
    seen: set[str] = set()
    for number, one in enumerate(ids):
        if one in seen and config.id_field:
            raise UserError(f"{KEY}: {config.name}: two items have {config.id_field} {one}; name another id_field")
        while ids[number] in seen:  # the same item again
            ids[number] += "+"
        seen.add(ids[number])
    clean = cleanliness(corpus, config.name)
    keys = names if config.id_field else [str(number) for number, _ in found]
    most = config.max_items or len(items)
    return [
        Numbered(one, item, clean.get(key))
        for number, (one, item, key) in enumerate(zip(ids, items, keys, strict=True))
        if most >= len(items) or (number + 1) * most // len(items) > number * most // len(items)
    ]


def few_shot(config: TaskConfig) -> str:
    """The solved examples that stand in front of each item."""
    if not config.few_shot:
        return ""
    found = [item for _, item in _items(config, "examples")[: config.few_shot]]
    if len(found) < config.few_shot:
        raise UserError(
            f"{KEY}: {config.name}: few_shot ({config.few_shot}) asks for more examples than {config.examples} holds "
            f"({len(found)}); lower it"
        )
    return "".join(f"{one.prompt}{one.choices[one.gold] if one.choices else one.answers[0]}\n\n" for one in found)


def prompt_hash(item: Item) -> str:
    """A name for an item without one."""
    content = json.dumps([item.prompt, item.choices], ensure_ascii=False)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def cleanliness(corpus: Artifact | None, task: str) -> dict[str, bool]:
    """Of each item by its name in `contamination.json`, whether it is clean; nothing of those not looked for."""
    if corpus is None:
        return {}
    clean = clean_items(corpus, task)
    if clean is None:
        return {}
    report = json.loads(corpus.file(FILE).read_text(encoding="utf-8"))["evaluations"][task]
    return {**dict.fromkeys(clean, True), **dict.fromkeys(report["hits"], False)}


def _items(config: TaskConfig, which: str) -> Sequence[tuple[int, Item]]:
    """Items with their number in the file, from 1, under which decontamination knows one without an id."""
    path = Path(getattr(config, which)).expanduser()
    rows = read_rows(path, f"{KEY}: {config.name}", LISTS.get(config.layout, ""))
    read_row = LAYOUTS[config.layout]
    found = [
        (number, replace(item, prompt=config.prefix + item.prompt) if config.prefix else item)
        for place, number, row in rows
        for item in read_row(row, place, config.language)
    ]
    if config.layout in LISTS:  # a row holds several items, and they are what is counted
        return [(number, item) for number, (_, item) in enumerate(found, 1)]
    return found


def _given_id(config: TaskConfig, item: Item) -> str:
    fields = item.fields or {}
    if config.id_field and config.id_field not in fields:
        raise UserError(f"{KEY}: {config.name}: an item has no field {config.id_field}; correct id_field or the file")
    return str(fields.get(config.id_field, ""))
