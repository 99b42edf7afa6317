"""The shards stage: documents in, packed Arrow rows out.

In: the corpus and the tokenizer of the recipe. Out: `train-SOURCE-00000.arrow` per source, so that a
mixture can weigh them, and one validation set. Each document is stored as [bos] ids [eos].

Tokenizing is what costs, a core takes 4 MB of text a second; it is done in units, by any number of processes, each
killed and gone on with at any time (see `slm.shards.units`). One process then packs them in order, some 300,000
documents a second; killed, it packs again. Documents stream through; memory is bounded by a window per source.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.core.artifact import Artifact, Draft, Spec, make, require_parent
from slm.core.console import Progress, say, table
from slm.core.errors import UserError
from slm.core.units import keep_only

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slm.corpus import Split
    from slm.recipe import Recipe
    from slm.shards.config import ShardsConfig
    from slm.shards.preferences import FittedAnswers
    from slm.shards.units import Encoded, ShardsWork
    from slm.shards.write import Layout, Tally
    from slm.tokenizer.tokenizer import Tokenizer

LAYOUT_VERSION = 3

Groups = dict[str, dict[str, dict[str, int]]]
"""Documents, bytes and tokens to train on, by licence and by language; documents without a language are left out."""


def run(recipe: Recipe) -> Artifact | None:
    """Tokenize and pack the corpus, unless the shards are already there or the recipe takes them from elsewhere.

    None where a part of the tokenizing was asked for.
    """
    if recipe.artifacts.shards:
        return recipe.artifact("shards")
    corpus, tokenizer = recipe.artifact("corpus"), recipe.artifact("tokenizer")
    if not recipe.artifacts.tokenizer:
        require_parent(tokenizer, "corpus", corpus)
    config, root = recipe.shards, units_folder(recipe)
    if config.part:
        from slm.core.parts import make_asked

        make_asked(_work(config, corpus, tokenizer, root), config.part)
        return None
    built = []

    def build(draft: Draft) -> None:
        built.append(_build(recipe, corpus, tokenizer, draft, root))

    spec = Spec("shards", config, {"corpus": corpus, "tokenizer": tokenizer}, {"layout_version": LAYOUT_VERSION})
    artifact = make(recipe.folder("shards"), spec, build, redo=recipe.redo)
    for work in built:
        keep_only(root, {unit.key for unit in work.units} if config.keep_units else set())
    return artifact


def units_folder(recipe: Recipe) -> Path:
    """Where tokenized units lie: beside the shards."""
    folder = recipe.folder("shards")
    return folder.with_name(f"{folder.name}.units")


def _work(config: ShardsConfig, corpus: Artifact, tokenizer: Artifact, root: Path) -> ShardsWork:
    from slm.shards.units import ShardsWork, plan

    for split in ("train", "validation"):
        if not corpus.counts[split]["documents"]:
            raise UserError(
                f"{corpus.path} holds no {split} documents (of {_total_documents(corpus):,} in all), and shards need "
                "some of both; add text to corpus.sources or change corpus.validation_fraction"
            )
    units = plan(corpus, tokenizer, config.unit_bytes)
    return ShardsWork(config, units, root, tokenizer.path)


def _build(recipe: Recipe, corpus: Artifact, tokenizer_artifact: Artifact, draft: Draft, root: Path) -> ShardsWork:
    from slm.core.parts import make_units
    from slm.shards.preferences import require_some
    from slm.shards.units import has_conversations, preferences_of
    from slm.shards.write import Layout
    from slm.tokenizer.tokenizer import Tokenizer

    config = recipe.shards
    work = _work(config, corpus, tokenizer_artifact, root)
    tokenizer = Tokenizer.load(tokenizer_artifact.path)
    layout = Layout(
        seq_len=config.seq_len,
        packing=config.packing,
        window_documents=config.window_documents,
        rows_per_file=config.rows_per_file,
        vocab_size=tokenizer.vocab_size,
        pad_id=tokenizer.pad_id,
        tokenizer_hash=tokenizer.hash,
        talks=has_conversations(corpus),
        preferences=preferences_of(corpus),
    )
    make_units(work)
    groups, documents = Groups({"licences": {}, "languages": {}}), _fitted(work, tokenizer, layout)
    sources = _write_train(corpus, documents, layout, draft, groups)
    validation = _write_validation(corpus, documents, layout, draft)
    gone = sorted(documents.left_out - sources.keys())
    if layout.preferences:
        draft.counts.update(preferences=layout.preferences, answers=documents.counts)
        rows = {"train": sum(one.rows for one in sources.values()), "held-out": validation.rows}
        for what, number in (rows | dict.fromkeys((f"{name} train" for name in gone), 0)).items():
            require_some(documents.counts, what, number, config.seq_len)
    elif layout.talks:
        draft.counts["conversations"] = documents.counts
        if nothing := [*gone, *([] if validation.rows else ["held-out text"])]:
            raise UserError(
                f"no conversation of {', '.join(nothing)} has an answer that fits into {config.seq_len:,} tokens; "
                "raise shards.seq_len, give shorter ones, or leave it out"
            )
    draft.counts.update({**count(sources, validation, layout), **groups})
    _print(draft.counts)
    _mix(recipe, draft.counts)
    return work


def _fitted(work: ShardsWork, tokenizer: Tokenizer, layout: Layout) -> Fitted | FittedAnswers:
    from slm.shards.preferences import FittedAnswers

    if layout.preferences:
        return FittedAnswers(work, tokenizer, layout.seq_len, layout.preferences)
    return Fitted(work, tokenizer, layout.seq_len)


class Fitted:
    """The documents of a split, in the order of the corpus; conversations that are longer than a row are cut after the
    last answer that fits, and left out where not even the first does."""

    def __init__(self, work: ShardsWork, tokenizer: Tokenizer, seq_len: int) -> None:
        self._work, self._tokenizer, self._seq_len = work, tokenizer, seq_len
        self.counts = {"whole": 0, "cut": 0, "left_out": 0}
        self.left_out: set[str] = set()
        """Sources of the train split that something was left out of."""

    def __call__(self, split: Split) -> Iterator[Encoded]:
        from slm.shards.units import read_unit

        for unit in self._work.units:
            if unit.split == split:
                for document in read_unit(self._work.root, unit):
                    fitting = document if document.learned_T is None else self._fit(document, document.learned_T)
                    if fitting is not None:
                        yield fitting
                    elif split == "train":
                        self.left_out.add(document.source)

    def _fit(self, document: Encoded, learned_T: NDArray[np.bool_]) -> Encoded | None:
        import numpy as np

        from slm.shards.units import said_bytes

        if len(learned_T) <= self._seq_len:
            self.counts["whole"] += 1
            return document
        ends = np.flatnonzero(learned_T[:-1] & ~learned_T[1:]) + 1
        ends = ends[ends <= self._seq_len]
        if not len(ends):
            self.counts["left_out"] += 1
            return None
        self.counts["cut"] += 1
        ids_T, learned_T = document.ids_T[: ends[-1]], learned_T[: ends[-1]]
        size = said_bytes(self._tokenizer, ids_T, learned_T)
        return document._replace(ids_T=ids_T, learned_T=learned_T, num_bytes=size)


def _write_train(
    corpus: Artifact, documents: Fitted | FittedAnswers, layout: Layout, draft: Draft, groups: Groups
) -> dict[str, Tally]:
    from slm.shards.write import ShardWriter, file_stems

    with ExitStack() as stack:
        writers = {
            source: stack.enter_context(ShardWriter(draft.path, stem, layout))
            for source, stem in file_stems(corpus.counts["sources"]).items()
        }
        with Progress("shards: packing train", corpus.counts["train"]["documents"], "documents") as progress:
            for document in documents("train"):
                writers[document.source].add(document)
                _add_to_groups(groups, document)
                progress.advance()
    return {source: writer.tally for source, writer in writers.items() if writer.tally.documents}


def _add_to_groups(groups: Groups, document: Encoded) -> None:
    for kind, name in (("licences", document.licence), ("languages", document.language)):
        if name:
            tally = groups[kind].setdefault(name, {"documents": 0, "bytes": 0, "tokens": 0})
            tally["documents"] += 1
            tally["bytes"] += document.num_bytes
            tally["tokens"] += len(document.ids_T)


def _write_validation(corpus: Artifact, documents: Fitted | FittedAnswers, layout: Layout, draft: Draft) -> Tally:
    from slm.shards.write import ShardWriter

    with (
        ShardWriter(draft.path, "validation", layout) as writer,
        Progress("shards: packing validation", corpus.counts["validation"]["documents"], "documents") as progress,
    ):
        for document in documents("validation"):
            writer.add(document)
            progress.advance()
    return writer.tally


def count(sources: dict[str, Tally], validation: Tally, layout: Layout) -> dict[str, Any]:
    """The manifest's figures; `files` lists the files of each source in the order of their rows."""
    from slm.shards.write import Tally

    train = Tally()
    for tally in sources.values():
        train.add(tally)
    return {
        "train": train.counts(),
        "validation": validation.counts(),
        "sources": {name: tally.counts() for name, tally in sources.items()},
        "files": {
            "train": {name: tally.files for name, tally in sources.items()},
            "validation": {"validation": validation.files},
        },
        "seq_len": layout.seq_len,
        "dtype": layout.dtype,
        "vocab_size": layout.vocab_size,
        "pad_id": layout.pad_id,
        "tokenizer_hash": layout.tokenizer_hash,
    }


def _print(counts: dict[str, Any]) -> None:
    rows = []
    for name, tally in [*counts["sources"].items(), ("validation", counts["validation"])]:
        positions = tally["rows"] * counts["seq_len"]
        rows.append(
            (
                name,
                tally["documents"],
                tally["tokens"],
                tally["rows"],
                f"{100 * (positions - tally['padding']) / positions:.3f} %",
                tally["padding"],
                f"{100 * tally['split_documents'] / tally['documents']:.1f} %",
                tally["fragments"],
                tally["bytes"] / tally["targets" if "conversations" in counts else "tokens"],
            )
        )
    columns = ("", "documents", "tokens", "rows", "used", "padding", "split", "overlap tokens", "bytes/token")
    table(f"Rows of {counts['seq_len']:,} tokens", columns, rows)
    if talk := counts.get("conversations"):
        say(
            f"shards: {talk['whole']:,} conversations whole, {talk['cut']:,} cut after an answer to fit "
            f"{counts['seq_len']:,} tokens, {talk['left_out']:,} left out since no answer fits"
        )
    if answers := counts.get("answers"):
        found = ", ".join(f"{number:,} {reason}" for reason, number in answers.items())
        say(f"shards: {'pairs of answers' if counts['preferences'] == 'pairs' else 'answers with a label'}: {found}")
    say(f"shards: {counts['train']['targets']:,} train targets, ids stored as {counts['dtype']}")


def _mix(recipe: Recipe, counts: dict[str, Any]) -> None:
    """Print the stages of the mixture and put them into the counts as YAML."""
    import yaml

    from slm.shards.mixture import describe

    rows = {name: tally["rows"] for name, tally in counts["sources"].items()}
    stages = describe(recipe.shards.mixture, rows, counts["seq_len"])
    if not stages:
        return
    counts["mixture"] = yaml.safe_dump(stages, sort_keys=False, allow_unicode=True)
    table(
        "Mixture",
        ("stage", "from token", "source", "share", "epochs in it"),
        [
            (stage["stage"], stage["first_token"], name, f"{100 * facts['share']:.2f} %", facts.get("epochs", "-"))
            for stage in stages
            for name, facts in stage["sources"].items()
        ],
    )


def _total_documents(corpus: Artifact) -> int:
    return sum(int(corpus.counts[split]["documents"]) for split in ("train", "validation"))
