"""Datasets of the Hugging Face hub, or any path `datasets.load_dataset` takes, streamed.

Nothing is stored but what the corpus keeps, and reading begins at once. A unit is one shard of the stream, mostly a
file of the dataset. A connection that breaks, beyond the library's own retries, is opened again at the row where it
broke, `ATTEMPTS` times in a row without a new one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from slm.core.errors import UserError
from slm.core.store import may_pass
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.rows import document_of
from slm.corpus.units import Piece, Unit

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 1.0


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """The shards of the stream; `row` is how many there are. How large they are, nobody knows before reading."""
    shards = _opened(config).num_shards
    for number in range(shards):
        yield Piece(config.split, "", number, number + 1, shards, bytes=unit_bytes, version=config.revision or "newest")


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """One document a row of the dataset's split."""
    for piece in unit.pieces:
        prefix = piece.name if piece.row == 1 else f"{piece.name}-{piece.first:05d}"
        for number, row in enumerate(_rows(config, piece)):
            place = f"{config.path} {prefix} row {number:,}"
            document = document_of(config, row, f"{prefix}:{number}", place, rejects)
            if document is not None:
                yield document


def signature(config: SourceConfig) -> dict[str, Any]:
    """The dataset's name, subset, split and commit; without a commit the hub may change it unnoticed."""
    return {
        "path": config.path, "subset": config.subset, "split": config.split, "revision": config.revision or "newest",
    }  # fmt: skip


def _rows(config: SourceConfig, piece: Piece) -> Iterator[dict[str, Any]]:
    import httpx

    done = failures = 0
    while True:
        try:
            stream = _opened(config).shard(num_shards=piece.row, index=piece.first)
            for row in stream.skip(done) if done else stream:
                yield row
                done, failures = done + 1, 0
            return
        except (OSError, ValueError, httpx.HTTPError) as error:
            failures += 1
            if failures >= ATTEMPTS or not (may_pass(error) or isinstance(error, httpx.TransportError)):
                raise _unreadable(config, error, f" from row {done:,} of shard {piece.first} on") from error
            time.sleep(FIRST_WAIT_SECONDS * 2 ** (failures - 1))


def _opened(config: SourceConfig) -> Any:
    import datasets
    import httpx

    try:
        return datasets.load_dataset(
            config.path, config.subset or None, split=config.split, revision=config.revision or None, streaming=True
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise _unreadable(config, error, "") from error


def _unreadable(config: SourceConfig, error: Exception, where: str) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        f"corpus.sources: {config.label} cannot be read from the hub dataset {config.path} "
        f"(subset {config.subset or 'default'}, split {config.split}){where}: {type(error).__name__}, {reason}; check "
        "names and network, or use a source on disk (kind: parquet, jsonl or text)"
    )
