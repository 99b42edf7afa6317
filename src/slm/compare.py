"""`slm compare A B [PAGE.html]`: two evaluated runs, on identical items, as a table and a page.

In: the folders of two runs, or of two evaluate artifacts. Out: what could be found at all, printed before anything is
compared; then every metric with its interval, the paired difference, its p value corrected for their number; and one
self-contained page with the parts of the items and the texts on which they differ by most. Two runs of 10,000 items
take 5 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slm.core.artifact import write_atomically
from slm.core.console import say, table
from slm.core.errors import ProblemsError, UserError


def compare(arguments: Sequence[str]) -> None:
    """Print the comparison and write its page, beside B where no place is named."""
    if not 2 <= len(arguments) <= 3 or any("=" in word for word in arguments):
        raise ProblemsError(["usage: slm compare A B [PAGE.html], two runs such as runs/one runs/two"])
    from slm.evaluate import comparison
    from slm.evaluate.measurements import evaluation_of, name_of
    from slm.report.comparison import COLUMNS, comparison_page, detectable_text, printed_rows

    a, b = (evaluation_of(Path(argument)) for argument in arguments[:2])
    if a.fingerprint == b.fingerprint:
        raise UserError(f"{a.path} and {b.path} are the same evaluation; give two that differ")
    pairs, only_one = comparison.pairs_of(a, b)
    prospects = comparison.prospects(pairs)
    say(f"A is {a.path}, B is {b.path}")
    rows = [(one.name, one.items, detectable_text(one.detectable)) for one in prospects]
    table("What could be found, four times in five at 5 %", ("metric", "items", "smallest difference"), rows)

    found = comparison.compare(pairs, only_one)
    table("What was found", COLUMNS, printed_rows(found.findings))
    for name in only_one:
        say(f"compare: not compared: {name}")
    told = [one for one in found.parts if one.verdict.endswith("better")]
    say(f"compare: of {len(found.parts)} parts of the items, {len(told)} tell the runs apart")
    found = replace(found, changes=comparison.with_texts(found.changes, a))
    place = Path(arguments[2]) if len(arguments) == 3 else b.path.parent / f"compared-with-{name_of(a)}.html"
    write_atomically(place, comparison_page(a, b, prospects, found))
    say(f"compare: {place}")
