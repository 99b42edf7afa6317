"""Text to documents: sources fall into units, units are cleaned anywhere, and put together without what repeats.

In: a recipe's `corpus` section. Out: an artifact with `train-*.parquet` and `validation-*.parquet`, samples of what
was left out in `dropped.jsonl` and of what cleaning changed in `changed.jsonl`, and in its counts how many documents
and bytes came from where under which licence and what was left out. Finished units lie beside it, in `corpus.units`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from slm.corpus.document import SPLITS, Document, Rejects, Split

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.corpus.config import CorpusConfig, SourceConfig
    from slm.corpus.units import Piece, Unit
    from slm.recipe import Recipe

__all__ = ["SOURCES", "SPLITS", "Document", "Rejects", "Source", "Split", "read_documents", "run", "source"]

SOURCES: dict[str, str] = {
    "stdlib": "slm.corpus.sources.stdlib",
    "text": "slm.corpus.sources.text",
    "jsonl": "slm.corpus.sources.jsonl",
    "parquet": "slm.corpus.sources.parquet",
    "hub": "slm.corpus.sources.hub",
    "canaries": "slm.corpus.sources.canaries",
}
"""Kind of source to the module that holds its `read` and `signature`; imported when first used."""


class Source(NamedTuple):
    """The three functions that a source module has."""

    pieces: Callable[[SourceConfig, int], Iterator[Piece]]
    read: Callable[[SourceConfig, Unit, Rejects], Iterator[Document]]
    signature: Callable[[SourceConfig], dict[str, Any]]


def source(kind: str) -> Source:
    """The functions of one kind of source."""
    module = importlib.import_module(SOURCES[kind])
    return Source(module.pieces, module.read, module.signature)


def run(recipe: Recipe) -> Artifact | None:
    """Make the corpus that the recipe asks for, or find it made; None where a part of its units was asked for."""
    from slm.core.artifact import Draft, Spec, make
    from slm.core.console import say

    if recipe.artifacts.corpus:
        return recipe.artifact("corpus")
    config, root = _with_evaluations(recipe), units_folder(recipe)
    if config.part:
        make_part(config, root)
        return None
    built = []

    def build(draft: Draft) -> None:
        from slm.corpus.build import build_corpus

        draft.counts.update(build_corpus(config, draft.path, root))
        built.append(draft)

    spec = Spec("corpus", config, _parents(config), _inputs(config))
    artifact = make(recipe.folder("corpus"), spec, build, redo=recipe.redo)
    if built:
        from slm.corpus.build import left_out, tidy

        tidy(config, root)
        skipped = artifact.manifest["counts"]["skipped"]
        if skipped:
            say(f"corpus: left out {left_out(skipped)} (samples in dropped.jsonl)")
    return artifact


def _with_evaluations(recipe: Recipe) -> CorpusConfig:
    """The corpus section, with every file of evaluation items that the recipe names to be kept clean of."""
    from slm.corpus.decontamination.check import with_evaluations

    return with_evaluations(recipe.corpus, recipe.evaluate)


def units_folder(recipe: Recipe) -> Path:
    """Where finished units lie: beside the corpus."""
    folder = recipe.folder("corpus")
    return folder.with_name(f"{folder.name}.units")


def make_part(config: CorpusConfig, root: Path) -> None:
    """Make the units of `config.part` that are not there; what is missing then is made by the other parts."""
    from slm.core.parts import make_asked
    from slm.corpus.units import plan
    from slm.corpus.work import CorpusWork

    make_asked(CorpusWork(config, plan(config), root), config.part)


def _inputs(config: CorpusConfig) -> dict[str, Any]:
    """What a corpus is made from beside its settings; what is in brackets is no source."""
    from slm.corpus.cleaning import cleaner
    from slm.corpus.decontamination import check
    from slm.corpus.duplicates import find

    found = {item.label: source(item.kind).signature(item) for item in config.sources}
    tables = {
        "(cleaning)": cleaner.identity(config.steps),
        "(decontamination)": check.identity(config.decontamination),
        "(duplicates)": find.identity(config.duplicates),
    }
    return {**found, **{name: facts for name, facts in tables.items() if facts}}


def _parents(config: CorpusConfig) -> dict[str, Artifact]:
    """Artifacts that sources are read from, such as rationales: the lineage goes on through them."""
    from slm.corpus.sources.files import artifact_read

    files = [item for item in config.sources if item.kind in ("text", "jsonl", "parquet")]
    return {f"source.{item.label}": found for item in files if (found := artifact_read(item)) is not None}


def read_documents(artifact: Artifact, split: Split) -> Iterator[Document]:
    """The documents of one split in source order, streamed: memory holds one batch of rows."""
    from slm.corpus.build import read_split

    return read_split(artifact, split)
