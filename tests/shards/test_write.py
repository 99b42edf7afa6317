"""Written files hold every document, in rows whose first are a fair sample."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.shards import write
from slm.shards.loader import Loader
from slm.shards.reader import ShardReader
from slm.shards.write import file_stems


def unpacked(reader: ShardReader) -> list[list[int]]:
    """All pieces of all rows."""
    tokens, lengths = reader.rows(range(reader.num_rows))
    pieces = []
    for row, counts in zip(tokens, lengths, strict=True):
        start = 0
        for length in counts:
            pieces.append(row[start : start + length].tolist())
            start += length
        assert (row[start:] == reader.pad_id).all()
    return pieces


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
@pytest.mark.parametrize("batch_bytes", [1 << 24, 7 * 16 * 2])
def test_documents_come_back_whole(make_shards, documents, monkeypatch, packing, batch_bytes):
    monkeypatch.setattr(write, "BATCH_BYTES", batch_bytes)
    texts = documents(200)
    artifact = make_shards({"only": texts}, packing=packing)
    pieces = unpacked(ShardReader(artifact, "train"))
    whole = sorted(piece for piece in pieces if piece[0] == 1 and piece[-1] == 2)
    cut = sorted(text.tolist() for text in texts if len(text) > 16 or packing == "concat")
    if packing == "best_fit":
        assert whole == sorted(text.tolist() for text in texts if len(text) <= 16)
    rebuilt = []
    for text in cut:
        document = text[:1]
        while document[-1] != 2:
            follow = [piece for piece in pieces if text[len(document) - 1 :][: len(piece)] == piece]
            document = document + max(follow, key=len)[1:]
        rebuilt.append(document)
    assert rebuilt == cut
    counts = artifact.counts["train"]
    assert counts["targets"] == sum(len(text) - 1 for text in texts) == sum(len(piece) - 1 for piece in pieces)
    assert counts["rows"] * 16 == counts["tokens"] + counts["fragments"] + counts["padding"]
    assert counts["fragments"] == len(pieces) - len(texts)
    assert counts["documents"] == 200
    assert counts["bytes"] == 3 * counts["tokens"]


def test_rows_go_to_several_files_of_at_most_rows_per_file(make_shards, documents):
    artifact = make_shards({"a": documents(300)}, rows_per_file=70)
    files = artifact.counts["files"]["train"]["a"]
    rows = [pa.ipc.open_file(str(artifact.path / name)).read_all().num_rows for name in files]
    assert rows[:-1] == [70] * (len(rows) - 1)
    assert 0 < rows[-1] <= 70
    assert sum(rows) == artifact.counts["train"]["rows"]
    assert files[0] == "train-a-00000.arrow"


def test_files_are_uncompressed_and_say_what_they_hold(make_shards, documents):
    artifact = make_shards({"a": documents(50)}, documents(5))
    schema = pa.ipc.open_file(str(artifact.file("validation-00000.arrow"))).schema
    assert schema.field("tokens").type == pa.list_(pa.uint16(), 16)
    assert schema.field("lengths").type == pa.list_(pa.int32())
    assert schema.field("documents").type == pa.list_(pa.string())
    assert schema.metadata == {b"tokenizer_hash": b"ab" * 32, b"seq_len": b"16", b"pad_id": b"3"}


@pytest.mark.parametrize("batch_bytes", [1 << 24, 7 * 16 * 2])
def test_each_piece_of_a_row_names_its_document(make_shards, documents, monkeypatch, batch_bytes):
    monkeypatch.setattr(write, "BATCH_BYTES", batch_bytes)
    texts = {"a": documents(120), "b": documents(70, seed=1)}
    reader = ShardReader(make_shards(texts, rows_per_file=50), "train")
    told = set()
    for row in range(reader.num_rows):
        tokens, (lengths,) = reader.rows([row])
        names = reader.documents(row)
        assert len(names) == len(lengths)
        for name, piece in zip(names, np.split(tokens[0], np.cumsum(lengths))[:-1], strict=True):
            source, number = name.split("/")
            whole = texts[source][int(number)].tolist()
            assert any(whole[start : start + len(piece)] == piece.tolist() for start in range(len(whole)))
            told.add(name)
    assert told == {f"{source}/{number}" for source in texts for number in range(len(texts[source]))}


def test_shards_that_do_not_name_documents_are_still_read(make_shards, documents):
    artifact = make_shards({"a": documents(20)}, rows_per_file=1000)
    (name,) = artifact.counts["files"]["train"]["a"]
    table = pa.ipc.open_file(str(artifact.path / name)).read_all().drop_columns(["documents"])
    with pa.ipc.new_file(str(artifact.path / name), table.schema) as file:
        file.write_table(table)
    reader = ShardReader(artifact, "train")
    assert reader.documents(0) == []
    assert reader.rows([0])[0].shape == (1, 16)


def test_a_large_vocabulary_takes_wide_ids(make_shards, documents):
    artifact = make_shards({"a": documents(50, vocab_size=70_000)}, vocab_size=70_000)
    tokens, _ = ShardReader(artifact, "train").rows(range(20))
    assert artifact.counts["dtype"] == "uint32"
    assert tokens.dtype == np.uint32
    assert tokens.max() > 65_535


def test_the_first_rows_of_a_window_are_a_fair_sample(make_shards, documents):
    long, short = documents(60, longest=400), [text[:6] for text in documents(600, longest=20)]
    artifact = make_shards({"a": [*long, *short]}, window_documents=10_000)
    _, lengths = ShardReader(artifact, "train").rows(range(artifact.counts["train"]["rows"]))
    pieces = np.array([len(counts) for counts in lengths])
    assert abs(pieces[: len(pieces) // 4].mean() - pieces.mean()) < 0.3


def test_sources_get_file_names_of_their_own():
    assert file_stems(["stdlib", "Org/set", "Org-set", "Org set", "../x", "é"]) == {
        "stdlib": "train-stdlib",
        "Org/set": "train-Org-set",
        "Org-set": "train-Org-set-2",
        "Org set": "train-Org-set-3",
        "../x": "train-x",
        "é": "train-source",
    }


@pytest.mark.parametrize("packing", ["best_fit", "concat"])
def test_documents_written_packed_and_loaded_get_the_logits_that_they_get_alone(make_shards, documents, packing):
    texts = documents(60, longest=90, vocab_size=97)
    artifact = make_shards({"a": texts[:40], "b": texts[40:]}, seq_len=64, vocab_size=97, packing=packing)
    config = ModelConfig(
        vocab_size=97, width=48, layers=2, heads=4, kv_heads=2, head_dim=16, ffn_width=80, max_seq_len=64
    )
    model = build(config, 0)
    loader = Loader(artifact, batch_rows=4, micro_batch_rows=2, seed=0)
    alone: dict[tuple[int, ...], torch.Tensor] = {}
    for text in texts:
        alone[tuple(text.tolist())] = model(torch.from_numpy(text[:64]).long()[None])[0]
    whole = 0
    for _ in range(-(-loader.reader.num_rows // 4)):
        for batch in loader.step():
            logits = model(batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT)
            for row, documents_T in enumerate(batch.documents_BT):
                for number in range(int(documents_T.max()) + 1):
                    here = documents_T == number
                    ids = batch.tokens_BT[row][here]
                    expected = alone.get(tuple(ids.tolist()))
                    whole += expected is not None
                    if expected is None:  # a fragment, which begins anew
                        expected = model(ids[None])[0]
                    torch.testing.assert_close(logits[row][here], expected, atol=1e-5, rtol=0)
    if packing == "best_fit":
        assert whole >= sum(len(text) <= 64 for text in texts) > 30
    assert whole > 10
