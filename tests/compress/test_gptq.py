"""GPTQ: against a plain implementation of the paper's update, and against rounding to the nearest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from slm.compress import gptq
from slm.core.errors import UserError
from slm.model.integers import Grid, parameters, quantize

GRID = Grid(4, 64)


def one_column_after_the_other(weight_OI: Tensor, gram_II: Tensor, grid: Grid) -> Tensor:
    """Optimal brain quantization in a fixed order, the inverse of what is left computed anew for every column."""
    weight = weight_OI.double().clone()
    damped = gram_II.double() + gptq.DAMPING * gram_II.double().diagonal().mean() * torch.eye(len(gram_II)).double()
    scales, zeros = parameters(weight_OI, grid)
    order = torch.argsort(gram_II.diagonal(), descending=True, stable=True).tolist()
    found = torch.zeros_like(weight)
    for place, column in enumerate(order):
        left = order[place:]
        inverse = torch.linalg.inv(damped[left][:, left])
        scale, zero = (part[:, column // 64].double() for part in (scales, zeros))
        value = ((weight[:, column] / scale).round() + zero).clamp(0, grid.largest)
        found[:, column] = (value - zero) * scale
        error = (weight[:, column] - found[:, column]) / inverse[0, 0]
        weight[:, left] -= torch.outer(error, inverse[0])
    return found


def test_it_rounds_as_the_plain_algorithm_does(layer: Any) -> None:
    ours = gptq.quantize(layer.weight_OI, layer.statistics.gram_II, GRID).dequantize()
    plain = one_column_after_the_other(layer.weight_OI, layer.statistics.gram_II, GRID)
    same = ((ours.double() - plain).abs() < 1e-6).double().mean()
    assert float(same) > 0.98  # sums in float32 and float64 part at ties, and what follows a tie parts too
    assert layer.error(ours) == pytest.approx(layer.error(plain.float()), rel=0.02)


def test_it_errs_less_than_rounding_to_the_nearest_on_the_same_grid(layer: Any) -> None:
    ours = gptq.quantize(layer.weight_OI, layer.statistics.gram_II, GRID)
    plain = quantize(layer.weight_OI, GRID)
    assert torch.equal(ours.scales_OG, plain.scales_OG)
    assert layer.error(ours.dequantize()) < 0.7 * layer.error(plain.dequantize())


def test_inputs_that_are_never_there_are_rounded_to_the_nearest_and_spoil_nothing(layer: Any) -> None:
    gram_II = layer.statistics.gram_II.clone()
    gram_II[:, 7] = gram_II[7] = 0
    found = gptq.quantize(layer.weight_OI, gram_II, GRID).values_OI
    assert torch.equal(found[:, 7], quantize(layer.weight_OI, GRID).values_OI[:, 7])
    assert torch.equal(
        gptq.quantize(layer.weight_OI, torch.zeros_like(gram_II), GRID).values_OI,
        quantize(layer.weight_OI, GRID).values_OI,
    )


def test_a_gram_matrix_that_no_damping_mends_is_refused_with_the_way_out() -> None:
    gram_II = torch.eye(64)
    gram_II[0, 0], gram_II[1, 1] = 2e6, -1e6
    with pytest.raises(UserError, match=r"cannot be inverted, even damped.*compress\.calibration\.tokens"):
        gptq.quantize(torch.ones(4, 64), gram_II, GRID)
