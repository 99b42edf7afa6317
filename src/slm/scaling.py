"""`slm scaling RUN RUN ... [PAGE.html]`: what more parameters, tokens and computation buy, from a ladder of runs.

In: five evaluated runs or more on the same held-out documents, such as `-m train.tokens=1e5,2e5,4e5` makes. Out: a
table with tokens per parameter and FLOPs, the law fitted to them with intervals, whether the smaller runs foretell
the largest, and a page that draws it (`scaling.html` beside the runs, unless named).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slm.core.artifact import write_atomically
from slm.core.console import say, table
from slm.core.errors import ProblemsError


def scaling(arguments: Sequence[str]) -> None:
    """Fit, print and draw."""
    paths = [Path(word) for word in arguments if not word.endswith(".html")]
    pages = [Path(word) for word in arguments if word.endswith(".html")]
    if len(paths) < 2 or len(pages) > 1 or any("=" in word for word in arguments):
        raise ProblemsError(["usage: slm scaling RUN RUN ... [PAGE.html], such as slm scaling runs/ladder-*"])
    from slm.core.seeds import derive
    from slm.evaluate.measurements import evaluation_of
    from slm.evaluate.scaling import rungs as rungs_of
    from slm.evaluate.statistics.power_law import ladder
    from slm.report.scaling import COLUMNS, check, formula, rows, scaling_page
    from slm.train.metrics import METRICS, read_metrics

    rungs = rungs_of([evaluation_of(path) for path in paths])
    found = ladder([one.point for one in rungs], derive(0, "scaling"))
    curves = {
        one.name: [
            (float(row["tokens"]), float(row["bits_per_byte"]))
            for row in read_metrics(one.path / METRICS)
            if row["kind"] == "evaluate"
        ]
        for one in rungs
    }
    table("Runs by computation", COLUMNS, rows(rungs, found))
    say(f"scaling: {formula(found)}")
    for name, (low, high) in found.intervals.items():
        say(f"scaling: {name} = {found.fit.constants[name]:.4g}, 95 % interval {low:.3g} to {high:.3g}")
    say(f"scaling: {check(rungs, found).lead}")
    place = pages[0] if pages else paths[0].parent / "scaling.html"
    write_atomically(place, scaling_page(rungs, found, curves))
    say(f"scaling: {place}")
