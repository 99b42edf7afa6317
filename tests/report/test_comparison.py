from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from slm.core.artifact import Artifact
from slm.evaluate import comparison
from slm.evaluate.statistics.paired import Difference
from slm.report.comparison import comparison_page, detectable_text, p_text, signed, value_text
from tests.evaluate.planted import HOSTILE, document_rows, item_rows, publish, publish_corpus


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("comparison")
    corpus = publish_corpus(folder / "corpus")
    a = publish(folder / "plain", corpus, document_rows(0.0, 1), item_rows(0.5, 1))
    return a, publish(folder / "changed", corpus, document_rows(0.05, 2), item_rows(1.5, 2))


@pytest.fixture(scope="module")
def page(pair: tuple[Artifact, Artifact]) -> str:
    pairs, only = comparison.pairs_of(*pair)
    found = comparison.compare(pairs, only)
    texts = comparison.with_texts(found.changes, pair[0])
    found = comparison.Comparison(found.findings, found.parts, found.parts_left_out, texts, ["x: acc (3 items)"])
    return comparison_page(*pair, comparison.prospects(pairs), found)


def test_texts_of_the_runs_are_shown_and_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "Text of prose/" in page
    assert "Question " in page
    assert "&lt;script&gt;" in page


def test_every_value_stands_with_its_interval(page: str) -> None:
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page[page.index('id="differences"') : page.index('id="before"')])
    rows = [cells[index : index + 8] for index in range(0, len(cells), 8)]
    assert len(rows) == 2
    number = r"−?\d+\.\d+"
    for _, gap, _, a, b, *_ in rows:
        for cell in (a, b, gap.removeprefix("+")):
            assert re.fullmatch(rf"{number} \[{number},\u00a0{number}\]", cell), cell
    assert [row[0] for row in rows] == ["A is better", "B is better"]
    assert "strong" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)  # no bold best


def test_the_sections_say_what_could_be_found_and_what_was_left_out(page: str) -> None:
    for words in (
        "smallest detectable difference", "Not compared: x: acc (3 items).", "source: prose", "contamination: clean",
        "share of rare tokens: ", "slm evaluate measures it",
        "Worse in B", "Better in B", "Holm", "Benjamini and Hochberg",
    ):  # fmt: skip
        assert words in page, words


def test_numbers_have_as_many_digits_as_their_error_allows() -> None:
    found = Difference(-0.012345, 0.00071, -0.0137, -0.0110, 0.0001, 50, 50)
    assert signed(found.value, found) == "−0.01235"
    assert signed(0.25, Difference(0.25, 0.04, 0.17, 0.33, 0.01, 50, 50)) == "+0.250"
    assert signed(0.0, Difference(0.0, 0.0, 0.0, 0.0, 1.0, 50, 50)) == "0.000"
    assert value_text(comparison.Estimate(2.0, math.inf, 2.0, 2.0, 1, 1)) == "2.000 [2.000,\u00a02.000]"
    assert [p_text(p) for p in (0.0001, 0.00312, 0.049, 0.5)] == ["< 0.0002", "0.0031", "0.049", "0.50"]


def test_the_artifacts_that_were_compared_are_named(pair: tuple[Artifact, Artifact], page: str) -> None:
    assert all(one.fingerprint[:12] in page and one.path.as_posix() in page for one in pair)
    assert isinstance(pair[0].path, Path)


def test_without_scatter_nobody_knows_what_could_be_found() -> None:
    assert [detectable_text(value) for value in (0.0, 0.0312, math.inf)] == [
        "unknown: no item differs", "0.031", "none: too few items",
    ]  # fmt: skip
