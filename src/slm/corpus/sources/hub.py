"""Datasets of the Hugging Face hub, or any path `datasets.load_dataset` takes, streamed.

Nothing is stored but what the corpus keeps, and reading begins at once. The price: a broken connection that
outlasts the library's own retries ends the stage, and the next try reads from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from slm.core.errors import UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects


def read(config: SourceConfig, rejects: Rejects) -> Iterator[Document]:
    """One document a row of the dataset's split."""
    for number, row in enumerate(_rows(config)):
        for key, name in (("text_column", config.text_column), ("id_column", config.id_column)):
            if name and name not in row:
                raise UserError(f"{config.path} has no column {name}; name one of {', '.join(row)} with {key}")
        text = row[config.text_column]
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"{config.path}: column {config.text_column} holds {type(text).__name__}, not text; name another with "
                f"text_column (there are {', '.join(row)})"
            )
        if rejects.encodable(text or "", f"{config.path} row {number:,}"):
            identity = str(row[config.id_column]) if config.id_column else f"{config.split}:{number}"
            yield Document.of(config, identity, text or "")


def signature(config: SourceConfig) -> dict[str, Any]:
    """The dataset's name, subset, split and commit; without a commit the hub may change it unnoticed."""
    return {
        "path": config.path, "subset": config.subset, "split": config.split, "revision": config.revision or "newest",
    }  # fmt: skip


def _rows(config: SourceConfig) -> Iterator[dict[str, Any]]:
    import datasets
    import httpx

    try:
        yield from datasets.load_dataset(
            config.path, config.subset or None, split=config.split, revision=config.revision or None, streaming=True
        )
    except (OSError, ValueError, httpx.HTTPError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"corpus.sources: {config.label} cannot be read from the hub dataset {config.path} "
            f"(subset {config.subset or 'default'}, split {config.split}): {type(error).__name__}, {reason}; check "
            "names and network, or use a source on disk (kind: parquet, jsonl or text)"
        ) from error
