"""`slm power`: how small a difference an evaluation can show, or how many items it takes, before anything is trained.

In: `items=` or `difference=` with the `rate` of right answers, or an evaluated run, whose own errors are then taken.
Out: a table over how far two models agree from item to item (the correlation of their scores): 0 for unrelated ones,
about 0.5 for models of one family on multiple choice, 0.9 and more for bits per byte of two runs of one recipe.
`slm compare` prints the same of two runs whose agreement is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from slm.core.console import say, table
from slm.core.errors import ProblemsError
from slm.evaluate.statistics.power import POWER, detectable, items_needed, spread_of_difference

CORRELATIONS = (0.0, 0.5, 0.9)
KEYS = {"items": 0.0, "difference": 0.0, "rate": 0.5, "power": POWER}
USAGE = "usage: slm power RUN, or slm power items=N or difference=D, with rate=0.5 and power=0.8 unless given"


def power(arguments: Sequence[str]) -> None:
    """Print what can be found; `ProblemsError` for a line that asks nothing."""
    if len(arguments) == 1 and "=" not in arguments[0]:
        _of_run(Path(arguments[0]))
        return
    given = KEYS | _numbers(arguments)
    if bool(given["items"]) == bool(given["difference"]):
        raise ProblemsError([f"give either items or difference; {USAGE}"])
    if (
        not 0 < given["rate"] < 1
        or not 0 < given["power"] < 1
        or given["items"] < 0
        or not 0 <= given["difference"] < 1
    ):
        raise ProblemsError([f"rate, power and difference lie between 0 and 1, items above 0; {USAGE}"])
    spreads = [(agreement, spread_of_difference(given["rate"], agreement)) for agreement in CORRELATIONS]
    if given["items"]:
        count = int(given["items"])
        said = f"With {count:,} items, {given['rate']:.0%} right, found"
        say(f"{said} with a probability of {given['power']:g} at 5 %:")
        rows = [(f"{r:g}", detectable(spread / math.sqrt(count), count, given["power"])) for r, spread in spreads]
        table("", ("correlation", "smallest difference"), rows)
    else:
        say(f"To find {given['difference']:g} at {given['rate']:.0%} right with a probability of {given['power']:g}:")
        needed = [(f"{r:g}", items_needed(given["difference"], spread, given["power"])) for r, spread in spreads]
        table("", ("correlation", "items"), needed)


def _numbers(arguments: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in arguments:
        key, _, text = word.partition("=")
        try:
            found[key] = float(text)
        except ValueError as error:
            raise ProblemsError([f"{word}: {key} takes a number; {USAGE}"]) from error
        if key not in KEYS or not math.isfinite(found[key]):
            raise ProblemsError([f"{word}: known are {', '.join(KEYS)}, each a number; {USAGE}"])
    return found


def _of_run(path: Path) -> None:
    from slm.evaluate.measurements import evaluation_of, read_measurements
    from slm.evaluate.statistics.intervals import cluster_sums, standard_error

    evaluation = evaluation_of(path)
    rows: list[tuple[object, ...]] = []
    for name, one in read_measurements(evaluation).items():
        sums_C2 = cluster_sums(one.numerators_N, one.denominators_N, one.clusters_N)
        error, clusters = standard_error(sums_C2), len(sums_C2)
        smallest = (
            detectable(error * math.sqrt(2 * (1 - r)), clusters) if error else "unknown: all alike"
            for r in CORRELATIONS
        )
        rows.append((name, len(one.keys_N), error, *smallest))
    title = f"{evaluation.path}: smallest difference of another run that is found four times in five at 5 %"
    headings = tuple(f"at correlation {r:g}" for r in CORRELATIONS)
    table(title, ("metric", "items", "standard error", *headings), rows)
