"""The data card of a corpus: what is in it, what was left out and why, and what became of it.

In: the corpus of a run, and its tokenizer and shards where they are there. Out: an artifact with `card.html`, a page
like the report's, `card.md` with the same figures for a repository and front matter for the Hugging Face hub, and
`lengths.png`, which the Markdown shows. Figures come from the manifests, and from one pass over the documents for what
no manifest holds (languages, lengths, examples). What a stage has not recorded is called so.
"""

from __future__ import annotations

from pathlib import Path

from slm.core.artifact import Artifact, Draft, Spec, make
from slm.core.console import size
from slm.recipe import Recipe
from slm.report import data, stages
from slm.report.gather import Run, data_artifacts, gather_data
from slm.report.html import page
from slm.report.hub import dataset_front_matter
from slm.report.markdown import markdown
from slm.report.page import Fact, Section, compact, percent
from slm.report.png import Line, Panel, draw
from slm.report.scan import Scan, scan

FOLDER, HTML, MARKDOWN, PLOT = "card", "card.html", "card.md", "lengths.png"
VERSION = 4
"""To be raised when the same artifacts would give another card."""


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
        data.sources(run),
        data.groups(run, found),
        data.left_out(run),
        data.changed(run),
        data.duplicates(run),
        data.contamination(run),
        data.lengths(found),
        stages.tokenizer(run),
        stages.shards(run),
        data.examples(found),
        data.mixture(run),
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


def draw_lengths(found: Scan, path: Path) -> None:
    """The histogram as a picture, for Markdown."""
    powers = range(min(found.lengths, default=0), max(found.lengths, default=0) + 1)
    least = [float(max(1, data.least(power))) for power in powers]
    line = Line(least, [float(found.lengths[power]) for power in powers])
    draw(path, [[Panel("lengths of documents", "bytes, at least", "documents up to twice that", [line])]])
