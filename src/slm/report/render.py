"""A run's record to one HTML page: what was made and what is to be thought of it first, then every part."""

from __future__ import annotations

from slm.core.console import duration, size
from slm.model.counting import num_parameters
from slm.report import sections, stages
from slm.report.calibration import calibration
from slm.report.comparison import beside
from slm.report.compression import compression
from slm.report.data import essentials
from slm.report.effort import effort
from slm.report.error_analysis import error_analysis
from slm.report.gather import Run
from slm.report.html import page
from slm.report.page import Fact, Section, compact
from slm.report.safety import safety
from slm.report.tasks import tasks
from slm.report.verdicts import verdicts

SHOWN_TASKS = 3
"""So many benchmarks have a figure at the head of the page, each by its first metric."""


def render(run: Run) -> str:
    """The report's page."""
    title = run.recipe.report.title or run.recipe.run
    return page(title, "run report", summary(run), headline(run), page_sections(run), verdicts(run))


def page_sections(run: Run) -> list[Section]:
    """Everything below the headline, in reading order."""
    return [
        sections.result(run),
        tasks(run.results),
        beside(run),
        error_analysis(run),
        calibration({run.recipe.run: run.results}),
        safety(run),
        sections.golden(run),
        sections.samples(run),
        sections.answers(run),
        sections.training(run),
        effort(run),
        sections.layers(run),
        essentials(run),
        stages.tokenizer(run),
        stages.shards(run),
        sections.model(run),
        compression(run),
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
    files = sum(name.startswith("gguf") for name in run.parity.get("formats", {}))
    return f"{sentence}{f'; published as {files} GGUF files' if files > 1 else ''}."


def headline(run: Run) -> list[Fact]:
    """The figures that one wants first."""
    counts = run.artifacts["train"].counts
    validation = run.results.get("validation")
    facts = []
    if validation:
        low, high = validation["interval_95"]
        against = f"95 %: {low:.3f} to {high:.3f}"
        facts.append(Fact("bits per byte", f"{validation['bits_per_byte']:.3f}", against))
    elif run.evaluations:
        facts.append(Fact("bits per byte", f"{run.evaluations[-1]['bits_per_byte']:.3f}", "measured while training"))
    firsts = {one["task"]: one for one in reversed(run.results.get("tasks", {}).get("metrics", []))}
    for one in list(reversed(firsts.values()))[:SHOWN_TASKS]:
        low, high = one["interval_95"]
        chance = "" if one["chance"] is None else f", chance {one['chance']:.2f}"
        facts.append(
            Fact(f"{one['task']}, {one['metric']}", f"{one['value']:.3f}", f"95 %: {low:.3f} to {high:.3f}{chance}")
        )
    facts.append(Fact("parameters", compact(num_parameters(run.recipe.model)), f"{run.recipe.model.layers} layers"))
    facts.append(Fact("tokens", compact(counts["tokens"]), f"{counts['step']:,} steps"))
    if run.steps:
        seconds = sum(row["seconds"] for row in run.steps)
        facts.append(Fact("training time", duration(seconds), f"{run.steps[-1]['tokens'] / seconds:,.0f} tokens/s"))
    files = {
        name: item["size_bytes"] for name, item in run.parity.get("formats", {}).items() if name.startswith("gguf")
    }
    if files:
        smallest = min(files, key=lambda name: int(files[name]))
        facts.append(Fact("smallest GGUF", size(files[smallest]), stages.format_name(smallest).removeprefix("GGUF ")))
    return facts
