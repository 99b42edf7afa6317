"""The data card of a corpus: what is in it, what was left out and why, and what became of it.

In: the corpus of a run, and its tokenizer and shards where they are there. Out: an artifact with `card.html`, a page
like the report's, `card.md` with the same figures for a repository and front matter for the Hugging Face hub, and
`lengths.png`, which the Markdown shows. Figures come from the manifests, and from one pass over the documents for what
no manifest holds (languages, lengths, examples). What a stage has not recorded is called so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from slm.core.artifact import Artifact, Draft, Spec, make
from slm.core.console import size
from slm.corpus.cleaning.cleaner import CHANGED
from slm.corpus.decontamination.report import FILE as REPORT
from slm.recipe import Recipe
from slm.report import stages
from slm.report.charts import SMALL, WIDE, histogram
from slm.report.gather import Run, data_artifacts, gather_data
from slm.report.hub import dataset_front_matter
from slm.report.markdown import markdown
from slm.report.page import Bar, Code, Fact, Figure, Sample, Section, Table, compact, percent
from slm.report.png import Line, Panel, draw
from slm.report.render import page
from slm.report.scan import NOT_RECORDED, Scan, scan

FOLDER, HTML, MARKDOWN, PLOT = "card", "card.html", "card.md", "lengths.png"
CONTAMINATED = "contaminated"
"""The reason for which a document is left out since an evaluation holds parts of it."""
VERSION = 3
"""To be raised when the same artifacts would give another card."""
SHOWN_ITEMS = 20
"""Of the evaluations' items that documents held, so many are named."""


def make_card(recipe: Recipe) -> Artifact:
    """Write the card of the run's corpus, unless it is there and nothing that it shows has changed."""
    artifacts = data_artifacts(recipe)
    spec = Spec("card", recipe.report, {str(stage): found for stage, found in artifacts.items()}, {"version": VERSION})

    def build(draft: Draft) -> None:
        run = gather_data(recipe, artifacts)
        found = scan(artifacts["corpus"])
        words = _words_of(run, found)
        (draft.path / HTML).write_text(page(*words), encoding="utf-8")
        (draft.path / MARKDOWN).write_text(hub_card(run, found), encoding="utf-8")
        draw_lengths(found, draft.path / PLOT)
        draft.counts.update(stages=list(artifacts), documents=sum(found.lengths.values()))

    return make(Path(recipe.runs_dir) / recipe.run / FOLDER, spec, build, redo=True)


def hub_card(run: Run, found: Scan) -> str:
    """The card as Markdown with the front matter that the Hugging Face hub reads; it shows the picture `PLOT`."""
    words = _words_of(run, found)
    return dataset_front_matter(run, found, words[0]) + markdown(*words, images={"lengths": PLOT})


def _words_of(run: Run, found: Scan) -> tuple[str, str, str, list[Fact], list[Section]]:
    title = run.recipe.report.title or run.recipe.run
    return title, "data card", summary(run), headline(run, found), card_sections(run, found)


def card_sections(run: Run, found: Scan) -> list[Section]:
    """Everything below the headline, in reading order."""
    return [
        sources(run),
        groups(run, found),
        left_out(run),
        changed(run),
        duplicates(run),
        contamination(run),
        lengths(found),
        stages.tokenizer(run),
        stages.shards(run),
        examples(found),
        mixture(run),
        stages.lineage(run),
    ]


def summary(run: Run) -> str:
    """The corpus in one sentence."""
    counts = run.artifacts["corpus"].counts
    names = sorted(counts["sources"], key=lambda name: -int(counts["sources"][name]["bytes"]))
    total = sum(counts[split]["bytes"] for split in ("train", "validation"))
    return f"{size(total)} of text from {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}."


def headline(run: Run, found: Scan) -> list[Fact]:
    """The figures that one wants first."""
    counts = run.artifacts["corpus"].counts
    documents = sum(counts[split]["documents"] for split in ("train", "validation"))
    dropped = sum(counts["skipped"].values())
    facts = [
        Fact("documents", compact(documents), f"{counts['validation']['documents']:,} held out"),
        Fact("text", size(sum(counts[split]["bytes"] for split in ("train", "validation"))), "UTF-8"),
        Fact("left out", compact(dropped), f"{percent(dropped / max(dropped + documents, 1))} of what was read"),
        Fact("sources", str(len(counts["sources"])), ", ".join(sorted(found.licences))),
    ]
    shards = run.artifacts.get("shards")
    if shards is not None:
        tokens = shards.counts["train"]["tokens"]
        facts.insert(2, Fact("tokens", compact(tokens), "to train on"))
    return facts


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
        (f"{_least(power):,} to {2**power - 1:,}", f"{count:,}", percent(count / total))
        for power, count in sorted(found.lengths.items())
    ]
    section.tables = [Table("The same in numbers", ("bytes", "documents", "share"), rows, folded=True)]
    section.facts = [
        Fact("shortest", size(found.shortest)),
        Fact("median", f"{size(_least(_median(found)))} to {size(2 ** _median(found) - 1)}"),
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


def draw_lengths(found: Scan, path: Path) -> None:
    """The histogram as a picture, for Markdown."""
    powers = range(min(found.lengths, default=0), max(found.lengths, default=0) + 1)
    line = Line([float(max(1, _least(power))) for power in powers], [float(found.lengths[power]) for power in powers])
    draw(path, [[Panel("lengths of documents", "bytes, at least", "documents up to twice that", [line])]])


def _least(power: int) -> int:
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
