"""What a pass over the documents finds, against plain counting."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from slm.core.artifact import Artifact, Spec, create, open_artifact
from slm.corpus.config import CorpusConfig
from slm.report.scan import EXCERPT_CHARACTERS, EXCERPTS_PER_SOURCE, scan


def write(path: Path, rows: list[dict[str, str]], held_out: int) -> Artifact:
    """A corpus of these documents, the last `held_out` of them for validation."""
    parts = {"train": rows[: len(rows) - held_out], "validation": rows[len(rows) - held_out :]}
    columns = ("text", "id", "source", "licence", "origin", "metadata")
    with create(path, Spec("corpus", CorpusConfig())) as draft:
        for split, part in parts.items():
            table = pa.table({name: pa.array([row[name] for row in part], pa.string()) for name in columns})
            pq.write_table(table, draft.path / f"{split}-00000.parquet")
            draft.counts[split] = {"documents": len(part), "bytes": sum(len(row["text"].encode()) for row in part)}
    return open_artifact(path)


def row(number: int, text: str, source: str = "books", licence: str = "CC0-1.0", **metadata: str) -> dict[str, str]:
    return {
        "text": text, "id": f"{source}/{number}", "source": source, "licence": licence, "origin": "a shelf",
        "metadata": json.dumps(metadata),
    }  # fmt: skip


def test_documents_are_counted_by_language_licence_and_length(tmp_path: Path) -> None:
    rows = [
        row(0, "é" * 4, language="fr"),
        row(1, "x" * 7, language="en"),
        row(2, "y" * 8, licence="MIT", language="en"),
        row(3, "z" * 1000, source="code", licence=""),
    ]
    found = scan(write(tmp_path / "corpus", rows, held_out=1))
    counted = {
        kind: {name: (group.documents, group.bytes) for name, group in groups.items()}
        for kind, groups in (("languages", found.languages), ("licences", found.licences))
    }
    assert counted == {
        "languages": {"fr": (1, 8), "en": (2, 15), "not recorded": (1, 1000)},
        "licences": {"CC0-1.0": (2, 15), "MIT": (1, 8), "not recorded": (1, 1000)},
    }
    assert found.lengths == {3: 1, 4: 2, 10: 1}
    assert (found.shortest, found.longest) == (7, 1000)


def test_excerpts_do_not_depend_on_the_order_of_documents(tmp_path: Path) -> None:
    rows = [row(number, f"{number} " * 400, source=source) for number in range(300) for source in ("books", "code")]
    one = scan(write(tmp_path / "one", rows, held_out=5)).excerpts
    random.Random(0).shuffle(rows)
    other = scan(write(tmp_path / "other", rows, held_out=50)).excerpts
    assert sorted(one, key=lambda item: item.id) == sorted(other, key=lambda item: item.id)
    assert [item.source for item in one] == ["books"] * EXCERPTS_PER_SOURCE + ["code"] * EXCERPTS_PER_SOURCE
    assert all(len(item.text) == EXCERPT_CHARACTERS < item.characters for item in one)
