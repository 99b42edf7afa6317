"""Documents to Parquet and back.

In: the sources of a corpus. Out: `train-00000.parquet`, `validation-00000.parquet`, ... with columns text,
id, source, licence, origin, metadata (JSON), in source order, and the counts for the manifest.

A document is held out if the sha256 of its id falls below `validation_fraction`: adding a source or reading
in another order never moves a document from one side to the other. Documents with exactly the same text are
kept once, since a copy on the other side would be held-out text trained on; that costs about 70 bytes of
memory per document (64-bit hashes: of a million corpora of 10^7 documents, three lose one to a false match). Otherwise
memory holds one row group of 32 MB per split. Near duplicates are not looked for here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slm.core.artifact import Artifact
from slm.core.console import Progress, size
from slm.core.errors import UserError
from slm.corpus import source
from slm.corpus.config import CorpusConfig, SourceConfig
from slm.corpus.document import SPLITS, Document, Rejects, Split

ROW_GROUP_BYTES = 32 << 20
FILE_BYTES = 1 << 30
COLUMNS = ("text", "id", "source", "licence", "origin", "metadata")
SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in COLUMNS])


def build_corpus(config: CorpusConfig, folder: Path) -> dict[str, Any]:
    """Write the files of a corpus into `folder`; returns the counts."""
    rejects = Rejects(config.on_bad_text)
    sources: dict[str, dict[str, Any]] = {}
    seen: set[int] = set()
    writers: dict[Split, SplitWriter] = {split: SplitWriter(folder, split) for split in SPLITS}
    with writers["train"], writers["validation"]:
        for item in config.sources:
            documents = text_bytes = 0
            with Progress(f"corpus {item.label}", item.max_documents or None, "documents") as progress:
                for document in _usable(item, rejects, seen):
                    text_bytes += writers[split_of(document.id, config.validation_fraction)].write(document)
                    documents += 1
                    progress.advance(1, size(text_bytes))
            _require_documents(item, documents, rejects)
            sources[item.label] = {
                "documents": documents, "bytes": text_bytes,
                "licence": item.licence_or_default, "origin": item.origin_or_default,
            }  # fmt: skip
    _require_both_sides(config, writers)
    return {
        **{split: {"documents": writers[split].documents, "bytes": writers[split].bytes} for split in SPLITS},
        "sources": sources,
        "skipped": dict(sorted(rejects.counts.items())),
    }


def split_of(document_id: str, validation_fraction: float) -> Split:
    """The side that a document falls on: a function of its id alone."""
    draw = int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") / 2**64
    return "validation" if draw < validation_fraction else "train"


def read_split(artifact: Artifact, split: Split) -> Iterator[Document]:
    """The documents of one split, in the order in which they were written."""
    for name in sorted(name for name in artifact.manifest["files"] if name.startswith(f"{split}-")):
        with pq.ParquetFile(artifact.file(name)) as file:
            for batch in file.iter_batches(batch_size=256, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    yield Document(**{**row, "metadata": json.loads(row["metadata"])})


class SplitWriter:
    """The Parquet files of one split; a row group is written when its text reaches `ROW_GROUP_BYTES`."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder, self.split = folder, split
        self.documents = self.bytes = 0
        self._rows: list[dict[str, str]] = []
        self._pending_bytes = self._file_bytes = self._files = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> SplitWriter:
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
            path = self.folder / f"{self.split}-{self._files:05d}.parquet"
            self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
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


def _usable(item: SourceConfig, rejects: Rejects, seen: set[int]) -> Iterator[Document]:
    """A source's documents without empty ones and exact copies, at most `max_documents` of them."""
    taken = 0
    for document in source(item.kind).read(item, rejects):
        if not document.text or document.text.isspace():
            rejects.skip("empty")
            continue
        digest = hashlib.blake2b(document.text.encode(), digest_size=8).digest()
        key = int.from_bytes(digest, "big")
        if key in seen:
            rejects.skip("duplicate")
            continue
        seen.add(key)
        yield document
        taken += 1
        if taken == item.max_documents:
            return


def _require_documents(item: SourceConfig, documents: int, rejects: Rejects) -> None:
    if not documents:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in rejects.counts.items()) or "nothing left out"
        raise UserError(
            f"corpus.sources: {item.label} gave no document ({item.origin_or_default}; {left_out}); correct its "
            "path or remove the source"
        )


def _require_both_sides(config: CorpusConfig, writers: dict[Split, SplitWriter]) -> None:
    total = sum(writer.documents for writer in writers.values())
    for split, writer in writers.items():
        if not writer.documents:
            change = "raise" if split == "validation" else "lower"
            raise UserError(
                f"corpus.validation_fraction ({config.validation_fraction:g}) leaves no {split} document of {total:,}; "
                f"{change} it, or give more or shorter documents (a text source falls into documents at its separator)"
            )
