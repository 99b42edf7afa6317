"""AWQ: scale the inputs that matter before rounding, and clip what only widens the grid.

After Lin et al. (arXiv 2306.00978). A linear's inputs are multiplied by `s` in the weights and divided by it in what
comes before (a norm or another linear), which changes nothing in exact arithmetic and moves rounding error away from
large activations. `s` comes from a search over powers of the mean activation, alone (the paper) or over the mean
weight (AutoAWQ's variant); then each group's range is narrowed where that lowers the error. Queries and keys are not
clipped: their error goes through a softmax.

The error minimised is that of the linear's outputs over the calibration text, exactly and without keeping the text:
|| (W - W') X ||^2 = trace((W - W') H (W - W')^T) with H = X X^T, the Gram matrix that GPTQ needs too. For clipping each
group is judged alone, by its block of H, as the authors' code does. Power 0 is in the search, so no matrix becomes
worse than by plain rounding on this measure.

Cost: 40 roundings and products with H for each set of linears, over at most `SEARCHED_ROWS` rows of each, at even
distances (a sum over 256 rows of one kind tells scales apart as that over all does), and 11 roundings for clipping.

Shapes: O outputs, I inputs, G groups, S numbers of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from slm.compress.statistics import InputStatistics
from slm.model.integers import Grid, grouped, quantize

POWERS = 20
CLIP_STEPS = 20
LEAST_CLIP = 0.5
"""No range is narrowed further: the paper's code shrinks by up to half, in twentieths of the whole range."""
SEARCHED_ROWS = 256
"""Rows of a matrix over which scales are compared."""
ROWS_AT_ONCE = 1 << 22
"""Numbers of a matrix whose clipping is searched together."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """What the search found for linears that share an input."""

    scale_I: Tensor
    error: float
    """Squared error of the outputs over the calibration text."""
    plain_error: float
    """The same without scaling."""


def output_error(difference_OI: Tensor, gram_II: Tensor) -> float:
    """Squared error of a linear's outputs over the text behind `gram_II`, if its weights differ so."""
    return float(torch.linalg.vecdot(difference_OI @ gram_II, difference_OI).sum(dtype=torch.float64))


def search_scale(
    weights: Sequence[Tensor], statistics: InputStatistics, grid: Grid, shared_I: Tensor | None = None
) -> Scaling:
    """The scale [I] of the inputs of `weights`, matrices [O, I] that read the same input.

    Inputs with equal numbers in `shared_I` get equal scales.
    """
    gram_II, weight_I = statistics.gram_II, _pooled(_typical_weight(weights, grid), shared_I).clamp(min=1e-8)
    strides = [-(-len(weight_OI) // SEARCHED_ROWS) for weight_OI in weights]
    weights = [weight_OI[::stride] * stride**0.5 for weight_OI, stride in zip(weights, strides, strict=True)]
    plain = _error(weights, torch.ones_like(statistics.mean()), gram_II, grid)
    best = Scaling(torch.ones_like(statistics.mean()), plain, plain)
    activation_I = _pooled(statistics.mean(), shared_I).clamp(min=1e-8)
    for power in (step / POWERS for step in range(POWERS)):
        for against in (None, weight_I):
            if power == 0 and against is None:
                continue
            scale_I = activation_I**power if against is None else activation_I**power / against ** (1 - power)
            scale_I = scale_I.clamp(min=1e-4)
            scale_I = scale_I / (scale_I.max() * scale_I.min()).sqrt()
            if not bool(torch.isfinite(scale_I).all()):
                continue
            error = _error(weights, scale_I, gram_II, grid)
            if error < best.error:
                best = Scaling(scale_I, error, plain)
    return best


def search_clip(weight_OI: Tensor, gram_II: Tensor, grid: Grid) -> Tensor:
    """How far to narrow each group, [O, G] in [0.5, 1], so that its own part of the outputs errs least."""
    outputs, inputs = weight_OI.shape
    groups = grid.groups(inputs)
    size = inputs // groups
    blocks_GSS = torch.stack([gram_II[at : at + size, at : at + size] for at in range(0, inputs, size)])
    best_OG = weight_OI.new_ones(outputs, groups)
    rows = max(1, ROWS_AT_ONCE // inputs)
    for start in range(0, outputs, rows):
        part_RI = weight_OI[start : start + rows]
        least_RG = part_RI.new_full((len(part_RI), groups), float("inf"))
        for step in range(CLIP_STEPS // 2 + 1):
            factor = 1 - step / CLIP_STEPS
            clip_RG = part_RI.new_full((len(part_RI), groups), factor)
            difference_RGS = grouped(quantize(part_RI, grid, clip_RG).dequantize() - part_RI, groups)
            through_RGS = torch.einsum("rgs,gst->rgt", difference_RGS, blocks_GSS)
            error_RG = (through_RGS * difference_RGS).sum(-1)
            better_RG = error_RG < least_RG
            least_RG = torch.where(better_RG, error_RG, least_RG)
            best_OG[start : start + rows] = torch.where(better_RG, factor, best_OG[start : start + rows])
    return best_OG


def _error(weights: Sequence[Tensor], scale_I: Tensor, gram_II: Tensor, grid: Grid) -> float:
    return sum(
        output_error(quantize(weight_OI * scale_I, grid).dequantize() / scale_I - weight_OI, gram_II)
        for weight_OI in weights
    )


def _typical_weight(weights: Sequence[Tensor], grid: Grid) -> Tensor:
    """Mean size [I] of each input's weights relative to the largest of their group."""
    weight_OI = torch.cat([weight.detach() for weight in weights]).abs()
    weight_OGS = grouped(weight_OI, grid.groups(weight_OI.shape[1]))
    mean_I: Tensor = (weight_OGS / weight_OGS.amax(-1, keepdim=True).clamp(min=1e-12)).flatten(1).mean(0)
    return mean_I


def _pooled(values_I: Tensor, shared_I: Tensor | None) -> Tensor:
    """The mean of the values that share a number, at each of their places."""
    if shared_I is None:
        return values_I
    slots = int(shared_I.max()) + 1
    sums = values_I.new_zeros(slots).index_add_(0, shared_I, values_I)
    counts = values_I.new_zeros(slots).index_add_(0, shared_I, torch.ones_like(values_I))
    return (sums / counts.clamp(min=1))[shared_I]
