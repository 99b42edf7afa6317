"""Stored columns are found by the row's number, without copies; a file that is not its manifest's is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from slm.core.artifact import Artifact
from slm.core.errors import DamagedError
from slm.shards.store import FACTS, StoreReader, write_rows

ROWS, PER_FILE, SEQ_LEN, KEPT = 23, 10, 8, 5


def columns() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 1000, (ROWS, SEQ_LEN, KEPT)).astype(np.uint16)
    return ids, generator.random((ROWS, SEQ_LEN, 1)).astype(np.float16)


@pytest.fixture
def store(tmp_path: Path) -> Artifact:
    ids, values = columns()
    facts: dict[str, Any] = {**dict.fromkeys(FACTS, "x"), "method": "samples", "temperature": 1.0}
    files = [f"rows-{number}.arrow" for number in range(3)]
    for number, name in enumerate(files):
        mine = slice(number * PER_FILE, (number + 1) * PER_FILE)
        write_rows(tmp_path / name, ids[mine], values[mine], facts)
    counts = {**facts, "files": files, "rows": ROWS, "rows_per_file": PER_FILE, "vocab_size": 1000, "seq_len": SEQ_LEN}
    return Artifact(tmp_path, {"counts": counts, "files": dict.fromkeys(files)})


def altered(store: Artifact, **counts: object) -> Artifact:
    manifest = json.loads(json.dumps(store.manifest))
    manifest["counts"].update(counts)
    return Artifact(store.path, manifest)


def test_rows_come_in_the_order_asked_for(store: Artifact) -> None:
    ids, values = columns()
    order = np.random.default_rng(1).permutation(ROWS)
    found = StoreReader(store).rows(order)
    assert np.array_equal(found.ids_BTK.numpy(), ids[order])
    assert np.array_equal(found.values_BTF.numpy(), values[order].astype(np.float32))
    assert found.sampled


def test_opening_copies_nothing(store: Artifact) -> None:
    before = pa.total_allocated_bytes()
    reader = StoreReader(store)
    assert pa.total_allocated_bytes() - before < 1_000
    assert reader.rows([3]).ids_BTK.shape == (1, SEQ_LEN, KEPT)


@pytest.mark.parametrize("keep", [0, 600, -20])
def test_a_truncated_file_is_named(store: Artifact, keep: int) -> None:
    path = store.path / "rows-1.arrow"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError, match=r"rows-1\.arrow is not readable as an Arrow file .*make it again"):
        StoreReader(store)


@pytest.mark.parametrize("key", [*FACTS, "seq_len"])
def test_a_file_of_another_teacher_tokenizer_or_template_is_refused(store: Artifact, key: str) -> None:
    other = 4 if key == "seq_len" else "another"
    with pytest.raises(DamagedError, match=rf"rows-0\.arrow was written with {key} \S+, but its manifest says {other}"):
        StoreReader(altered(store, **{key: other}))


def test_a_token_beyond_the_vocabulary_and_missing_rows_are_refused(store: Artifact) -> None:
    with pytest.raises(DamagedError, match=r"rows-0\.arrow is damaged: it holds token \d+, but .* ends at 99"):
        StoreReader(altered(store, vocab_size=100)).rows([0])
    with pytest.raises(DamagedError, match=r"holds 23 rows, its manifest says 24"):
        StoreReader(altered(store, rows=24))
