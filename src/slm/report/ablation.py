"""What each change of a recipe is worth, as one page: differences from the base with their intervals over seeds.

In: the base and its changes, compared. Out: HTML like the report's, and the rows of the terminal's tables: the
differences, and what each group took (tokens, FLOPs with those of a teacher, time), since what costs more may well win.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from slm.core.artifact import MANIFEST, Artifact, open_artifact
from slm.core.console import duration, size
from slm.evaluate.ablation import Ablation, Effect, words
from slm.evaluate.statistics.power import LEVEL
from slm.model.config import LoraConfig, ModelConfig
from slm.model.counting import flops_per_token
from slm.report.charts import NARROW, WIDE, Interval, forest_figure, trade_off
from slm.report.html import page
from slm.report.page import Fact, Figure, Section, Table, compact, power
from slm.train.ledger import read_ledger, totals

Point = tuple[str, float, float, float, float]
COLUMNS = (
    "change", "metric", "base", "changed", "difference [95 % over seeds]", "test", "p, Holm", "verdict",
)  # fmt: skip
COSTS = ("runs", "seeds", "tokens", "FLOPs of the model", "of its teacher", "time of a run", "beside it")


def ablation_page(found: Ablation) -> str:
    """The page of `slm ablation`."""
    seeds = len(next(iter(found.base.seeds.values())))
    told = [one for one in found.effects if one.corrected_p <= LEVEL]
    count = len({one.change for one in found.effects})
    title = f"{count} change{'s' if count != 1 else ''} of {found.base.runs[0]}"
    are = "is" if len(told) == 1 else "are"
    summary = (
        f"Of {len(found.effects)} differences, {len(told)} {are} told from chance at {LEVEL:.0%} after Holm's "
        "correction."
    )
    facts = [Fact(name, f"{sum(values.values()) / len(values):.4f}", f"the base, mean over {len(values)} seeds")
             for name, values in found.base.seeds.items()]  # fmt: skip
    section = Section("changes", "Changes")
    section.lead = (
        f"Each change alone against the base, over {seeds} seeds: means, 95 % intervals of the difference by Student's "
        "t, p values corrected for their number. With so few seeds an interval is wide: that a change is not told from "
        "chance does not show that it does nothing."
    )
    for number, metric in enumerate(dict.fromkeys(one.metric for one in found.effects)):
        drawn = [
            Interval(one.change, one.difference.value, one.difference.low, one.difference.high)
            for one in found.effects
            if one.metric == metric
        ]
        if any(math.isfinite(end) and end for row in drawn for end in (row.value, row.low, row.high)):
            section.figures.append(
                forest_figure(f"changes-{number}", f"{metric}: difference from the base", drawn, metric)
            )
        section.figures += against_values(found, metric, number) + against_size(found, metric, number)
    section.tables = [Table("Every change", COLUMNS, rows(found)), Table("What each took", COSTS, costs(found))]
    return page(title, "ablation", summary, facts[:4], [section])


def against_values(found: Ablation, metric: str, number: int) -> list[Figure]:
    """The difference against each setting that three groups or more have their own value of, and nothing else."""
    points: dict[str, list[Point]] = {}
    for one in found.effects:
        if one.metric == metric and len(one.values) == 1:
            ((key, (old, new)),) = one.values.items()
            if all(isinstance(value, int | float) and value > 0 for value in (old, new)):
                mine = points.setdefault(key, [("", old, 0.0, 0.0, 0.0)])
                mine.append(("", new, one.difference.value, one.difference.low, one.difference.high))
    return [
        _figure(f"values-{number}-{place}", f"{metric}: difference from the base, by {key}", metric, key, some)
        for place, (key, some) in enumerate(points.items())
        if len(some) > 2
    ]


def against_size(found: Ablation, metric: str, number: int) -> list[Figure]:
    """The difference against the size of what was trained, where adapters of several sizes were."""
    effects = [one for one in found.effects if one.metric == metric]
    if len({found.base.trained_bytes, *(one.trained_bytes for one in effects)} - {0}) < 3:
        return []
    points: list[Point] = [("base", found.base.trained_bytes / 1e6, 0.0, 0.0, 0.0)]
    for one in effects:
        values = [f"{key.rpartition('.')[2]} {new}" for key, (_, new) in one.values.items()]
        whole = any(key.startswith("train.lora.") and new is None for key, (_, new) in one.values.items())
        label, gap = "all weights" if whole else ", ".join(values), one.difference
        points.append((label, one.trained_bytes / 1e6, gap.value, gap.low, gap.high))
    title = f"{metric}: difference from the base, by the size of what was trained"
    return [_figure(f"size-{number}", title, metric, "MB", points)]


def _figure(name: str, title: str, metric: str, x_label: str, points: Sequence[Point]) -> Figure:
    drawn = [
        (label, x, y, low if math.isfinite(low) else y, high if math.isfinite(high) else y)
        for label, x, y, low, high in points
    ]
    wide, narrow = (
        trade_off(f"{name}-{shape[0]}", title, drawn, shape, x_label, y_label=f"Δ {metric}", logarithmic=True)
        for shape in (WIDE, NARROW)
    )
    return Figure(f"{title}.", wide, narrow, wide=True)


def rows(found: Ablation) -> list[tuple[str, ...]]:
    """A line for each change and metric."""
    return [
        (
            one.change, one.metric, f"{one.base.value:.4f}", f"{one.changed.value:.4f}",
            f"{one.difference.value:+.4f} [{one.difference.low:+.4f}, {one.difference.high:+.4f}]",
            "seed by seed" if one.difference.paired else "Welch", f"{one.corrected_p:.2g}", verdict(one),
        )
        for one in found.effects
    ]  # fmt: skip


def verdict(one: Effect) -> str:
    """What may be said of a change."""
    word = "not told from chance" if one.corrected_p > LEVEL else "worse"
    if word == "worse" and (one.difference.value < 0) == one.lower_is_better:
        word = "better"
    return word if one.num_changed == 1 else f"{word}; {one.num_changed} things at once"


def costs(found: Ablation) -> list[tuple[str, ...]]:
    """A line for each group: what a run of it took, as a mean; a teacher in memory computes forward alone."""
    lines: list[tuple[str, ...]] = []
    for group in found.groups:
        one = group.checkpoints[0]
        tokens, parents = int(one.counts["tokens"]), one.manifest["parents"]
        seq_len = int(parents["shards"]["settings"]["seq_len"])
        lora = one.section["train"].get("lora")
        own = tokens * flops_per_token(
            ModelConfig.model_validate(one.section["model"]), seq_len, lora and LoraConfig.model_validate(lora)
        )
        teacher = parents.get("teacher")
        asked = 0.0
        if teacher:
            asked = flops_per_token(ModelConfig.model_validate(teacher["settings"]["model"]), seq_len) * tokens / 3
        seconds = [sum(totals(read_ledger(checkpoint.path.parent)).values()) for checkpoint in group.checkpoints]
        mean = sum(seconds) / len(seconds)
        change = "the base" if group is found.base else words(found.base, group)
        lines.append(
            (
                change, str(len(group.checkpoints)), compact(tokens), power(own), power(asked) if asked else "-",
                duration(mean) if mean else "unknown", _store(one),
            )
        )  # fmt: skip
    return lines


def _store(checkpoint: Artifact) -> str:
    """What a store took that the run has read, for all its readers together."""
    recorded = checkpoint.manifest["parents"].get("distill")
    if recorded is None:
        return "-"
    folder = checkpoint.path / recorded["path"]
    if not (folder / MANIFEST).is_file():
        return "a store that is gone"
    counts = open_artifact(folder, "distill").counts
    num_bytes = counts["bytes_per_token"] * counts["rows"] * counts["seq_len"]
    return f"a store of {size(num_bytes)}, {counts['bytes_per_token']:.0f} B a token, in {duration(counts['seconds'])}"
