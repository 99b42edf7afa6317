"""The sections about a corpus: its sources, what was left out and why, and what an evaluation would meet in it.

In: the manifests of corpus, tokenizer and shards, and for languages, lengths and examples one pass over the documents
(`scan`). Out: sections for the data card, and `essentials`, which tells the report in one section what the manifests
alone know. What a stage has not recorded is called so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import yaml

from slm.core.artifact import Artifact
from slm.core.console import size
from slm.corpus.cleaning.cleaner import CHANGED
from slm.corpus.decontamination.report import FILE as REPORT
from slm.report.charts import SMALL, WIDE, histogram
from slm.report.gather import Run, command
from slm.report.page import Bar, Code, Fact, Figure, Sample, Section, Table, percent
from slm.report.scan import NOT_RECORDED, Scan

CONTAMINATED = "contaminated"
"""The reason for which a document is left out since an evaluation holds parts of it."""
SHOWN_ITEMS = 20
"""Of the evaluations' items that documents held, so many are named."""


def essentials(run: Run) -> Section:
    """The data card in one section, as far as the manifests know it."""
    if "corpus" not in run.artifacts:
        return Section("corpus", "Data", missing=command(run.recipe, "corpus"))
    counts = run.artifacts["corpus"].counts
    train, held_out, dropped = counts["train"], counts["validation"], left_out(run)
    section = sources(run)
    section.key, section.title = "corpus", "Data"
    section.lead = (
        f"{size(train['bytes'])} to train on and {size(held_out['bytes'])} held out, chosen by a hash of each "
        "document's id."
    )
    section.facts = [
        Fact("train", f"{train['documents']:,} documents", size(train["bytes"])),
        Fact("held out", f"{held_out['documents']:,} documents", size(held_out["bytes"])),
        Fact("left out", f"{sum(counts['skipped'].values()):,} documents"),
    ]
    for kind in ("licences", "languages"):
        found = sorted(_shards(run).get(kind, {}).items(), key=lambda item: -int(item[1]["tokens"]))
        rows = [(name, f"{item['documents']:,}", f"{item['tokens']:,}") for name, item in found]
        if rows:
            section.tables.append(Table(f"Trained on, by {kind[:-1]}", (kind[:-1], "documents", "tokens"), rows))
    if dropped.bars:
        reasons = [(bar.label, bar.value) for bar in dropped.bars]
        section.tables.append(Table("Left out, by reason", ("reason", "documents"), reasons))
    section.remarks = [duplicates(run).lead, contamination(run).lead, changed(run).lead]
    section.remarks.append(f"Lengths, languages and examples stand on the data card: {command(run.recipe, 'card')}")
    return section


def sources(run: Run) -> Section:
    """Which text from where under which licence."""
    section = Section("sources", "Sources")
    counts = run.artifacts["corpus"].counts
    tokens = {name: item["tokens"] for name, item in _shards(run).get("sources", {}).items()}
    total, largest = (how(item["bytes"] for item in counts["sources"].values()) or 1 for how in (sum, max))
    section.bars = [
        Bar(name, f"{size(item['bytes'])}  ({percent(item['bytes'] / total)})", item["bytes"] / largest)
        for name, item in counts["sources"].items()
    ]
    section.bars_caption = "Text by source, both splits."
    section.tables = [
        Table(
            "Sources",
            ("source", "documents", "UTF-8", "tokens to train on", "licence", "origin"),
            [
                (
                    name, f"{item['documents']:,}", size(item["bytes"]), _count(tokens.get(name)), item["licence"],
                    item["origin"],
                )
                for name, item in counts["sources"].items()
            ],
        )
    ]  # fmt: skip
    return section


def groups(run: Run, found: Scan) -> Section:
    """Languages and licences."""
    section = Section("groups", "Licences and languages")
    recorded = _shards(run)
    for kind, named in (("licences", found.licences), ("languages", found.languages)):
        tokens = {name: item["tokens"] for name, item in recorded.get(kind, {}).items()}
        unseen = 0 if tokens else None  # of a language that only held-out documents have, no token is trained on
        section.tables.append(
            Table(
                f"By {kind[:-1]}",
                (kind[:-1], "documents", "UTF-8", "tokens to train on"),
                [
                    (name, f"{group.documents:,}", size(group.bytes), _count(tokens.get(name, unseen)))
                    for name, group in sorted(named.items(), key=lambda item: -item[1].bytes)
                ],
            )
        )
    if set(found.languages) == {NOT_RECORDED}:
        section.remarks.append("The language of no document is recorded: the recipe has no step that identifies it.")
    return section


def left_out(run: Run) -> Section:
    """Documents that were read and are not in the corpus, by reason, and by source where it is recorded."""
    section = Section("dropped", "Left out")
    counts = run.artifacts["corpus"].counts
    skipped: dict[str, int] = counts["skipped"]
    if not skipped:
        section.lead = "Nothing that was read was left out."
        return section
    documents = sum(counts[split]["documents"] for split in ("train", "validation"))
    dropped, largest = sum(skipped.values()), max(skipped.values())
    section.lead = (
        f"{dropped:,} documents, {percent(dropped / (dropped + documents))} of {dropped + documents:,} that were read."
    )
    section.bars = [
        Bar(reason, f"{count:,}", count / largest)
        for reason, count in sorted(skipped.items(), key=lambda item: -item[1])
    ]
    section.bars_caption = "Documents left out, by reason."
    by_source: dict[str, dict[str, int]] = counts.get("skipped_by_source", {})
    if len(by_source) > 1:
        section.tables = [
            Table(
                "By source",
                ("reason", *by_source),
                [
                    (reason, *(f"{found[reason]:,}" if found.get(reason) else "–" for found in by_source.values()))
                    for reason in sorted(skipped, key=lambda reason: -skipped[reason])
                ],
            )
        ]
    return section


def changed(run: Run) -> Section:
    """What cleaning steps did to documents that stay."""
    section = Section("changed", "Changed")
    tally: dict[str, int] = run.artifacts["corpus"].counts.get("cleaning", {})
    steps = [step["step"] for step in run.artifacts["corpus"].section.get("steps", [])]
    section.lead = f"Cleaning ran these steps over every document: {', '.join(steps) or 'none'}."
    if tally:
        by_step: dict[str, dict[str, int]] = {}
        for name, count in tally.items():
            step, _, what = name.partition("/")
            by_step.setdefault(step, {})[what] = count
        rows = [
            (
                step,
                f"{found.pop(CHANGED, 0):,}",
                ", ".join(f"{what} {count:,}" for what, count in sorted(found.items())) or "–",
            )
            for step, found in sorted(by_step.items())
        ]
        columns = ("step", CHANGED, "counted")
        section.tables = [Table("What they did to documents that stay", columns, rows)]
    elif steps:
        section.lead += " None changed a document that stays."
    return section


def duplicates(run: Run) -> Section:
    """Documents that repeat another."""
    section = Section("duplicates", "Duplicates")
    counts = run.artifacts["corpus"].counts
    found: dict[str, Any] | None = counts.get("duplicates")
    if found is None:
        section.lead = f"Whether documents repeat each other is {NOT_RECORDED}: the recipe does not look for it."
        return section
    section.lead = (
        f"{found['documents']:,} documents were compared. Of those that are the same but for case and white space, or "
        "as alike as the threshold says, one stays."
    )
    section.facts = [
        Fact("exact copies left out", f"{found['copies']:,}"),
        Fact("near duplicates left out", f"{found['near']:,}"),
        Fact("pairs compared exactly", f"{found['compared_pairs']:,}", f"of {found['candidate_pairs']:,} candidates"),
        Fact("repeated paragraphs cut", f"{found['paragraphs']:,}"),
    ]
    if found["crowded_keys"]:
        section.facts.append(Fact("keys with too many documents", f"{found['crowded_keys']:,}", "compared in part"))
    by_similarity: dict[str, int] = found["similarities"]
    section.bars = [
        Bar(f"from {least}", f"{count:,}", count / max(by_similarity.values()))
        for least, count in by_similarity.items()
    ]
    section.bars_caption = "Near duplicates by similarity to the document that stays."
    scheme = found["scheme"]
    if not scheme["bands"]:
        return section
    rows = [("least similarity (Jaccard)", f"{found['threshold']:g}"), ("words in a run", str(scheme["shingle_words"]))]
    rows += [("keys per document", str(scheme["bands"])), ("MinHash values per key", str(scheme["rows"]))]
    rows += [("hashing", f"{scheme['algorithm']} {scheme['algorithm_version']}, seed {scheme['seed']}")]
    section.tables = [Table("How they were looked for", ("setting", "value"), rows)]
    return section


def contamination(run: Run) -> Section:
    """Documents that hold text of an evaluation."""
    section = Section("contamination", "Contamination")
    corpus = run.artifacts["corpus"]
    tally: dict[str, Any] | None = corpus.counts.get("decontamination")
    if tally is None:
        section.lead = "The recipe names no evaluation, so text of none was looked for."
        return section
    evaluations: dict[str, dict[str, int]] = tally["evaluations"]
    total, items = (sum(item[name] for item in evaluations.values()) for name in ("found", "items"))
    section.lead = f"Of {items:,} items of {len(evaluations):,} evaluations, what was read held {total:,}."
    section.facts = [
        Fact("documents checked", f"{tally['checked']:,}"),
        Fact("left out", f"{corpus.counts['skipped'].get(CONTAMINATED, 0):,}"),
        Fact("cut", f"{tally['cut']:,}"),
        Fact("runs of words looked for", f"{tally['entries']:,}"),
    ]
    rows = [
        (name, f"{item['items']:,}", f"{item['unchecked']:,}", f"{item['found']:,}")
        for name, item in evaluations.items()
    ]
    columns = ("evaluation", "items", "too short to check", "found in the text")
    section.tables = [Table("Evaluations looked for", columns, rows)]
    met = list(_items_met(corpus))
    if met:
        most = f"Items that were met (the first {SHOWN_ITEMS:,})" if len(met) > SHOWN_ITEMS else "Items that were met"
        columns = ("item", "documents", "first in", "words")
        section.tables.append(Table(most, columns, met[:SHOWN_ITEMS]))
    return section


def _items_met(corpus: Artifact) -> Iterator[tuple[str, ...]]:
    """Items of evaluations that documents held, by evaluation: name, documents, the first of them, and its words."""
    if REPORT not in corpus.manifest["files"]:
        return
    found = json.loads(corpus.file(REPORT).read_text(encoding="utf-8"))["evaluations"]
    for name, evaluation in found.items():
        for item, hit in evaluation["hits"].items():
            example = hit["example"]
            yield f"{name} {item}", f"{hit['documents']:,}", example["document"], example["text"]


def lengths(found: Scan) -> Section:
    """How long documents are."""
    section = Section("lengths", "Lengths")
    total = sum(found.lengths.values())
    if not total:
        section.lead = "There are no documents."
        return section
    title = f"Documents by length in bytes, from {found.shortest:,} to {found.longest:,}"
    wide, narrow = (histogram(name, title, found.lengths, to) for name, to in (("lengths", WIDE), ("narrow", SMALL)))
    section.figures = [Figure(title + ".", wide, narrow, wide=True)]
    rows = [
        (f"{least(power):,} to {2**power - 1:,}", f"{count:,}", percent(count / total))
        for power, count in sorted(found.lengths.items())
    ]
    section.tables = [Table("The same in numbers", ("bytes", "documents", "share"), rows, folded=True)]
    section.facts = [
        Fact("shortest", size(found.shortest)),
        Fact("median", f"{size(least(_median(found)))} to {size(2 ** _median(found) - 1)}"),
        Fact("longest", size(found.longest)),
    ]
    return section


def examples(found: Scan) -> Section:
    """The beginnings of a few documents."""
    section = Section("examples", "Examples")
    section.lead = "The beginnings of documents, of each source those with the smallest hash of their id."
    section.samples = [
        [Sample(f"{item.source} · {item.id} · {item.characters:,} characters", "", item.text)]
        for item in found.excerpts
    ]
    return section


def mixture(run: Run) -> Section:
    """The settings that made the corpus, and the shares in which it is read."""
    section = Section("mixture", "Recipe")
    settings = yaml.safe_dump(run.artifacts["corpus"].section, sort_keys=False, allow_unicode=True, width=100)
    section.codes = [Code("The corpus section of the recipe, as recorded", settings, folded=True)]
    shares = run.artifacts["corpus"].counts.get("mixture")
    if shares:
        section.codes.insert(0, Code("What the corpus consists of", str(shares), folded=True))
    shards = run.artifacts.get("shards")
    if shards is not None and "mixture" in shards.counts:
        shares = {
            f"{stage['stage']}, from token {stage['first_token']:,}: {name}": facts["share"]
            for stage in yaml.safe_load(shards.counts["mixture"])
            for name, facts in stage["sources"].items()
        }
        section.bars = [Bar(name, percent(share), share / max(shares.values())) for name, share in shares.items()]
        section.bars_caption = "Share of the rows that are trained on, stage by stage."
    return section


def least(power: int) -> int:
    return 2 ** (power - 1) if power else 0


def _median(found: Scan) -> int:
    """The class of lengths that the middle document is in."""
    half, seen = (sum(found.lengths.values()) + 1) // 2, 0
    for power, count in sorted(found.lengths.items()):
        seen += count
        if seen >= half:
            return power
    return 0


def _shards(run: Run) -> dict[str, Any]:
    shards = run.artifacts.get("shards")
    return {} if shards is None else shards.counts


def _count(value: int | None) -> str:
    return NOT_RECORDED if value is None else f"{value:,}"
