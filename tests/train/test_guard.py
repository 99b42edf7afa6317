"""Verdicts on steps: what is refused, what enters the window, and that a restored guard judges alike."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core.errors import UserError
from slm.train.config import GuardConfig
from slm.train.guard import Guard

SMALL = GuardConfig(window=8, warm_in=4, max_skips=3)


def warmed(config: GuardConfig = SMALL) -> Guard:
    guard = Guard(config)
    for number in range(config.warm_in):
        assert guard.judge(3.0 + 0.1 * (number % 2), 1.0 + 0.2 * (number % 2)) == ""
    return guard


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_from_the_first_step(value):
    assert Guard(SMALL).judge(value, 1.0).startswith("not finite: loss")
    assert Guard(SMALL).judge(3.0, value).startswith("not finite: loss 3.0, gradient norm")


def test_a_spike_is_refused_after_the_warm_in_and_not_before():
    assert Guard(SMALL).judge(1e6, 1e6) == ""
    assert warmed().judge(10.0, 1.0) == "spike: loss 10 above 3.35"
    assert warmed().judge(3.0, 50.0) == "spike: gradient norm 50 above 1.7"
    assert warmed().judge(0.001, 0.001) == ""


def test_the_limit_is_six_standard_deviations_above_the_mean_of_the_window():
    values = [3.0, 3.1, 2.9, 3.3, 3.2, 3.4, 2.8, 3.0, 3.15, 3.05]
    limit = statistics.fmean(values[-8:]) + 6 * statistics.pstdev(values[-8:])
    for offset, refused in ((-1e-6, False), (1e-6, True)):
        guard = Guard(SMALL)
        for value in values:
            assert guard.judge(value, 1.0) == ""
        assert bool(guard.judge(limit + offset, 1.0)) is refused


def test_refused_values_do_not_enter_the_window():
    guard = warmed()
    before = guard.state_dict()
    for value in (math.nan, 1e9, math.inf):
        assert guard.judge(value, 1.0)
        assert guard.judge(3.0, value)
    assert guard.state_dict() == before
    assert guard.judge(3.05, 1.1) == ""


def test_rounding_is_no_spike_in_a_flat_window():
    guard = Guard(SMALL)
    for _ in range(8):
        assert guard.judge(2.0, 1.0) == ""
    assert guard.judge(2.0 + 1e-6, 1.0 + 1e-6) == ""
    assert guard.judge(2.1, 1.0)


def test_a_row_of_skips_is_ended_by_an_accepted_step():
    guard = warmed()
    for step in range(2):
        guard.skip(step=step)
        assert not guard.must_rewind
    guard.judge(3.0, 1.0)
    assert guard.skips == []
    for step in range(3):
        assert not guard.must_rewind
        guard.skip(step=step)
    assert guard.must_rewind
    assert guard.skipped == 5


def test_history_outlives_a_rewind_and_the_open_row_does_not():
    guard, older = warmed(), warmed()
    guard.skip(step=9)
    older.rewound(4, guard)
    assert (older.rewinds, older.skipped, older.skips) == ([4], 1, [])


def test_switched_off_only_what_is_not_finite_ends_the_run():
    guard = warmed(GuardConfig(enabled=False))
    assert guard.judge(1e9, 1e9) == ""
    with pytest.raises(UserError, match=r"the loss \(nan\).*is not finite.*lower train\.optimizer\.lr.*guard\.enabled"):
        guard.judge(math.nan, 1.0)


@given(
    st.lists(st.tuples(st.floats(allow_nan=True), st.floats(0, 10)), max_size=40),
    st.integers(0, 40),
)
def test_a_guard_restored_at_any_step_judges_like_the_unbroken_one(values, stop):
    unbroken, resumed = Guard(SMALL), Guard(SMALL)
    for number, (loss, norm) in enumerate(values):
        if number == stop:
            state = json.loads(json.dumps(resumed.state_dict()))
            resumed = Guard(SMALL)
            resumed.load_state_dict(state)
        assert resumed.judge(loss, norm) == unbroken.judge(loss, norm)
    assert resumed.state_dict() == unbroken.state_dict()


def test_a_warm_in_longer_than_the_window_is_refused():
    with pytest.raises(ValueError, match=r"warm_in \(64\) must not exceed window \(32\); lower it"):
        GuardConfig(window=32)


def test_steps_on_the_students_own_words_are_judged_among_themselves():
    guard = warmed()
    for number in range(SMALL.warm_in):
        assert guard.judge(1.0 + 0.1 * (number % 2), 0.1 + 0.01 * (number % 2), own=True) == ""
    restored = Guard(SMALL)
    restored.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    for each in (guard, restored):
        assert each.judge(3.0, 1.0) == ""  # as the text's steps were, though far above the others
        assert each.judge(3.0, 0.1, own=True) == "spike: loss 3 above 1.35"
