"""Units to a corpus: what repeats is left out, and the rest is written in unit order.

In: the finished units of a plan. Out: `train-00000.parquet`, `validation-00000.parquet`, ... in source order,
`dropped.jsonl` and `changed.jsonl` with samples of what was left out and of what cleaning changed (as it was before,
personal data included), and the counts for the manifest. The order is the plan's, so the files are the same bytes
whoever made the units.

A document is held out if the sha256 of its id, or of its `split_column`, falls into the part of all hashes that
`validation_fraction` and `validation_fold` name: adding a source or reading in another order never moves a document
from one side to the other. Memory holds one row group of 8 MB per split and what `duplicates.find` needs, whatever the
corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slm.core.artifact import Artifact
from slm.core.console import Progress, size
from slm.core.errors import UserError
from slm.core.parts import make_units
from slm.core.units import keep_only, read_facts
from slm.corpus.buckets import Repeats, read_digests, repeats
from slm.corpus.config import CorpusConfig
from slm.corpus.decontamination.check import read_index
from slm.corpus.decontamination.report import Findings, write_report
from slm.corpus.document import SPLIT_BY, SPLITS, Document, Drop, Split, UnitFolder
from slm.corpus.duplicates.find import InUnitOrder, Repeated, find
from slm.corpus.duplicates.paragraphs import without_paragraphs
from slm.corpus.samples import Samples
from slm.corpus.tables import DocumentWriter, read_tables
from slm.corpus.units import Unit, plan
from slm.corpus.work import IDS, CorpusWork, read_unit

DROPPED, CHANGED = "dropped.jsonl", "changed.jsonl"


def build_corpus(config: CorpusConfig, folder: Path, root: Path) -> dict[str, Any]:
    """Write the files of a corpus into `folder`, making the units in `root` that are missing; returns the counts."""
    units = plan(config)
    make_units(CorpusWork(config, units, root))
    return merge(config, units, folder, root)


def tidy(config: CorpusConfig, root: Path) -> None:
    """After the corpus is published: delete what the plan no longer has, or all units if they are not to be kept."""
    keep_only(root, {unit.key for unit in plan(config)} if config.keep_units else set())


def split_of(name: str, validation_fraction: float, fold: int = 0) -> Split:
    """The side that a document falls on: a function of its id alone, or of its value of `split_column`."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    held_out = fold * validation_fraction <= draw < (fold + 1) * validation_fraction
    return "validation" if held_out else "train"


def files_of(artifact: Artifact, split: Split) -> list[str]:
    """The names of one split's files, in the order in which they were written."""
    return sorted(name for name in artifact.manifest["files"] if name.startswith(f"{split}-"))


def read_split(artifact: Artifact, split: Split) -> Iterator[Document]:
    """The documents of one split, in the order in which they were written."""
    return read_tables(artifact.file(name) for name in files_of(artifact, split))


@dataclass(slots=True)
class Tally:
    """What became of everything that was read."""

    kept: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, Counter[str]] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    cleaning: Counter[str] = field(default_factory=Counter)
    decontamination: Findings = field(default_factory=Findings)
    control_text: int = 0
    renumbered: int = 0
    dropped: Samples = field(default_factory=lambda: Samples("reason"))
    changed: Samples = field(default_factory=lambda: Samples("step"))

    def add_unit(self, label: str, facts: dict[str, Any], taken: int) -> None:
        """Count what a unit's maker left out, and its documents beyond those that are taken."""
        skipped = self.skipped.setdefault(label, Counter())
        skipped.update(facts["skipped"])
        if facts["documents"] > taken:
            skipped["beyond max_documents"] += facts["documents"] - taken
        for reason, places in facts["places"].items():
            known = self.places.setdefault(reason, [])
            known += places[: 10 - len(known)]
        self.cleaning.update(facts["cleaning"])
        self.decontamination = Findings.together([self.decontamination, Findings(**facts["decontamination"])])
        self.control_text += facts["control_text"]
        self.dropped.merge(facts["dropped"])
        self.changed.merge(facts["changed"])

    def drop(self, document: Document, drop: Drop) -> None:
        """Count a document that is left out for what other units hold."""
        self.skipped[document.source][drop.reason] += 1
        self.dropped.drop(drop.reason, document, drop.note)

    def counts(self, config: CorpusConfig) -> dict[str, Any]:
        """The manifest's figures."""
        reasons: Counter[str] = sum(self.skipped.values(), Counter())
        by_source = {label: dict(sorted(found.items())) for label, found in self.skipped.items() if found}
        found: dict[str, Any] = {
            "sources": {
                item.label: {
                    "documents": self.kept[item.label], "bytes": self.bytes[item.label],
                    "licence": item.licence_or_default, "origin": item.origin_or_default,
                    **({"synthetic": item.synthetic.identity()} if item.synthetic else {}),
                }
                for item in config.sources
            },
            "skipped": dict(sorted(reasons.items())),
            "skipped_by_source": by_source,
        }  # fmt: skip
        more = {
            "places": self.places,
            "cleaning": dict(sorted(self.cleaning.items())),
            "control_text": self.control_text,
            "renumbered_ids": self.renumbered,
        }
        return {**found, **{name: value for name, value in more.items() if value}}


def merge(config: CorpusConfig, units: Sequence[Unit], folder: Path, root: Path) -> dict[str, Any]:
    """Write the documents that stay, in unit order; returns the counts."""
    tally = Tally()
    chosen = list(_chosen(config, units, root, tally))
    writers = {split: DocumentWriter(folder, split) for split in SPLITS}
    total = sum(taken for _, taken in chosen)
    scratch = root / f"scratch.tmp-{socket.gethostname()}-{os.getpid()}"
    try:
        repeated, ids = _across(config, chosen, root, scratch)
        drops, cuts = InUnitOrder(repeated.drops), InUnitOrder(repeated.cuts)
        with writers["train"], writers["validation"], Progress("corpus: merging", total, "documents") as progress:
            for number, (unit, taken) in enumerate(chosen):
                mine, cut = drops.of_unit(number), cuts.of_unit(number)
                copies = {repeat.row: repeat.copy for repeat in ids.of_unit(number)}
                for row, document in zip(range(taken), read_unit(root, unit), strict=False):
                    progress.advance(1, size(writers["train"].bytes + writers["validation"].bytes))
                    if row in mine:
                        tally.drop(document, mine[row])
                        continue
                    if row in cut:
                        document = replace(document, text=without_paragraphs(document.text, cut[row].paragraphs))
                        if not document.text or document.text.isspace():
                            tally.drop(document, Drop(number, row, "duplicate paragraphs", "nothing else was in it"))
                            continue
                    if row in copies:
                        document = _renumbered(config, document, copies[row], unit)
                        tally.renumbered += 1
                    name = document.metadata.get(SPLIT_BY, document.id)
                    writer = writers[split_of(name, config.validation_fraction, config.validation_fold)]
                    tally.bytes[document.source] += writer.write(document)
                    tally.kept[document.source] += 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _write_samples(folder / DROPPED, tally.dropped)
    _write_samples(folder / CHANGED, tally.changed)
    _require_documents(config, tally)
    _require_both_sides(config, writers, tally)
    sides: dict[str, Any] = {
        split: {"documents": writer.documents, "bytes": writer.bytes} for split, writer in writers.items()
    }
    counts = {**sides, **tally.counts(config)}
    if repeated.figures is not None:
        counts["duplicates"] = repeated.figures.record()
    if config.decontamination.against:
        counts["decontamination"] = write_report(folder, read_index(config.decontamination), tally.decontamination)
    return {**counts, "mixture": mixture(counts["sources"])}


def mixture(sources: Mapping[str, Mapping[str, Any]]) -> str:
    """What the corpus consists of, as YAML: each source with its licence, origin, documents and share of the bytes."""
    import yaml

    total = max(1, sum(record["bytes"] for record in sources.values()))
    entries = [
        {"source": name, **record, "share_of_bytes": round(record["bytes"] / total, 6)}
        for name, record in sources.items()
    ]
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)


def _chosen(config: CorpusConfig, units: Sequence[Unit], root: Path, tally: Tally) -> Iterator[tuple[Unit, int]]:
    """The units that are needed, each with how many of its documents are taken."""
    taken: Counter[int] = Counter()
    for unit in units:
        item = config.sources[unit.source]
        if item.max_documents and taken[unit.source] >= item.max_documents:
            continue
        facts = read_facts(root, unit)
        count = facts["documents"]
        if item.max_documents:
            count = min(count, item.max_documents - taken[unit.source])
        taken[unit.source] += count
        tally.add_unit(item.label, facts, count)
        yield unit, count


def _across(
    config: CorpusConfig, chosen: Sequence[tuple[Unit, int]], root: Path, scratch: Path
) -> tuple[Repeated, Repeats]:
    """What is known only over all units: duplicates, and ids that stand twice."""
    folders = [UnitFolder(root / unit.key, taken, unit.source) for unit, taken in chosen]
    (scratch / "duplicates").mkdir(parents=True)
    digests = (read_digests(folder.path / IDS, folder.documents) for folder in folders)
    ids = repeats(digests, sum(taken for _, taken in chosen), scratch / "ids")
    return find(folders, config.duplicates, scratch / "duplicates"), ids


def _renumbered(config: CorpusConfig, document: Document, copy: int, unit: Unit) -> Document:
    if config.on_bad_text == "refuse":
        place = document.metadata.get("file", unit.place)
        raise UserError(
            f"the id {document.id} stands {copy + 1} times with different texts (again in {place}: "
            f"{document.text[:40]!r}); name a column whose values differ with id_column, or none, or "
            "let repeated ids be numbered with corpus.on_bad_text=skip"
        )
    return replace(document, id=f"{document.id}~{copy + 1}")


def _write_samples(path: Path, samples: Samples) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for record in samples.records():
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")


def left_out(skipped: Mapping[str, int]) -> str:
    """How many documents were left out for which reason, the most frequent first, in words."""
    most_first = sorted(skipped.items(), key=lambda one: -one[1])
    return ", ".join(f"{count:,} {reason}" for reason, count in most_first) or "nothing"


def _require_documents(config: CorpusConfig, tally: Tally) -> None:
    for item in config.sources:
        if not tally.kept[item.label]:
            raise UserError(
                f"corpus.sources: {item.label} gave no document ({item.origin_or_default}; left out: "
                f"{left_out(tally.skipped.get(item.label, {}))}); correct its path or columns, or remove the source"
            )


def _require_both_sides(config: CorpusConfig, writers: dict[Split, DocumentWriter], tally: Tally) -> None:
    total = sum(writer.documents for writer in writers.values())
    for split, writer in writers.items():
        if not writer.documents:
            change = "raise" if split == "validation" else "lower"
            left = left_out(sum(tally.skipped.values(), Counter()))
            raise UserError(
                f"corpus.validation_fraction ({config.validation_fraction:g}) leaves no {split} document of {total:,} "
                f"(left out: {left}); {change} it, or give more or shorter documents (a text source falls into "
                "documents at its separator)"
            )
