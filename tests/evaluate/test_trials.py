from __future__ import annotations

from slm.evaluate.statistics.replicates import OverSeeds
from slm.evaluate.trials import Finalist, Trial, best

NOTHING = OverSeeds(0.0, 0.0, 0.0, 0.0, 1.0, 3)


def trial(number: int, value: float, state="finished", lr: float | None = None) -> Trial:
    return Trial(number, state, {"lr": number if lr is None else lr}, {1: 9.0, 2: value}, 1.0, 1.0)


def test_only_what_came_to_its_end_has_a_value():
    assert trial(0, 2.5).value == 2.5
    assert trial(0, 2.5, "ended early").value is None


def test_the_best_are_finished_and_each_setting_stands_once():
    trials = [trial(0, 3.0), trial(1, 1.0, "ended early"), trial(2, 2.0), trial(3, 2.1, lr=2), trial(4, 2.5)]
    assert [one.number for one in best(trials, 2)] == [2, 4]
    assert [one.number for one in best(trials, 9)] == [2, 4, 0]


def test_a_finalist_is_better_only_where_it_is_told_from_the_recipe():
    gap = OverSeeds(-0.1, 0.01, -0.2, -0.05, 0.01, 3)
    assert Finalist(trial(0, 2.0), NOTHING, 2.1, gap, 0.03).better
    assert not Finalist(trial(0, 2.0), NOTHING, 2.1, gap, 0.06).better
    assert not Finalist(trial(0, 2.0), NOTHING, 2.1, OverSeeds(0.1, 0.01, 0.05, 0.2, 0.01, 3), 0.03).better
