from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources import parquet


def documents(path: Path, rejects: Rejects | None = None, **settings: str) -> list[Document]:
    config = SourceConfig.model_validate({"kind": "parquet", "path": str(path), "licence": "MIT", **settings})
    assert parquet.signature(config)
    return list(parquet.read(config, rejects or Rejects()))


def test_rows_become_documents_across_batches(tmp_path: Path) -> None:
    texts = [f"row {number}\x00é" for number in range(parquet.BATCH_ROWS * 2 + 3)]
    table = pa.table({"other": list(range(len(texts))), "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    found = documents(tmp_path)
    assert [document.text for document in found] == texts
    assert found[300].id == "parquet/a.parquet:300"
    assert documents(tmp_path, id_column="other")[300].id == "parquet/300"


def test_a_null_is_an_empty_document_and_large_strings_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["a", None], pa.large_string())}), tmp_path / "a.parquet")
    assert [document.text for document in documents(tmp_path)] == ["a", ""]


def test_bytes_that_are_not_utf8_are_refused_or_counted(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"b\xe4d", b"fine"], pa.binary())
    bad = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet row 1: byte 0xe4 at offset 1 is not UTF-8"):
        documents(tmp_path)
    rejects = Rejects("skip")
    assert [document.text for document in documents(tmp_path, rejects)] == ["good", "fine"]
    assert rejects.counts == {"not UTF-8": 1}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text_column": "body"}, "a.parquet: no column body; name one of text, number with text_column"),
        ({"id_column": "key"}, "a.parquet: no column key; name one of text, number with id_column"),
        ({"text_column": "number"}, "a.parquet: column number holds int64, not text"),
    ],
)
def test_a_missing_column_is_refused_with_those_there_are(
    tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    pq.write_table(pa.table({"text": ["a"], "number": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=sentence):
        documents(tmp_path, **settings)


def test_a_broken_footer_and_a_broken_page_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"row {n} {n * n}" for n in range(5_000)]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-30])
    with pytest.raises(DamagedError, match=r"a.parquet is not readable as Parquet from row 0 on .*fetch or write"):
        documents(tmp_path)
    (tmp_path / "a.parquet").write_bytes(whole[:40] + bytes(4_000) + whole[4_040:])
    with pytest.raises(DamagedError, match=r"a.parquet is not readable as Parquet"):
        documents(tmp_path)
