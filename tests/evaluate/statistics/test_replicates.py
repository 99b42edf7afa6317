from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from slm.core.errors import UserError
from slm.evaluate.statistics.replicates import difference_over_seeds, over_seeds

A = {1: 1.412, 2: 1.398, 3: 1.405, 4: 1.421}
B = {1: 1.401, 2: 1.389, 3: 1.399, 4: 1.409}


def test_the_mean_over_seeds_has_students_interval() -> None:
    found = over_seeds(A)
    values = list(A.values())
    theirs = stats.ttest_1samp(values, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert (found.value, found.standard_error) == pytest.approx((np.mean(values), stats.sem(values)))
    assert found.seeds == 4


def test_runs_of_the_same_seeds_are_compared_seed_by_seed() -> None:
    found = difference_over_seeds(A, dict(reversed(B.items())))
    theirs = stats.ttest_rel(list(B.values()), list(A.values()))
    interval = theirs.confidence_interval()
    assert found.paired
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.high < 0


def test_runs_of_other_seeds_are_compared_by_welchs_test() -> None:
    others = {seed + 10: value for seed, value in list(B.items())[:3]}
    found = difference_over_seeds(A, others)
    theirs = stats.ttest_ind(list(others.values()), list(A.values()), equal_var=False)
    interval = theirs.confidence_interval()
    assert not found.paired
    assert found.p_value == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.low < 0 < found.high  # what seeds differ by no longer cancels


def test_equal_values_leave_no_doubt() -> None:
    same = over_seeds({1: 2.0, 2: 2.0})
    assert (same.low, same.high, same.p_value) == (2.0, 2.0, 0.0)
    assert difference_over_seeds({1: 2.0, 2: 2.0}, {3: 2.0, 4: 2.0}).p_value == 1.0


def test_one_seed_is_refused() -> None:
    with pytest.raises(UserError, match=r"^1 seed\(s\) of a setting were given; an interval over seeds needs two"):
        over_seeds({1: 2.0})
    with pytest.raises(UserError, match=r"train it with other seeds too"):
        difference_over_seeds(A, {9: 1.0})
