"""Documents to Parquet files and back.

In: documents one at a time. Out: `STEM-00000.parquet`, ... with columns text, id, source, licence, origin, metadata
(JSON), in the order in which they came. Memory holds one row group of text when writing; when reading, about
`BATCH_BYTES`, or the longest document if that is more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slm.corpus.document import Document

ROW_GROUP_BYTES = 8 << 20
FILE_BYTES = 1 << 30
BATCH_ROWS, BATCH_BYTES = 256, 4 << 20
COLUMNS = ("text", "id", "source", "licence", "origin", "metadata")
REPEATING = ["source", "licence", "origin", "metadata"]
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])


class DocumentWriter:
    """Files of documents; a row group is written when its text reaches `ROW_GROUP_BYTES`. A context manager."""

    def __init__(self, folder: Path, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self.documents = self.bytes = 0
        self._rows: list[dict[str, str]] = []
        self._pending_bytes = self._file_bytes = self._files = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self._flush()
        self._close()

    def write(self, document: Document) -> int:
        """Add a document; returns the size of its text in UTF-8."""
        row = {name: getattr(document, name) for name in COLUMNS[:-1]}
        row["metadata"] = json.dumps(document.metadata, ensure_ascii=False, sort_keys=True)
        count = len(document.text.encode())
        self._rows.append(row)
        self._pending_bytes += count
        self.documents += 1
        self.bytes += count
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()
        return count

    def _flush(self) -> None:
        if self._writer is None:
            path = self.folder / f"{self.stem}-{self._files:05d}.parquet"
            # Least and greatest texts of each row group would pile up in memory until the file is closed.
            self._writer = pq.ParquetWriter(
                path, SCHEMA, compression="zstd", use_dictionary=REPEATING, write_statistics=False
            )
            self._files += 1
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, SCHEMA), row_group_size=len(self._rows))
        self._file_bytes += self._pending_bytes
        self._rows, self._pending_bytes = [], 0
        if self._file_bytes >= FILE_BYTES:
            self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._file_bytes = None, 0


def read_tables(paths: Iterable[Path]) -> Iterator[Document]:
    """The documents of files, in the order in which they were written."""
    for path in paths:
        yield from read_groups(path)


def read_groups(path: Path, first: int = 0, last: int | None = None) -> Iterator[Document]:
    """The documents of a file's row groups `first` up to but not including `last`."""
    with pq.ParquetFile(path, buffer_size=1 << 20) as file:
        groups = list(range(file.metadata.num_row_groups))[first:last]
        rows = _batch_rows(file.metadata)
        for batch in file.iter_batches(batch_size=rows, row_groups=groups, columns=list(COLUMNS)):
            for row in batch.to_pylist():
                yield Document(**{**row, "metadata": json.loads(row["metadata"])})


def text_of_groups(path: Path) -> list[int]:
    """The bytes of text in each row group of a file, about."""
    metadata = pq.read_metadata(path)
    text = COLUMNS.index("text")
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    return [int(group.column(text).total_uncompressed_size) for group in groups]


def _batch_rows(metadata: Any) -> int:
    """How many rows of the longest row group come to `BATCH_BYTES`."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(longest, 1))))
