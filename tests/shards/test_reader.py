"""Rows come from mapped files without copies; damage is a sentence that names the file."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from slm.core.artifact import Artifact
from slm.core.errors import DamagedError, UserError
from slm.shards.reader import ShardReader


def altered(artifact: Artifact, **counts: object) -> Artifact:
    """The artifact as another manifest would describe it."""
    manifest = json.loads(json.dumps(artifact.manifest))
    manifest["counts"].update(counts)
    return Artifact(artifact.path, manifest)


def test_rows_equal_those_that_pyarrow_reads(make_shards, documents):
    artifact = make_shards({"a": documents(200), "b": documents(90, seed=1)}, rows_per_file=33)
    reader = ShardReader(artifact, "train")
    names = [name for files in artifact.counts["files"]["train"].values() for name in files]
    table = pa.concat_tables([pa.ipc.open_file(str(artifact.path / name)).read_all() for name in names])
    indices = np.random.default_rng(0).permutation(reader.num_rows)[:100]
    tokens, lengths = reader.rows(indices)
    assert tokens.tolist() == [table["tokens"][int(index)].as_py() for index in indices]
    assert [counts.tolist() for counts in lengths] == [table["lengths"][int(index)].as_py() for index in indices]
    assert reader.num_rows == table.num_rows
    assert list(reader.ranges) == ["a", "b"]
    assert reader.ranges["b"].stop == reader.num_rows


def test_opening_copies_no_tokens(make_shards, documents):
    before = pa.total_allocated_bytes()
    reader = ShardReader(make_shards({"a": documents(2_000)}), "train")
    assert reader.num_rows > 1_000
    assert pa.total_allocated_bytes() - before < 10_000


def test_no_rows_are_no_rows(make_shards, documents):
    reader = ShardReader(make_shards({"a": documents(10)}), "validation")
    assert reader.num_rows == 0
    tokens, lengths = reader.rows([])
    assert tokens.shape == (0, 16)
    assert lengths == []


def test_a_row_that_is_not_there_is_an_error(make_shards, documents):
    reader = ShardReader(make_shards({"a": documents(10)}), "train")
    with pytest.raises(IndexError, match=f"there are {reader.num_rows}"):
        reader.rows([reader.num_rows])


@pytest.mark.parametrize("keep", [0, 10, 600, -40])
def test_a_truncated_file_is_named(make_shards, documents, keep):
    artifact = make_shards({"a": documents(50)})
    path = artifact.file("train-a-00000.arrow")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedError, match=r"train-a-00000\.arrow is not readable as an Arrow file .*make them again"):
        ShardReader(artifact, "train")


def test_an_id_beyond_the_vocabulary_is_refused(make_shards, documents):
    artifact = make_shards({"a": documents(50)})
    reader = ShardReader(altered(artifact, vocab_size=900), "train")
    with pytest.raises(DamagedError, match=r"train-a-00000\.arrow is damaged: it holds token 9\d\d, .* ends at 899"):
        reader.rows(range(reader.num_rows))


def test_lengths_that_exceed_the_row_are_refused(make_shards, documents):
    artifact = make_shards({"a": documents(50)})
    path = artifact.file("train-a-00000.arrow")
    table = pa.ipc.open_file(str(path)).read_all()
    wrong = pa.array([[*row, 99] for row in table["lengths"].to_pylist()], pa.list_(pa.int32()))
    schema = table.schema
    with pa.ipc.new_file(str(path), schema) as file:
        file.write_table(table.set_column(1, "lengths", wrong).replace_schema_metadata(schema.metadata))
    with pytest.raises(DamagedError, match=r"train-a-00000\.arrow is damaged: the documents of a row take 1\d\d of 16"):
        ShardReader(artifact, "train").rows([0])


def test_a_file_of_another_tokenizer_is_refused(make_shards, documents):
    artifact = altered(make_shards({"a": documents(50)}), tokenizer_hash="cd" * 32)
    with pytest.raises(UserError, match=r"was written with tokenizer_hash abab.*, but its manifest says cdcd"):
        ShardReader(artifact, "train")


def test_missing_rows_are_noticed(make_shards, documents):
    artifact = make_shards({"a": documents(50)})
    counts = {**artifact.counts["train"], "rows": 1_000_000}
    with pytest.raises(DamagedError, match=r"train rows, its manifest says 1,000,000"):
        ShardReader(altered(artifact, train=counts), "train")
