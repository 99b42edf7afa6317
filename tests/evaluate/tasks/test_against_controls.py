"""A score beside those of models that know nothing: paired, with its interval, corrected for how often one looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from slm.evaluate.statistics.corrections import corrected
from slm.evaluate.tasks.against_controls import against_controls, beside
from slm.evaluate.tasks.items_table import Result

ITEMS = 400


def rows(values, task: str = "t", metric: str = "acc") -> list[Result]:
    return [Result(task, str(number), metric, float(value), "p", 3) for number, value in enumerate(values)]


def test_values_are_matched_by_item_and_a_control_that_was_not_asked_has_none():
    mine = [*rows([1, 0, 1]), *rows([0.5], task="other")]
    found = beside(beside(mine, "random", rows([0, 1, 0])[::-1]), "unigram", rows([1])[:1])
    assert [one.controls for one in found] == [{"random": 0, "unigram": 1}, {"random": 1}, {"random": 0}, {}]
    assert [one.value for one in found] == [1, 0, 1, 0.5]
    assert [(one["task"], one["control"], one["items"]) for one in against_controls(found, 0)] == [
        ("t", "random", 3), ("t", "unigram", 1),
    ]  # fmt: skip


def test_a_known_difference_is_found_and_none_is_not():
    generator = np.random.default_rng(0)
    ours = generator.random(ITEMS) < 0.45
    theirs = generator.random(ITEMS) < 0.25
    alike = np.where(generator.random(ITEMS) < 0.04, ~ours, ours)
    pairs = beside(beside(rows(ours), "random", rows(theirs)), "unigram", rows(alike))
    far, near = against_controls(pairs, 0)
    assert far["value"] == pytest.approx(theirs.mean())
    assert far["difference"] == pytest.approx(ours.mean() - theirs.mean())
    low, high = far["difference_95"]
    assert low < far["difference"] < high
    assert low > 0
    expected = stats.binomtest(int((ours & ~theirs).sum()), int((ours ^ theirs).sum())).pvalue
    assert far["p_value"] == pytest.approx(expected)
    assert far["corrected_p"] < 1e-4
    assert near["corrected_p"] > 0.05
    assert [far["corrected_p"], near["corrected_p"]] == corrected([far["p_value"], near["p_value"]], "holm")
    error = float(stats.sem(ours.astype(float) - theirs))
    assert far["detectable"] == pytest.approx(2.8 * error, rel=0.01)


def test_where_neither_is_ever_right_the_interval_is_not_a_point():
    (found,) = against_controls(beside(rows([0] * 100), "random", rows([0] * 100)), 0)
    bound = 1 - 0.025 ** (1 / 100)
    assert (found["difference"], found["p_value"]) == (0, 1)
    assert found["difference_95"] == pytest.approx([-bound, bound])


def test_of_one_item_nothing_could_be_found():
    (found,) = against_controls(beside(rows([1]), "unigram", rows([0])), 0)
    assert found["detectable"] is None
    assert math.isfinite(found["corrected_p"])
