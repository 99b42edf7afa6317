from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from slm.evaluate.scaling import Rung
from slm.evaluate.statistics import power_law
from slm.evaluate.statistics.intervals import Estimate
from slm.evaluate.statistics.power_law import Ladder, Point, ladder
from slm.report.scaling import check, frontier, rows, scaling_page


def runs_of(points: list[Point]) -> list[Rung]:
    return [
        Rung(
            f"run-{number}", Path("runs"), point, Estimate(point.loss, 0.01, point.loss - 0.02, point.loss + 0.02, 9, 9)
        )
        for number, point in enumerate(points)
    ]


def joint(parameters: float, tokens: float) -> Point:
    loss = 0.6 + 0.8 * (parameters / 1e6) ** -0.35 + 0.9 * (tokens / 1e6) ** -0.3
    return Point(parameters, tokens, 6 * parameters * tokens, loss)


@pytest.fixture(scope="module")
def found() -> tuple[list[Rung], Ladder]:
    points = [joint(n, d) for n in (1e6, 4e6, 1.6e7) for d in (2e7, 1e8, 5e8)]
    noise = np.random.default_rng(1).normal(0, 0.002, len(points))
    points = sorted(
        (point._replace(loss=point.loss * (1 + float(e))) for point, e in zip(points, noise, strict=True)),
        key=lambda point: point.flops,
    )
    refits, power_law.REFITS = power_law.REFITS, 30
    made = ladder(points, 0)
    power_law.REFITS = refits
    return runs_of(points), made


def test_the_page_has_every_run_the_law_and_the_check(found: tuple[list[Rung], Ladder]) -> None:
    rungs, made = found
    curve = [(one.point.tokens * share, one.point.loss / share**0.1) for one in rungs[:1] for share in (0.5, 1.0)]
    page = scaling_page(rungs, made, {"run-0": curve})
    for words in ("run-0", "run-8", "tokens per parameter", "exponent of tokens", "Without run-8", "That is inside."):
        assert words in page, words
    assert "(parameters / 10⁶)^−" in page
    assert page.count("<svg") == 4
    assert "http" not in page.replace("http://www.w3.org/1999/xlink", "")


def test_each_run_stands_beside_what_the_law_gives_it(found: tuple[list[Rung], Ladder]) -> None:
    rungs, made = found
    losses = made.fit.predict([one.point for one in rungs])
    for row, one, loss in zip(rows(rungs, made), rungs, losses, strict=True):
        assert row[0] == one.name
        assert float(row[6]) == pytest.approx(loss, abs=1e-4)
        assert float(row[7].removesuffix("%")) / 100 == pytest.approx(one.bits.value / loss - 1, abs=1e-4)
        assert float(row[3].replace(",", "")) == pytest.approx(one.point.tokens / one.point.parameters, rel=0.01)


def test_the_frontier_is_below_every_run_of_its_computation(found: tuple[list[Rung], Ladder]) -> None:
    rungs, made = found
    line = frontier(rungs, made)
    logs, losses = [math.log(x) for x, _ in line], [y for _, y in line]
    assert losses == sorted(losses, reverse=True)
    for one in rungs:
        best = np.interp(math.log(one.point.flops), logs, losses)
        assert best <= made.fit.predict([one.point])[0] * 1.002


def test_a_run_that_was_not_foretold_is_said_so(found: tuple[list[Rung], Ladder]) -> None:
    rungs, made = found
    largest = made.held_out
    off = rungs[largest].point._replace(loss=9.0)
    moved = [*rungs[:largest], *runs_of([off])[:1], *rungs[largest + 1 :]]
    assert "That is outside: do not extrapolate" in check(moved, made).lead
