"""`slm compare A B [PAGE.html]`: two evaluated runs on identical items; or the flavours of runs, side by side.

In: the folders of two runs, or of two evaluate artifacts. Out: what could be found at all, printed before anything is
compared; then every metric with its interval, the paired difference, its p value corrected for their number; and one
self-contained page with the parts of the items and the texts on which they differ by most. Two runs of 10,000 items
take 5 s.

In: one run, or any number of export and compress artifacts. Out: one table of all forms of the model, each with what
it costs, its size and its speed, and a page that draws the first against the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from slm.core.artifact import write_atomically
from slm.core.console import say, table
from slm.core.errors import ProblemsError, UserError
from slm.core.flavours import flavours, holds_flavours, show

USAGE = (
    "usage: slm compare A B [PAGE.html], two runs such as runs/one runs/two; or slm compare RUN|EXPORT|COMPRESS ... "
    "[PAGE.html], one run or the artifacts that hold its flavours"
)


def compare(arguments: Sequence[str]) -> None:
    """Print the comparison and write its page, beside the last of what is compared where no place is named."""
    page = Path(arguments[-1]) if arguments and arguments[-1].endswith(".html") else None
    places = [Path(word) for word in (arguments[:-1] if page else arguments)]
    if not places or any("=" in str(place) for place in places):
        raise ProblemsError([USAGE])
    if len(places) == 1 or all(holds_flavours(place) for place in places):
        _flavours(places, page)
    elif len(places) == 2:
        _evaluations(places, page)
    else:
        raise ProblemsError([USAGE])


def _flavours(places: Sequence[Path], page: Path | None) -> None:
    from slm.report.flavours import flavours_page

    found = flavours(places)
    show(found)
    place = page or (places[-1].parent if holds_flavours(places[-1]) else places[-1]) / "flavours.html"
    write_atomically(place, flavours_page(found))
    say(f"compare: {place}")


def _evaluations(places: Sequence[Path], page: Path | None) -> None:
    from slm.evaluate import comparison
    from slm.evaluate.measurements import evaluation_of, name_of
    from slm.report.comparison import COLUMNS, comparison_page, detectable_text, printed_rows

    a, b = (evaluation_of(place) for place in places)
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
    place = page or b.path.parent / f"compared-with-{name_of(a)}.html"
    write_atomically(place, comparison_page(a, b, prospects, found))
    say(f"compare: {place}")
