from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources import parquet
from tests.corpus.reading import read_all, source_of, units_of


def documents(path: Path, rejects: Rejects | None = None, **settings: Any) -> list[Document]:
    config = SourceConfig.model_validate({"kind": "parquet", "path": str(path), "licence": "MIT", **settings})
    assert parquet.signature(config)
    return list(read_all(config, rejects))


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
    "settings",
    [{"metadata_columns": ["other"]}, {"id_column": "other"}, {"split_column": "other"},
     {"conversations": "prompt_completion", "text_columns": ["text", "other"]}],
    ids=["metadata", "id", "split", "conversation"],
)  # fmt: skip
def test_bytes_that_are_not_utf8_beside_a_text_are_refused_or_counted(tmp_path: Path, settings: dict[str, Any]) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"b\xe4d"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": ["a", "b"], "other": bad}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet row 1: byte 0xe4 at offset 1 is not UTF-8"):
        documents(tmp_path, **settings)
    rejects = Rejects("skip")
    assert [document.text[0] for document in documents(tmp_path, rejects, **settings)] == ["a"]
    assert rejects.counts == {"not UTF-8": 1}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text_columns": ["body"]}, "a.parquet: no column body; name one of text, number with text_columns"),
        ({"id_column": "key"}, "a.parquet: no column key; name one of text, number with id_column"),
        ({"text_columns": ["number"]}, "a.parquet: column number holds int64, not text"),
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


@pytest.mark.parametrize("unit_bytes", [1, 4_000, 1 << 20])
def test_row_groups_give_every_row_once_under_its_number_in_the_file(tmp_path: Path, unit_bytes: int) -> None:
    for name in ("a", "b"):
        table = pa.table({"text": [f"{name} row {n} {n * n}" for n in range(1_000)], "n": list(range(1_000))})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=90, compression="none")
    config = source_of("parquet", tmp_path)
    assert len(units_of(config, unit_bytes)) == {1: 24, 4_000: 12, 1 << 20: 1}[unit_bytes]
    found = list(read_all(config, None, unit_bytes))
    assert [d.id for d in found] == [f"parquet/{name}.parquet:{n}" for name in ("a", "b") for n in range(1_000)]
    assert found[1_500].text == "b row 500 250000"


def test_unusable_rows_and_files_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", None, "x" * 2_000, "two"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["one", "two", "three"]}), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    rejects = Rejects("skip", limit_bytes=1_000)
    assert [document.text for document in documents(tmp_path, rejects)] == ["one", "", "two"]
    assert rejects.counts == {"too long": 1, "no column": 3, "damaged file": 1}
    assert rejects.places["too long"] == [f"{tmp_path}/a.parquet row 2"]
    assert rejects.places["damaged file"] == [f"{tmp_path}/c.parquet"]
    with pytest.raises(UserError, match=r"a.parquet row 2: a document of 2,000 bytes, over corpus.max_document_bytes"):
        list(read_all(source_of("parquet", tmp_path), Rejects(limit_bytes=1_000)))


def test_further_columns_are_kept_and_a_missing_one_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one"], "score": [0.5], "url": [None]}), tmp_path / "a.parquet")
    (found,) = documents(tmp_path, metadata_columns=["score", "url"])
    assert found.metadata == {"file": "a.parquet", "score": "0.5"}
    with pytest.raises(UserError, match="no column host; name one of text, score, url with metadata_columns"):
        documents(tmp_path, metadata_columns=["host"])


def test_long_rows_are_read_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": [f"{n}" * 10_000 for n in range(100)]}), tmp_path / "a.parquet")
    sizes = []
    original = pq.ParquetFile.iter_batches

    def watched(self, batch_size, **more):
        sizes.append(batch_size)
        return original(self, batch_size, **more)

    monkeypatch.setattr(parquet, "BATCH_BYTES", 50_000)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert len(documents(tmp_path)) == 100
    assert sizes[0] < 100


def test_several_columns_are_put_together_and_empty_ones_left_out(tmp_path: Path) -> None:
    table = pa.table({"ask": ["Why?", "Where?"], "context": ["", "A map."], "answer": ["So.", None], "number": [1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    found = documents(tmp_path, text_columns=["ask", "context", "answer"])
    assert [document.text for document in found] == ["Why?\n\nSo.", "Where?\n\nA map."]
    with pytest.raises(UserError, match="column number holds int64, not text; name another with text_columns"):
        documents(tmp_path, text_columns=["ask", "number"])
