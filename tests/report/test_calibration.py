from __future__ import annotations

import numpy as np
import pytest

from slm.evaluate.statistics.calibration import choices_calibration
from slm.report.calibration import calibration


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    generator = np.random.default_rng(0)
    logprobs = generator.normal(-5, 3, (200, 4))
    return choices_calibration(logprobs.tolist(), generator.integers(4, size=200).tolist(), 0)


def test_one_run_shows_what_it_states_beside_what_a_temperature_makes_of_it(found) -> None:
    section = calibration({"mine": {"calibration": {"quiz": found}}})
    assert [figure.caption for figure in section.figures] == ["Reliability: quiz"]
    svg = section.figures[0].svg
    assert "as stated" in svg
    assert "scaled" in svg
    assert "var(--first)" in svg
    assert 'id="reliability-0-title"' in svg
    (row,) = section.tables[0].rows
    assert row[:3] == ("quiz", "mine", "100")
    assert float(row[5]) == pytest.approx(found["stated"]["error"], abs=1e-4)
    assert float(row[9]) < float(row[5])


def test_two_runs_share_a_plot_and_have_a_row_each(found) -> None:
    section = calibration({"A": {"calibration": {"quiz": found}}, "B": {"calibration": {"quiz": found, "more": found}}})
    assert len(section.figures) == 2
    assert [row[:2] for row in section.tables[0].rows] == [("quiz", "A"), ("quiz", "B"), ("more", "B")]
    assert ">A<" in section.figures[0].svg
    assert ">B<" in section.figures[0].svg


def test_without_figures_it_says_so() -> None:
    assert calibration({"mine": {}}).missing == "slm evaluate measures it"
    assert calibration({"mine": {"calibration": {}}}).missing
