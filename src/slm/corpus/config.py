"""What text is read, from where, under which licence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slm.core.config import Config


class SourceConfig(Config):
    """One source of documents."""

    kind: Literal["stdlib", "text", "jsonl", "parquet", "hub"]
    """Where documents come from: this interpreter's standard library, files, or the Hugging Face hub."""
    name: str = ""
    """The source's name in counts, mixtures and manifests; by default its kind."""
    path: str = ""
    """A file, directory or glob; for `hub` the dataset's name, such as HuggingFaceFW/fineweb-edu."""
    subset: str = ""
    """Configuration of a hub dataset, such as sample-10BT."""
    split: str = "train"
    """Split of a hub dataset."""
    revision: str = ""
    """Commit of a hub dataset; empty takes the newest."""
    text_column: str = "text"
    """The column or field that holds the text (jsonl, parquet, hub)."""
    id_column: str = ""
    """The column that identifies a document; empty numbers the documents of each file."""
    licence: str = ""
    """SPDX identifier, or `unknown` if nobody can tell; required of every source but `stdlib`."""
    origin: str = ""
    """Where the text was taken from, for the record."""
    max_documents: int = Field(0, ge=0)
    """Stop after this many documents; 0 reads all."""


class CorpusConfig(Config):
    """Text to documents."""

    sources: tuple[SourceConfig, ...] = Field((SourceConfig(kind="stdlib"),), min_length=1)
    """The sources, read in order."""
    validation_fraction: float = Field(0.05, gt=0, lt=0.5)
    """Share of documents held out, chosen by a hash of each document's id."""
    on_bad_text: Literal["refuse", "skip"] = "refuse"
    """What to do with a document that is not UTF-8 or holds no text: stop, or count and go on."""
