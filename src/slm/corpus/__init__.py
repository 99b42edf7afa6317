"""Text to documents: sources are read in order, cleaned of exact duplicates, and split by a hash of the id.

In: a recipe's `corpus` section. Out: an artifact with `train-*.parquet` and `validation-*.parquet`, and
in its counts how many documents and bytes came from where under which licence and what was left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from slm.corpus.document import SPLITS, Document, Rejects, Split

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.corpus.config import SourceConfig
    from slm.recipe import Recipe

__all__ = ["SOURCES", "SPLITS", "Document", "Rejects", "Source", "Split", "read_documents", "run", "source"]

SOURCES: dict[str, str] = {
    "stdlib": "slm.corpus.sources.stdlib",
    "text": "slm.corpus.sources.text",
    "jsonl": "slm.corpus.sources.jsonl",
    "parquet": "slm.corpus.sources.parquet",
    "hub": "slm.corpus.sources.hub",
}
"""Kind of source to the module that holds its `read` and `signature`; imported when first used."""


class Source(NamedTuple):
    """The two functions that a source module has."""

    read: Callable[[SourceConfig, Rejects], Iterator[Document]]
    signature: Callable[[SourceConfig], dict[str, Any]]


def source(kind: str) -> Source:
    """The functions of one kind of source."""
    module = importlib.import_module(SOURCES[kind])
    return Source(module.read, module.signature)


def run(recipe: Recipe) -> Artifact:
    """Make the corpus that the recipe asks for, or find it made."""
    from slm.core.artifact import Draft, Spec, make

    if recipe.artifacts.corpus:
        return recipe.artifact("corpus")
    config = recipe.corpus
    inputs = {item.label: source(item.kind).signature(item) for item in config.sources}

    def build(draft: Draft) -> None:
        from slm.corpus.build import build_corpus

        draft.counts.update(build_corpus(config, draft.path))

    return make(recipe.folder("corpus"), Spec("corpus", config, inputs=inputs), build, redo=recipe.redo)


def read_documents(artifact: Artifact, split: Split) -> Iterator[Document]:
    """The documents of one split in source order, streamed: memory holds one batch of rows."""
    from slm.corpus.build import read_split

    return read_split(artifact, split)
