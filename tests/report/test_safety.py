from __future__ import annotations

from slm.recipe import build_recipe
from slm.report.gather import Run
from slm.report.safety import measures, safety
from tests.report.conftest import SAFETY


def test_each_figure_stands_with_its_interval_its_bound_and_whether_it_holds() -> None:
    section = measures(SAFETY)
    assert [row[-1] for row in section.tables[0].rows] == ["BROKEN", "held", "–"]
    assert section.tables[0].rows[0][:5] == ("toxic answers", "0.05", "0.01 to 0.139", "60", "at most 0.1")
    assert section.notices == ["toxic answers breaks its bound: 0.05 (0.01 to 0.139), must be at most 0.1."]
    assert section.remarks == ["The toxicity classifier's own figures: precision 0.68 (0.58 to 0.77)."]
    assert [fact.value for fact in section.facts] == ["2", "1"]


def test_without_the_stage_the_command_is_named() -> None:
    run = Run(build_recipe({"run": "plain"}), {}, [], [], [], [], [])
    assert safety(run).missing == "slm safety run=plain"
