"""What a smaller file costs: every compressed variant and every exported file, as `slm compare` shows flavours.

In: the manifests of compress and export. What they do not hold, such as a speed, stays a dash.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm.core.console import size
from slm.core.flavours import flavours
from slm.report.flavours import everything, trade_offs
from slm.report.gather import Run, command
from slm.report.page import Section, percent
from slm.report.sections import mark_stale


def compression(run: Run) -> Section:
    """The table and charts of the costs."""
    section = Section("compression", "Compression")
    if not {"compress", "export"} & set(run.artifacts):
        section.missing = command(run.recipe, "compress", "compress=ship")
        return section
    for stage in ("compress", "export"):
        mark_stale(section, run, stage)
    found = flavours([Path(run.recipe.runs_dir) / run.recipe.run])
    variants, drawn = variants_of(run), trade_offs(found)
    section.figures, section.lead = drawn.figures, drawn.lead
    if variants:
        name = min(variants, key=lambda one: int(variants[one]["size_bytes"]))
        one, whole = variants[name], checkpoint_bytes(run)
        low, high = one["interval_95"]
        section.lead = (
            f"The smallest variant, {name}, takes {percent(one['size_bytes'] / whole)} of the checkpoint's "
            f"{size(whole)} and costs {one['increase']:+.4f} [{low:+.4f}, {high:+.4f}] bits per byte of held-out text. "
            f"{section.lead}"
        )
        section.remarks = list(run.artifacts["compress"].counts.get("notices", []))
    table = everything(found)
    section.tables, section.remarks = table.tables, [*section.remarks, *table.remarks]
    return section


def variants_of(run: Run) -> Mapping[str, Any]:
    """The compressed variants by name."""
    artifact = run.artifacts.get("compress")
    return {} if artifact is None else artifact.counts["variants"]


def checkpoint_bytes(run: Run) -> int:
    """Size of the checkpoint's weights, without what the optimizer remembers."""
    files = run.artifacts["train"].manifest["files"].items()
    return sum(int(record["size_bytes"]) for name, record in files if name.startswith("model-")) or 1
