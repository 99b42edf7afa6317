"""Learning-rate schedules as functions of tokens."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.train.config import ScheduleConfig
from slm.train.schedule import lr_share

TOTAL = 1_000


def share(kind: str, tokens: float, **settings: float) -> float:
    return lr_share(ScheduleConfig(kind=kind, **settings), tokens, TOTAL)


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear", "constant"])
def test_warm_up_is_linear_from_zero(kind):
    assert [share(kind, tokens, warmup_tokens=100) for tokens in (0, 25, 50)] == [0.0, 0.25, 0.5]


def test_wsd_holds_then_falls_linearly_over_its_last_part():
    values = [share("wsd", tokens, decay_fraction=0.4) for tokens in (0, 599, 600, 800, 1000)]
    assert values == pytest.approx([1, 1, 1, 0.5, 0])


def test_cosine_is_half_way_down_in_the_middle():
    assert share("cosine", 250) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert share("cosine", 500) == pytest.approx(0.5)


def test_linear_falls_from_the_end_of_the_warm_up():
    assert share("linear", 550, warmup_tokens=100) == pytest.approx(0.5)


def test_constant_never_falls():
    assert share("constant", 1000, final_lr_fraction=0.1) == 1.0


@pytest.mark.parametrize("kind", ["wsd", "cosine", "linear"])
def test_the_end_is_the_final_fraction(kind):
    assert share(kind, 1000, final_lr_fraction=0.1) == pytest.approx(0.1)
    assert share(kind, 5000, final_lr_fraction=0.1) == pytest.approx(0.1)


@given(
    kind=st.sampled_from(["wsd", "cosine", "linear", "constant"]),
    warmup=st.integers(0, 900),
    decay=st.floats(0.01, 1),
    final=st.floats(0, 1),
    tokens=st.floats(0, 1000),
)
def test_a_share_lies_between_zero_and_one(kind, warmup, decay, final, tokens):
    config = ScheduleConfig(kind=kind, warmup_tokens=warmup, decay_fraction=decay, final_lr_fraction=final)
    assert 0.0 <= lr_share(config, tokens, TOTAL) <= 1.0
