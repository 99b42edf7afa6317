"""GPTQ: round one input after the other, and let the inputs that are left make up for the error.

After Frantar et al. (arXiv 2210.17323). In: a matrix [O, I], the Gram matrix of its inputs, a grid. Out: integers.
Columns are taken by falling diagonal of the Gram matrix (the paper's "act-order"), but scales and zero points are
those of the plain groups, fixed beforehand, so no file needs an index of groups. Inputs that the text never had are
rounded to the nearest (the authors' code sets them to 0, which a text that does have them would notice). Damping adds
a hundredth of the mean diagonal, ten times more for as long as the Cholesky factorisation fails. Work is in blocks of
128 columns; cost O(I^3) for the inverse and O(O I^2) for the updates.

Shapes: O outputs, I inputs, G groups, B columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from slm.core.errors import UserError
from slm.model.integers import Grid, Integers, parameters

BLOCK = 128
DAMPING = 0.01
MOST_DAMPING = 10.0


def quantize(weight_OI: Tensor, gram_II: Tensor, grid: Grid, clip_OG: Tensor | None = None) -> Integers:
    """The integers whose outputs over the text behind `gram_II` lie close to those of `weight_OI`."""
    outputs, inputs = weight_OI.shape
    weight_OI = weight_OI.detach().float().clone()
    diagonal_I = gram_II.diagonal()
    scales_OG, zeros_OG = parameters(weight_OI, grid, clip_OG)
    size = inputs // scales_OG.shape[1]
    order_I = torch.argsort(diagonal_I, descending=True, stable=True)
    weight_OI = weight_OI[:, order_I]
    group_I = order_I // size
    factor_II = inverse_factor(gram_II[order_I][:, order_I])
    scale_OI, zero_OI = scales_OG.float()[:, group_I], zeros_OG.float()[:, group_I]
    values_OI = torch.empty(outputs, inputs, dtype=torch.uint8)

    def nearest(column: int) -> Tensor:
        scale_O, zero_O = scale_OI[:, column], zero_OI[:, column]
        value_O = ((weight_OI[:, column] / scale_O).round() + zero_O).clamp(0, grid.largest)
        values_OI[:, column] = value_O.to(torch.uint8)
        return (value_O - zero_O) * scale_O

    sweep(weight_OI, factor_II, nearest)
    plain_OI = torch.empty_like(values_OI)
    plain_OI[:, order_I] = values_OI
    return Integers(plain_OI, scales_OG, zeros_OG, grid)


def sweep(weight_OI: Tensor, factor_II: Tensor, replacement: Callable[[int], Tensor]) -> None:
    """Go through the columns of `weight_OI`, changing in place those that are left to make up for each one's error.

    `replacement` is asked for what stands for a column [O] when its turn has come.
    """
    outputs, inputs = weight_OI.shape
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors_OB = torch.empty(outputs, stop - start)
        for column in range(start, stop):
            error_O = (weight_OI[:, column] - replacement(column)) / factor_II[column, column]
            weight_OI[:, column + 1 : stop] -= torch.outer(error_O, factor_II[column, column + 1 : stop])
            errors_OB[:, column - start] = error_O
        weight_OI[:, stop:] -= errors_OB @ factor_II[start:stop, stop:]


def inverse_factor(gram_II: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Gram matrix."""
    mean = float(gram_II.diagonal().mean())
    if mean <= 0:
        return torch.eye(len(gram_II))
    damping = DAMPING
    while damping <= MOST_DAMPING:
        damped_II = gram_II.double() + damping * mean * torch.eye(len(gram_II), dtype=torch.float64)
        lower_II, failed = torch.linalg.cholesky_ex(damped_II)
        if not failed:
            inverse_II = torch.cholesky_inverse(lower_II)
            upper_II, failed = torch.linalg.cholesky_ex(inverse_II, upper=True)
            if not failed:
                factor_II: Tensor = upper_II.float()
                return factor_II
        damping *= 10
    raise UserError(
        "the calibration text does not tell enough about the inputs of a matrix for GPTQ (its Gram matrix cannot be "
        "inverted, even damped); give more compress.calibration.tokens, or choose awq or rtn"
    )
