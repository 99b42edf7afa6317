"""GPTQ: round one input after the other, and let the inputs that are left make up for the error.

After Frantar et al. (arXiv 2210.17323). In: a matrix [O, I], the Gram matrix of its inputs, a grid. Out: integers.
Columns are taken by falling diagonal of the Gram matrix (the paper's "act-order"), but scales and zero points are
those of the plain groups, fixed beforehand, so no file needs an index of groups. Inputs that the text never had are
rounded to the nearest (the authors' code sets them to 0, which a text that does have them would notice). Damping adds
a hundredth of the mean diagonal, ten times more for as long as the Cholesky factorisation fails. Work is in blocks of
128 inputs; cost O(I^3) for the inverse and O(O I^2) for the updates.

Shapes: O outputs, I inputs, G groups, B inputs of a block.
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
    scales_OG, zeros_OG = parameters(weight_OI, grid, clip_OG)
    order_I = torch.argsort(gram_II.diagonal(), descending=True, stable=True)
    weight_IO = weight_OI.detach().float().T[order_I]
    group_I = order_I // (len(order_I) // scales_OG.shape[1])
    scale_IO, zero_IO = scales_OG.float().T[group_I], zeros_OG.float().T[group_I]
    values_IO = torch.empty_like(weight_IO, dtype=torch.uint8)

    def nearest(column: int) -> Tensor:
        scale_O, zero_O = scale_IO[column], zero_IO[column]
        value_O = ((weight_IO[column] / scale_O).round_() + zero_O).clamp_(0, grid.largest)
        values_IO[column] = value_O.to(torch.uint8)
        return (value_O - zero_O) * scale_O

    sweep(weight_IO, inverse_factor(gram_II[order_I[:, None], order_I]), nearest)
    return Integers(values_IO[torch.argsort(order_I)].T.contiguous(), scales_OG, zeros_OG, grid)


def sweep(weight_IO: Tensor, factor_II: Tensor, replacement: Callable[[int], Tensor]) -> None:
    """Go through a matrix input by input, changing in place those that are left to make up for each one's error.

    `replacement` is asked for what stands for an input's weights [O] when its turn has come.
    """
    inputs = len(weight_IO)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors_BO = torch.empty_like(weight_IO[start:stop])
        for column in range(start, stop):
            error_O = (weight_IO[column] - replacement(column)) / factor_II[column, column]
            weight_IO[column + 1 : stop].addr_(factor_II[column, column + 1 : stop], error_O, alpha=-1)
            errors_BO[column - start] = error_O
        weight_IO[stop:].addmm_(factor_II[start:stop, stop:].T, errors_BO, alpha=-1)


def inverse_factor(gram_II: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the damped Gram matrix.

    It is the inverse of the lower factor of the matrix taken from its last input to its first, turned round.
    """
    mean, eye_II = float(gram_II.diagonal().mean()), torch.eye(len(gram_II), device=gram_II.device)
    if mean <= 0:
        return eye_II
    damping = DAMPING
    while damping <= MOST_DAMPING:
        damped_II = gram_II.flip(0, 1).double()
        damped_II.diagonal().add_(damping * mean)
        lower_II, failed = torch.linalg.cholesky_ex(damped_II)
        del damped_II
        if not failed:
            factor_II: Tensor = torch.linalg.solve_triangular(lower_II, eye_II.double(), upper=False)
            return factor_II.flip(0, 1).float()
        damping *= 10
    raise UserError(
        "the calibration text does not tell enough about the inputs of a matrix for GPTQ (its Gram matrix cannot be "
        "inverted, even damped); give more compress.calibration.tokens, or choose awq or rtn"
    )
