from __future__ import annotations

import re
from pathlib import Path

import pytest

from slm import cli
from slm.core.errors import ProblemsError, UserError
from slm.evaluate.statistics.power import detectable, items_needed, spread_of_difference
from tests.evaluate.planted import document_rows, item_rows, publish, publish_corpus


def test_items_give_the_smallest_difference_and_a_difference_the_items(capsys: pytest.CaptureFixture[str]) -> None:
    cli.dispatch(["power", "items=1000", "rate=0.4"])
    printed = capsys.readouterr().out
    assert "With 1,000 items, 40% right, found with a probability of 0.8 at 5 %" in printed
    for correlation in (0.0, 0.5, 0.9):
        smallest = detectable(spread_of_difference(0.4, correlation) / 1_000**0.5, 1_000)
        assert re.search(rf"{correlation:g} +{smallest:.4g}", printed), smallest
    cli.dispatch(["power", "difference=0.02", "rate=0.4", "power=0.9"])
    printed = capsys.readouterr().out
    assert f"{items_needed(0.02, spread_of_difference(0.4, 0.5), 0.9):,}" in printed


def test_a_run_gives_its_own_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "one", publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1), item_rows(0.5, 1))
    cli.dispatch(["power", str(tmp_path / "one")])
    printed = capsys.readouterr().out
    assert "bits per byte" in printed
    numbers = re.search(r"quiz: acc +200 +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", printed)
    assert numbers is not None
    error, unrelated, *_, near = map(float, numbers.groups())
    assert unrelated == pytest.approx(2.82 * 2**0.5 * error, rel=0.01)
    assert near == pytest.approx(unrelated * 0.1**0.5, rel=0.01)


def test_where_all_items_fail_nobody_knows_what_could_be_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = [{**row, "value": 0.0} for row in item_rows(0.5, 1)]
    publish(tmp_path / "one", publish_corpus(tmp_path / "corpus"), document_rows(0.0, 1), failed)
    cli.dispatch(["power", str(tmp_path / "one")])
    assert re.search(r"quiz: acc +200 +0( +unknown: all alike){3}", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "give either items or difference; usage: slm power RUN"),
        (["items=10", "difference=0.1"], "give either items or difference"),
        (["items=many"], "items=many: items takes a number"),
        (["item=5"], "item=5: known are items, difference, rate, power"),
        (["items=5", "rate=1.5"], "rate, power and difference lie between 0 and 1"),
    ],
)
def test_a_line_that_asks_nothing_is_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(ProblemsError, match=sentence):
        cli.dispatch(["power", *arguments])


def test_a_run_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no evaluation"):
        cli.dispatch(["power", str(tmp_path)])
