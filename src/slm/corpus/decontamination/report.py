"""What decontamination found: added up over the parts of a corpus, and written beside it.

In: findings of each part, in the order of parts. Out: `contamination.json`:

    {"entries": ..., "memory_bytes": ..., "documents": {"checked": ..., "dropped": ..., "cut": ...},
     "evaluations": {"gsm8k": {"items": 1319, "unchecked": 12, "found": 3,
        "hits": {"7": {"documents": 2, "example": {"document": ..., "character": ..., "text": ...}}},
        "clean_items": ["1", "2", ...]}}}

An item is found if a document that was read held it, whatever became of the document; clean if it was looked for
and in none; unchecked if it is too short to be told from common phrases. A score on the clean items beside that on
all says how much contamination could have helped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slm.core.artifact import Artifact
from slm.core.console import say, table
from slm.corpus.decontamination.index import Index

FILE = "contamination.json"


@dataclass(slots=True)
class Findings:
    """What one process found; plain JSON values both ways, so that parts can be added up."""

    documents: int = 0
    dropped: int = 0
    cut: int = 0
    hits: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def add(self, evaluation: str, item: str, document_id: str, character: int, text: str) -> None:
        """A document holds an item; the first example of an item stays."""
        example = {"document": document_id, "character": character, "text": text}
        record = self.hits.setdefault(evaluation, {}).setdefault(item, {"documents": 0, "example": example})
        record["documents"] += 1

    def record(self) -> dict[str, Any]:
        """Plain JSON values; `Findings(**record)` gives the findings back."""
        return {name: getattr(self, name) for name in Findings.__slots__}

    @staticmethod
    def together(parts: Iterable[Findings]) -> Findings:
        """The sums of several, with the first example of each item."""
        total = Findings()
        for part in parts:
            total.documents += part.documents
            total.dropped += part.dropped
            total.cut += part.cut
            for evaluation, items in part.hits.items():
                for item, record in items.items():
                    known = total.hits.setdefault(evaluation, {}).setdefault(item, {**record, "documents": 0})
                    known["documents"] += record["documents"]
        return total


def write_report(folder: Path, index: Index, found: Findings) -> dict[str, Any]:
    """Write `contamination.json` into `folder`; returns the counts for the manifest."""
    evaluations = {}
    for benchmark in index.benchmarks:
        hits = found.hits.get(benchmark.name, {})
        checked = [item for number, item in enumerate(benchmark.ids) if number not in benchmark.unchecked]
        evaluations[benchmark.name] = {
            "items": len(benchmark.ids),
            "unchecked": len(benchmark.unchecked),
            "found": len(hits),
            "hits": hits,
            "clean_items": [item for item in checked if item not in hits],
        }
    documents = {"checked": found.documents, "dropped": found.dropped, "cut": found.cut}
    report = {
        "ngram_words": index.ngram_words, "min_words": index.min_words, "entries": len(index),
        "memory_bytes": index.memory_bytes, "documents": documents, "evaluations": evaluations,
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    short = ("items", "unchecked", "found")
    counts = {name: {key: one[key] for key in short} for name, one in evaluations.items()}
    if counts:
        rows = [(name, *one.values()) for name, one in counts.items()]
        title = f"Decontamination: {found.documents:,} documents read, {found.dropped:,} dropped, {found.cut:,} cut"
        table(title, ("evaluation", "items", "too short to check", "found"), rows)
    for name, one in counts.items():
        if one["items"] == one["unchecked"]:  # golden prompts may be short: they are asked for, and not text
            say(
                f"corpus: nothing of {name} was looked for: none of its {one['items']:,} items has "
                f"corpus.decontamination.min_words ({index.min_words}) words"
            )
    return {**documents, "entries": len(index), "evaluations": counts}


def clean_items(corpus: Artifact, evaluation: str) -> frozenset[str] | None:
    """Ids of the items that no document of the corpus held; None if it was not checked for this evaluation."""
    if FILE not in corpus.manifest["files"]:
        return None
    report = json.loads(corpus.file(FILE).read_text(encoding="utf-8"))["evaluations"].get(evaluation)
    return None if report is None else frozenset(report["clean_items"])
