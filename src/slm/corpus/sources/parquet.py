"""Parquet files: the text in `text_column`, read row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.files import Found, files_signature, find_files

SUFFIXES = (".parquet",)
BATCH_ROWS = 256


def read(config: SourceConfig, rejects: Rejects) -> Iterator[Document]:
    """One document a row; a row without text counts as empty."""
    for found in find_files(config, SUFFIXES):
        for row, text_value, id_value in _rows(config, found):
            place = f"{found.path} row {row:,}"
            content = text_value.as_buffer()
            text = rejects.decode(content.to_pybytes(), place) if content is not None else ""
            if text is not None:
                identity = str(id_value) if config.id_column else f"{found.name}:{row}"
                yield Document.of(config, identity, text, file=found.name)


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _rows(config: SourceConfig, found: Found) -> Iterator[tuple[int, Any, Any]]:
    row = 0
    try:
        with pq.ParquetFile(found.path) as file:
            _check_columns(config, found, file.schema_arrow)
            columns = list(dict.fromkeys([config.text_column, config.id_column or config.text_column]))
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                identities = batch.column(columns[-1])
                for index, text_value in enumerate(batch.column(columns[0])):
                    yield row, text_value, identities[index].as_py() if config.id_column else None
                    row += 1
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(
            f"{found.path} is not readable as Parquet from row {row:,} on ({str(error).splitlines()[0]}); fetch or "
            "write the file again"
        ) from error


def _check_columns(config: SourceConfig, found: Found, schema: pa.Schema) -> None:
    for key, name in (("text_column", config.text_column), ("id_column", config.id_column)):
        if name and name not in schema.names:
            raise UserError(f"{found.path}: no column {name}; name one of {', '.join(schema.names)} with {key}")
    kind = schema.field(config.text_column).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UserError(
            f"{found.path}: column {config.text_column} holds {kind}, not text; name another with text_column (there "
            f"are {', '.join(schema.names)})"
        )
