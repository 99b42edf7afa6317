from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.corpus import tables
from slm.corpus.document import Document
from slm.corpus.tables import DocumentWriter, read_tables


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    written = [Document(text, f"s/{i}", "s", "MIT", "o", {"k": text}) for i, text in enumerate(texts)]
    with DocumentWriter(folder, "train") as writer:
        for document in written:
            writer.write(document)
    assert list(read_tables(sorted(folder.iterdir()))) == written


def test_row_groups_and_files_stay_within_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 100)
    monkeypatch.setattr(tables, "FILE_BYTES", 300)
    written = [Document(f"{number:050d}", f"s/{number}", "s", "MIT", "o") for number in range(15)]
    with DocumentWriter(tmp_path, "train") as writer:
        for document in written:
            writer.write(document)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    assert [pq.ParquetFile(file).metadata.num_row_groups for file in files] == [3, 3, 2]
    assert pq.ParquetFile(files[0]).metadata.row_group(0).column(0).statistics is None
    assert list(read_tables(files)) == written


def test_long_documents_are_read_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DocumentWriter(tmp_path, "train") as writer:
        for number in range(64):
            writer.write(Document(f"{number}" * 5_000, f"s/{number}", "s", "MIT", "o"))
    metadata = pq.ParquetFile(tmp_path / "train-00000.parquet").metadata
    monkeypatch.setattr(tables, "BATCH_BYTES", metadata.row_group(0).total_byte_size // 8)
    assert tables._batch_rows(metadata) in (7, 8)
    assert len(list(read_tables([tmp_path / "train-00000.parquet"]))) == 64
