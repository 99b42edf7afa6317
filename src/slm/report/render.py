"""A run's record to one HTML page.

The template and its style sheet lie beside this file and are put into the page, which asks nobody for
anything. Every text is escaped; only the charts' markup is taken as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from slm.core.console import duration, size
from slm.model.counting import num_parameters
from slm.report import sections, stages
from slm.report.calibration import calibration
from slm.report.effort import effort
from slm.report.gather import Run
from slm.report.page import Fact, Section, compact, visible
from slm.report.tasks import tasks

FOLDER = Path(__file__).parent
TEMPLATE, STYLE = "template.html.jinja", "style.css"


def render(run: Run) -> str:
    """The report's page."""
    title = run.recipe.report.title or run.recipe.run
    return page(title, "run report", summary(run), headline(run), page_sections(run))


def page(title: str, kind: str, summary: str, headline: Sequence[Fact], sections: Sequence[Section]) -> str:
    """A page of the one layout; `kind` says under its title what it is."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) or not isinstance(value, str) else visible(value),
    )
    environment.filters["markup"] = Markup
    return environment.get_template(TEMPLATE).render(
        title=title,
        kind=kind,
        summary=summary,
        headline=headline,
        sections=sections,
        style=Markup((FOLDER / STYLE).read_text(encoding="utf-8")),  # our own file, not text of the run
    )


def page_sections(run: Run) -> list[Section]:
    """Everything below the headline, in reading order."""
    return [
        sections.result(run),
        tasks(run.results),
        calibration({run.recipe.run: run.results}),
        sections.training(run),
        effort(run),
        sections.layers(run),
        sections.samples(run),
        sections.answers(run),
        sections.golden(run),
        stages.corpus(run),
        stages.tokenizer(run),
        stages.shards(run),
        sections.model(run),
        stages.export(run),
        stages.lineage(run),
        stages.reproduce(run),
        stages.environment(run),
    ]


def summary(run: Run) -> str:
    """The run in one sentence."""
    counts = run.artifacts["train"].counts
    sentence = f"{compact(num_parameters(run.recipe.model))} parameters, trained on {compact(counts['tokens'])} tokens"
    corpus = run.artifacts.get("corpus")
    if corpus is not None:
        names = list(corpus.counts["sources"])
        sentence += f" of {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"
    return f"{sentence}."


def headline(run: Run) -> list[Fact]:
    """The figures that one wants first."""
    counts = run.artifacts["train"].counts
    validation, baselines = run.results.get("validation"), run.results.get("baselines", {})
    facts = []
    if validation:
        against = [
            f"{name}\u00a0{baselines[key]:.2f}"
            for key, (name, _) in sections.BASELINES.items()
            if baselines.get(key) is not None
        ]
        facts.append(Fact("bits per byte", f"{validation['bits_per_byte']:.3f}", " · ".join(against)))
    elif run.evaluations:
        facts.append(Fact("bits per byte", f"{run.evaluations[-1]['bits_per_byte']:.3f}", "measured while training"))
    facts.append(Fact("parameters", compact(num_parameters(run.recipe.model)), f"{run.recipe.model.layers} layers"))
    facts.append(Fact("tokens", compact(counts["tokens"]), f"{counts['step']:,} steps"))
    if run.steps:
        seconds = sum(row["seconds"] for row in run.steps)
        facts.append(Fact("training time", duration(seconds), f"{run.steps[-1]['tokens'] / seconds:,.0f} tokens/s"))
    files = [item for name, item in run.parity.get("formats", {}).items() if name.startswith("gguf")]
    if files:
        facts.append(Fact("smallest GGUF", size(min(item["size_bytes"] for item in files)), f"{len(files)} files"))
    return facts
