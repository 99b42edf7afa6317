"""What a smaller file costs: every compressed variant and every exported file beside the checkpoint in float32.

In: the manifests of compress and export. A variant was measured on held-out text, so its rise in bits per byte has an
interval; a file was compared with what it was made from over a few prompts, which shows that it is right rather than
what it costs. A column says which. What a manifest does not hold stays a dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slm.core.console import size
from slm.report.charts import Interval, forest_figure
from slm.report.gather import Run, command
from slm.report.page import Section, Table, percent
from slm.report.sections import mark_stale
from slm.report.stages import format_name

COLUMNS = ("made", "size", "of float32", "Δ bits per byte [95 %]", "mean KL", "same top token", "measured on", "how")
SPEED = "tokens per second"


def compression(run: Run) -> Section:
    """The table and a chart of the costs."""
    section = Section("compression", "Compression")
    variants = variants_of(run)
    if not variants:
        section.missing = command(run.recipe, "compress", "compress=ship")
        return section
    mark_stale(section, run, "compress")
    whole = checkpoint_bytes(run)
    cheapest = min(variants, key=lambda name: int(variants[name]["size_bytes"]))
    one = variants[cheapest]
    section.lead = (
        f"The smallest, {cheapest}, takes {percent(one['size_bytes'] / whole)} of the checkpoint's {size(whole)} and "
        f"costs {_cost(one)} bits per byte of held-out text."
    )
    title = "Rise in bits per byte against float32, with 95 % intervals over held-out documents"
    rows = [Interval(name, found["increase"], *found["interval_95"]) for name, found in variants.items()]
    section.figures = [forest_figure("compression", title, rows, "Δ bits per byte")]
    section.tables = [table(run, variants, whole)]
    section.remarks = list(run.artifacts["compress"].counts.get("notices", []))
    return section


def variants_of(run: Run) -> Mapping[str, Any]:
    """The compressed variants by name."""
    artifact = run.artifacts.get("compress")
    return {} if artifact is None else artifact.counts["variants"]


def checkpoint_bytes(run: Run) -> int:
    """Size of the checkpoint's weights."""
    files = run.artifacts["train"].manifest["files"].items()
    return sum(int(record["size_bytes"]) for name, record in files if name.endswith(".safetensors")) or 1


def table(run: Run, variants: Mapping[str, Any], whole: int) -> Table:
    """Checkpoint, variants and files; speed only where one of them was timed."""
    rows = [("checkpoint, float32", size(whole), percent(1.0), "–", "–", "–", "–", "–", "–")]
    rows += [*_variants(variants, whole), *_files(run, whole)]
    if all(row[-1] == "–" for row in rows):
        return Table("Everything that was made smaller", COLUMNS, [row[:-1] for row in rows])
    return Table("Everything that was made smaller", (*COLUMNS, SPEED), rows)


def _variants(variants: Mapping[str, Any], whole: int) -> Iterator[tuple[str, ...]]:
    for name, found in variants.items():
        settings = found["settings"]
        group = f"groups of {settings['group_size']}" if settings["group_size"] else "rows"
        yield (
            f"{name}, weights", size(found["size_bytes"]), percent(found["size_bytes"] / whole), _cost(found),
            f"{found['mean_kl']:.3g}", percent(found["top1_agreement"]), f"{found['positions']:,} held-out tokens",
            f"{settings['method']}, {settings['bits']} bits, {group}", _speed(found),
        )  # fmt: skip


def _files(run: Run, whole: int) -> Iterator[tuple[str, ...]]:
    for name, found in run.parity.get("formats", {}).items():
        yield (
            f"{format_name(name)}, file", size(found["size_bytes"]), percent(found["size_bytes"] / whole), _cost(found),
            f"{found['mean_kl']:.3g}", percent(found["top1_agreement"]), f"{found['positions']:,} tokens of prompts",
            "–", _speed(found),
        )  # fmt: skip


def _cost(found: Mapping[str, Any]) -> str:
    if found.get("increase") is None:
        return "–"
    low, high = found["interval_95"]
    return f"{found['increase']:+.4f} [{low:+.4f}, {high:+.4f}]"


def _speed(found: Mapping[str, Any]) -> str:
    rate = found.get("tokens_per_second")
    return f"{rate:,.0f}" if isinstance(rate, int | float) else "–"
