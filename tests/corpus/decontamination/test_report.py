from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slm.core.artifact import Draft, Spec, make
from slm.corpus.decontamination.benchmarks import Item
from slm.corpus.decontamination.config import DecontaminationConfig
from slm.corpus.decontamination.index import Index
from slm.corpus.decontamination.report import Findings, clean_items, write_report

TEXT = " ".join(f"word{number}" for number in range(13))


def findings(*documents: str, evaluation: str = "test", item: str = "a") -> Findings:
    found = Findings(documents=5, dropped=len(documents))
    for document in documents:
        found.add(evaluation, item, document, 3, "the text")
    return found


def test_findings_of_parts_add_up_and_the_first_example_stays() -> None:
    parts = [findings("1", "2"), findings("3"), findings("4", item="b"), findings("5", evaluation="other")]
    total = Findings.together(Findings(**json.loads(json.dumps(part.record()))) for part in parts)
    assert (total.documents, total.dropped) == (20, 5)
    assert {name: {item: one["documents"] for item, one in items.items()} for name, items in total.hits.items()} == {
        "test": {"a": 3, "b": 1}, "other": {"a": 1},
    }  # fmt: skip
    assert total.hits["test"]["a"]["example"]["document"] == "1"
    assert parts[0].hits["test"]["a"]["documents"] == 2, "parts are left as they were"


def index() -> Index:
    items = [Item("a", (TEXT,)), Item("b", ("short",)), Item("c", (TEXT[::-1],))]
    return Index([("test", items), ("empty", [Item("x", ("yes",))])], 13, 8)


def test_the_report_says_what_was_found_and_what_is_clean(tmp_path: Path) -> None:
    counts = write_report(tmp_path, index(), findings("1", "2"))
    report = json.loads((tmp_path / "contamination.json").read_text())
    assert report["evaluations"]["test"] == {
        "items": 3, "unchecked": 1, "found": 1,
        "hits": {"a": {"documents": 2, "example": {"document": "1", "character": 3, "text": "the text"}}},
        "clean_items": ["c"],
    }  # fmt: skip
    assert report["documents"] == {"checked": 5, "dropped": 2, "cut": 0}
    assert report["entries"] == len(index())
    assert counts["evaluations"] == {
        "test": {"items": 3, "unchecked": 1, "found": 1}, "empty": {"items": 1, "unchecked": 1, "found": 0},
    }  # fmt: skip


def corpus(folder: Path, *, with_report: bool) -> Any:
    def build(draft: Draft) -> None:
        (draft.path / "train.txt").write_text("text")
        if with_report:
            write_report(draft.path, index(), findings("1"))

    return make(folder, Spec("corpus", DecontaminationConfig()), build)


def test_clean_items_are_read_back_from_the_corpus(tmp_path: Path) -> None:
    made = corpus(tmp_path / "with", with_report=True)
    assert clean_items(made, "test") == {"c"}
    assert clean_items(made, "empty") == set()
    assert clean_items(made, "not looked for") is None
    assert clean_items(corpus(tmp_path / "without", with_report=False), "test") is None
