"""Calibrated answers are called so, overconfident ones are found and mended, against references where there are any."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, special

from slm.core.errors import UserError
from slm.evaluate.statistics.calibration import (
    bins_of,
    calibration_error,
    choice_predictions,
    choice_slopes,
    choices_calibration,
    fit,
)


def answers(items: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of four choices, and right ones drawn from them; stated sharper by 1 / temperature."""
    generator = np.random.default_rng(seed)
    true = special.log_softmax(generator.normal(0, 1.5, (items, 4)), axis=1)
    gold = np.array([generator.choice(4, p=np.exp(row)) for row in true])
    return special.log_softmax(true / temperature, axis=1), gold


def test_a_calibrated_model_has_the_error_of_its_luck_and_temperature_one() -> None:
    logprobs, gold = answers(3_000, 1.0)
    found = choices_calibration(logprobs.tolist(), gold.tolist(), 0)
    stated = found["stated"]
    assert stated["error"] < 1.6 * stated["error_if_calibrated"]
    assert found["scaled"]["temperature"] == pytest.approx(1.0, abs=0.08)
    assert stated["confidence"] == pytest.approx(stated["accuracy"], abs=0.03)


def test_an_overconfident_model_is_found_and_mended_on_items_that_the_fit_did_not_see() -> None:
    logprobs, gold = answers(3_000, 0.5)
    found = choices_calibration(logprobs.tolist(), gold.tolist(), 0)
    stated, scaled = found["stated"], found["scaled"]
    assert scaled["temperature"] == pytest.approx(2.0, rel=0.1)
    assert stated["error"] > 5 * stated["error_if_calibrated"]
    assert scaled["error"] < 1.8 * scaled["error_if_calibrated"]
    assert scaled["nats"] < stated["nats"]
    assert scaled["brier"] < stated["brier"]
    assert scaled["brier_95"][0] < scaled["brier"] < scaled["brier_95"][1]
    assert scaled["accuracy"] == stated["accuracy"]
    assert (found["fitted_on"], found["judged_on"]) == (1_500, 1_500)


def test_the_temperature_is_the_minimum_that_scipy_finds() -> None:
    logprobs, gold = answers(500, 0.7)
    ours = fit(lambda beta: choice_slopes(logprobs, gold, beta))
    theirs = optimize.minimize_scalar(
        lambda beta: choice_predictions(logprobs, gold, beta).nats_N.sum(), bounds=(0.05, 20), method="bounded",
        options={"xatol": 1e-6},
    )  # fmt: skip
    assert ours == pytest.approx(theirs.x, rel=1e-3)


@pytest.mark.parametrize("hopeless", [np.log([0.97, 0.01, 0.01, 0.01]), np.log([0.25, 0.25, 0.25, 0.25])])
def test_the_fit_ends_within_its_bounds_where_there_is_nothing_to_fit(hopeless: np.ndarray) -> None:
    beta = fit(lambda value: choice_slopes(np.tile(hopeless, (20, 1)), np.tile([1, 2, 3, 1], 5), value))
    assert 0.05 <= beta <= 20.0


def test_scores_follow_their_definitions() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2]]))
    found = choice_predictions(logits, np.array([0, 2]), 1.0)
    assert found.confidence_N == pytest.approx([0.7, 0.5])
    assert found.correct_N == pytest.approx([1, 0])
    assert found.brier_N == pytest.approx([0.3**2 + 0.2**2 + 0.1**2, 0.3**2 + 0.5**2 + 0.8**2])
    assert found.nats_N == pytest.approx(-np.log([0.7, 0.2]))


def test_items_with_fewer_choices_are_scored_over_those_they_have() -> None:
    two = [[-1.0, -2.0]] * 40
    padded = choices_calibration([*two, *[[-1.0, -2.0, -3.0, -50.0]] * 2], [0] * 42, 0)
    assert padded["stated"]["confidence"] == pytest.approx(special.softmax([-1, -2])[0], abs=0.01)
    assert np.isfinite(padded["scaled"]["nats"])


def test_bins_hold_equal_numbers_and_the_error_is_their_weighted_gap() -> None:
    confidence = np.random.default_rng(0).random(1_000)
    bins = bins_of(confidence)
    assert np.bincount(bins).tolist() == pytest.approx([66.7] * 15, abs=1.4)
    assert all(confidence[bins == n].max() < confidence[bins == n + 1].min() for n in range(14))
    correct = (np.arange(1_000) % 2).astype(float)
    gaps = [abs(correct[bins == n].mean() - confidence[bins == n].mean()) * (bins == n).mean() for n in range(15)]
    assert calibration_error(confidence, correct, bins) == pytest.approx(sum(gaps))


def test_equal_confidences_share_a_bin_whatever_their_order() -> None:
    confidence = np.array([0.25] * 70 + [0.5] * 20 + [0.9] * 10)
    shuffled = np.random.default_rng(1).permutation(100)
    assert len(set(bins_of(confidence)[:70])) == 1
    assert np.array_equal(bins_of(confidence[shuffled]), bins_of(confidence)[shuffled])


def test_one_item_cannot_be_calibrated() -> None:
    with pytest.raises(UserError, match=r"^calibration needs at least two documents or items, half of them to fit"):
        choices_calibration([[-1.0, -2.0]], [0], 0)
