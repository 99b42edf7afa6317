"""A row of JSON Lines or of a hub dataset, a dictionary, to a document; what is wrong with it is said by its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slm.corpus.config import LISTED, SourceConfig
from slm.corpus.conversations import MalformedError, read_messages, with_messages
from slm.corpus.document import SPLIT_BY, Document, Rejects, column_names, joined
from slm.corpus.preferences import with_preference


def document_of(
    config: SourceConfig, row: Mapping[str, Any], name: str, place: str, rejects: Rejects, **metadata: str
) -> Document | None:
    """The document in a row, known by its id column or else by `name`; None where it is left out and counted."""
    if not _has_columns(config, row, place, rejects):
        return None
    document = blank_document(config, row, name, place, rejects, **metadata)
    if document is None or config.conversations:
        return document and conversation_of(config, document, row, place, rejects)
    text = joined(row[column] for column in config.columns)
    return replace(document, text=text) if rejects.usable(text, place) else None


def blank_document(
    config: SourceConfig, row: Mapping[str, Any], name: str, place: str, rejects: Rejects, **metadata: str
) -> Document | None:
    """A document without its text yet: its id, and what goes with it; None where that cannot be written."""
    identity = str(row[config.id_column]) if config.id_column else name
    more = {key: str(row[key]) for key in config.metadata_columns if row.get(key) is not None}
    more |= {SPLIT_BY: str(row[config.split_column])} if config.split_column else {}
    if not all(rejects.writable(value, place) for value in (identity, *more.values())):
        return None
    return Document.of(config, identity, "", **{**more, **metadata})


def conversation_of(
    config: SourceConfig, document: Document, row: Mapping[str, Any], place: str, rejects: Rejects
) -> Document | None:
    """`document` with the conversation in `row`."""
    try:
        if config.preferences:
            made = with_preference(config, document, row)
        else:
            made = with_messages(document, read_messages(config, row))
    except MalformedError as error:
        rejects.bad(error.reason, place, str(error), "correct the row")
        return None
    return made if rejects.usable(made.text, place) else None


def _has_columns(config: SourceConfig, row: Mapping[str, Any], place: str, rejects: Rejects) -> bool:
    listed = config.conversations in LISTED
    for name, key in column_names(config):
        if name not in row:
            rejects.bad("no column", place, f"no column {name}", f"name one of {', '.join(row) or 'none'} with {key}")
            return False
        if key == "text_columns" and not listed and not isinstance(row[name], str | None):
            rejects.bad(
                "not text", place, f"{name} holds {type(row[name]).__name__}, not text",
                f"correct the row, or name another with {key} (the row has {', '.join(row)})",
            )  # fmt: skip
            return False
    return True
