"""Does a model that says 70 % get 70 % right? Errors of its stated probabilities, and the one number that mends most.

In: of each prediction the probability of the likeliest answer, whether it was right, the squared error over all
answers (Brier) and the nats of the right one. Out: the expected calibration error over 15 bins of as many predictions
each (Guo et al., arXiv 1706.04599; equal mass by Nixon et al., arXiv 1904.01685: bins of equal width leave most of them
empty), beside what a perfectly calibrated model would score on as many predictions, since that is not 0; mean Brier
score and nats with intervals over clusters; the points of a reliability plot.

Temperature scaling divides the logits by one number. It is fitted on half of the clusters by the likelihood, which is
convex in its inverse, and everything is judged on the other half: fitted and judged on the same, it flatters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.statistics.intervals import Floats, Integers, estimate

BINS = 15
DRAWS = 200
"""Answers of a perfectly calibrated model drawn to know its error on as many predictions."""
COOLEST, HOTTEST = 0.05, 20.0
NEWTON_STEPS = 30


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of each prediction the probability of the likeliest answer, whether it is right, Brier score and nats."""

    confidence_N: Floats
    correct_N: Floats
    brier_N: Floats
    nats_N: Floats


@dataclass(frozen=True, slots=True)
class Calibration:
    """Figures over the predictions that were judged, at one temperature; `points` are (confidence, right, number)."""

    temperature: float
    accuracy: float
    confidence: float
    error: float
    error_if_calibrated: float
    brier: float
    brier_95: tuple[float, float]
    nats: float
    nats_95: tuple[float, float]
    points: list[tuple[float, float, int]]


def bins_of(confidence_N: Floats, count: int = BINS) -> Integers:
    """The bin of each prediction: about as many in each, equal confidences always together."""
    order = np.argsort(confidence_N, kind="stable")
    ranked = confidence_N[order]
    middle = (np.searchsorted(ranked, ranked, "left") + np.searchsorted(ranked, ranked, "right") - 1) / 2
    bins = np.empty(len(order), dtype=np.int64)
    bins[order] = np.floor(middle * count / len(order))
    return bins


def calibration_error(confidence_N: Floats, correct_N: Floats, bins_N: Integers) -> float:
    """Mean distance of confidence and share of right answers over the bins, weighted by their predictions."""
    gaps = np.bincount(bins_N, weights=correct_N - confidence_N)
    return float(np.abs(gaps).sum() / len(confidence_N))


def calibration(found: Predictions, temperature: float, clusters_N: Integers, seed: int) -> Calibration:
    """All figures of these predictions."""
    bins_N = bins_of(found.confidence_N)
    generator = np.random.Generator(np.random.Philox(derive(seed, "calibrated")))
    drawn = [
        calibration_error(found.confidence_N, generator.binomial(1, found.confidence_N).astype(np.float64), bins_N)
        for _ in range(DRAWS)
    ]
    brier, nats = (
        estimate(values, None, clusters_N, seed=derive(seed, "bootstrap")) for values in (found.brier_N, found.nats_N)
    )
    points = [
        (float(found.confidence_N[chosen].mean()), float(found.correct_N[chosen].mean()), int(chosen.sum()))
        for chosen in (bins_N == number for number in np.unique(bins_N))
    ]
    return Calibration(
        temperature, float(found.correct_N.mean()), float(found.confidence_N.mean()),
        calibration_error(found.confidence_N, found.correct_N, bins_N), float(np.mean(drawn)),
        brier.value, (brier.low, brier.high), nats.value, (nats.low, nats.high), points,
    )  # fmt: skip


def before_and_after(
    predict: Callable[[float, Integers], Predictions],
    slopes: Callable[[float, Integers], tuple[float, float]],
    clusters_N: Integers,
    seed: int,
) -> dict[str, Any]:
    """Figures as stated and at the fitted temperature, of the clusters that the fit did not see, for results.json.

    `predict` and `slopes` take the inverse temperature and the positions of the predictions wanted; `slopes` gives the
    first and second derivative of their nats. `UserError` where there are fewer than two clusters.
    """
    even_N = np.unique(clusters_N, return_inverse=True)[1] % 2 == 0
    fitted_M, judged_M = np.flatnonzero(even_N), np.flatnonzero(~even_N)
    if not len(judged_M):
        raise UserError("calibration needs at least two documents or items, half of them to fit; evaluate more")
    inverse = fit(lambda beta: slopes(beta, fitted_M))
    stated, scaled = (
        calibration(predict(beta, judged_M), 1 / beta, clusters_N[judged_M], seed) for beta in (1.0, inverse)
    )
    return {"fitted_on": len(fitted_M), "judged_on": len(judged_M), "stated": asdict(stated), "scaled": asdict(scaled)}


def fit(slopes: Callable[[float], tuple[float, float]]) -> float:
    """The inverse temperature at which the derivative vanishes: Newton's steps, kept between bounds that close in."""
    low, high, beta = 1 / HOTTEST, 1 / COOLEST, 1.0
    for _ in range(NEWTON_STEPS):
        first, second = slopes(beta)
        low, high = (low, beta) if first > 0 else (beta, high)
        step = beta - first / second if second > 0 else low
        following = step if low < step < high else (low * high) ** 0.5
        if abs(following - beta) < 1e-4 * beta:
            return following
        beta = following
    return beta


def choices_calibration(logprobs: Sequence[Sequence[float]], gold: Sequence[int], seed: int) -> dict[str, Any]:
    """Of multiple-choice items: the choices' log-probabilities made to add up to one are what the model states."""
    widest = max(map(len, logprobs))
    logits_NC = np.full((len(logprobs), widest), -np.inf)
    for row, values in zip(logits_NC, logprobs, strict=True):
        row[: len(values)] = values
    gold_N = np.asarray(gold, dtype=np.int64)
    return before_and_after(
        lambda beta, chosen: choice_predictions(logits_NC[chosen], gold_N[chosen], beta),
        lambda beta, chosen: choice_slopes(logits_NC[chosen], gold_N[chosen], beta),
        np.arange(len(gold_N)),
        seed,
    )


def choice_predictions(logits_NC: Floats, gold_N: Integers, beta: float) -> Predictions:
    """Predictions of softmax(beta logits); choices that an item lacks are -inf."""
    p_NC = _softmax(beta * logits_NC)
    right_N = p_NC[np.arange(len(gold_N)), gold_N]
    return Predictions(
        p_NC.max(axis=1),
        (p_NC.argmax(axis=1) == gold_N).astype(np.float64),
        (p_NC**2).sum(axis=1) - 2 * right_N + 1,
        -np.log(np.maximum(right_N, np.finfo(np.float64).tiny)),
    )


def choice_slopes(logits_NC: Floats, gold_N: Integers, beta: float) -> tuple[float, float]:
    """First and second derivative by beta of the nats of the right choices."""
    p_NC = _softmax(beta * logits_NC)
    finite_NC = np.where(np.isfinite(logits_NC), logits_NC, 0.0)
    mean_N = (p_NC * finite_NC).sum(axis=1)
    spread_N = (p_NC * finite_NC**2).sum(axis=1) - mean_N**2
    return float((mean_N - finite_NC[np.arange(len(gold_N)), gold_N]).sum()), float(spread_N.sum())


def _softmax(logits_NC: Floats) -> Floats:
    raised_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return np.asarray(raised_NC / raised_NC.sum(axis=1, keepdims=True))
