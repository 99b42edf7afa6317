"""Parquet files: the text in `text_columns`, read in small batches of rows; large files fall into row groups.

Pages are read as they are needed instead of whole row groups, and batches are the smaller the longer the texts are,
so that memory holds a few MB of a row group of any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slm.corpus.config import LISTED, SourceConfig
from slm.corpus.document import Document, Rejects, column_names
from slm.corpus.sources.files import files_signature, find_files, is_damage, opened
from slm.corpus.sources.rows import blank_document, conversation_of
from slm.corpus.units import Piece, Unit

SUFFIXES = (".parquet",)
BATCH_ROWS, BATCH_BYTES = 256, 4 << 20
BUFFER_BYTES = 1 << 20


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """Row groups, as many together as come to `unit_bytes`; a file whose footer cannot be read is one piece."""
    for found in find_files(config, SUFFIXES):
        version = f"{found.size} {found.version}"
        whole = Piece(found.name, found.address, bytes=found.size, version=version)
        try:
            with _opened(found.address) as file:
                yield from _groups(config, file.metadata, whole, unit_bytes)
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            yield whole  # whose reading then says what is wrong with it


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """One document a row; a row without text counts as empty."""
    for piece in unit.pieces:
        for row, texts, others in _rows(config, piece, rejects):
            place = f"{piece.address} row {row:,}"
            asked = {**others, **(texts if config.conversations else {})}
            try:
                told = {name: value.as_py() for name, value in asked.items()}
            except UnicodeDecodeError as error:
                rejects.decode(error.object, place)  # which says which byte
                continue
            document = blank_document(config, told, f"{piece.name}:{row}", place, rejects, file=piece.name)
            if document is not None and config.conversations:
                document = conversation_of(config, document, told, place, rejects)
            elif document is not None:
                document = _with_text(document, texts.values(), place, rejects)
            if document is not None:
                yield document


def _with_text(document: Document, values: Iterable[Any], place: str, rejects: Rejects) -> Document | None:
    contents = [content for value in values if (content := value.as_buffer()) is not None]
    if not rejects.fits(sum(content.size for content in contents), place):
        return None
    content = b"\n\n".join(content.to_pybytes() for content in contents if content.size)
    text = rejects.decode(content, place)
    return None if text is None else replace(document, text=text)


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _opened(address: str) -> Any:
    """A Parquet file, read through a small buffer; a local one by Arrow itself, which is faster than through Python."""
    return pq.ParquetFile(address if "://" not in address else opened(address), buffer_size=BUFFER_BYTES)


def _groups(config: SourceConfig, metadata: Any, whole: Piece, unit_bytes: int) -> Iterator[Piece]:
    pending = whole._replace(bytes=0)
    row = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(index) for index in range(group.num_columns))
        size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.partition(".")[0] in config.columns)
        if pending.last > pending.first and pending.bytes + size > unit_bytes:
            yield pending
            pending = pending._replace(first=number, last=number, row=row, bytes=0)
        pending = pending._replace(last=number + 1, bytes=pending.bytes + size)
        row += group.num_rows
    yield pending


def _rows(config: SourceConfig, piece: Piece, rejects: Rejects) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    """Number, columns of text and other columns of each row of a piece, as Arrow's values."""
    row = piece.row
    named = (name for name in (config.id_column, config.split_column) if name)
    others = list(dict.fromkeys([*named, *config.metadata_columns]))
    try:
        with _opened(piece.address) as file:
            if not _has_columns(config, piece, file, rejects):
                return
            size = max(1, piece.bytes // max(1, sum(_group_rows(file, piece))))
            batches = file.iter_batches(
                batch_size=max(1, min(BATCH_ROWS, BATCH_BYTES // size)),
                row_groups=list(range(piece.first, piece.last)),
                columns=list(dict.fromkeys([*config.columns, *others])),
            )
            for batch in batches:
                columns = {name: batch.column(name) for name in (*config.columns, *others)}
                for index in range(batch.num_rows):
                    texts = {name: columns[name][index] for name in config.columns}
                    yield row, texts, {name: columns[name][index] for name in others}
                    row += 1
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        rejects.damaged(piece.address, f"is not readable as Parquet from row {row:,} on ({str(error).splitlines()[0]})")


def _group_rows(file: Any, piece: Piece) -> list[int]:
    return [file.metadata.row_group(number).num_rows for number in range(piece.first, piece.last)]


def _has_columns(config: SourceConfig, piece: Piece, file: Any, rejects: Rejects) -> bool:
    schema = file.schema_arrow
    wanted = [*column_names(config), *((name, "metadata_columns") for name in config.metadata_columns)]
    problem = way_out = ""
    for name, key in wanted:
        if name not in schema.names:
            problem, way_out = f"no column {name}", f"name one of {', '.join(schema.names)} with {key}"
            break
        kind = schema.field(name).type
        listed = config.conversations in LISTED
        if key == "text_columns" and not listed and not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            problem = f"column {name} holds {kind}, not text"
            way_out = f"name another with {key} (there are {', '.join(schema.names)})"
            break
    if problem:
        rejects.bad("no column", piece.address, problem, way_out)
        rejects.counts["no column"] += sum(_group_rows(file, piece)) - 1
    return not problem
