"""2:4 sparsity: of each four neighbouring weights of a row two become 0, as NVIDIA's sparse tensor cores want it.

In: a matrix [O, I] and, but for `magnitude`, the Gram matrix of its inputs. Out: the matrix with its zeros.

- `magnitude` keeps the two largest.
- `wanda` keeps those largest when multiplied by the norm of their input (Sun et al., arXiv 2306.11695).
- `sparsegpt` goes through the inputs as GPTQ does: of the next four those go whose loss the inputs after them can
  best make up for, and these are changed so that they do (Frantar and Alistarh, arXiv 2301.00774).

Files hold the zeros like any other weight. On GPUs from Ampere on `torch.sparse.to_sparse_semi_structured` (CUTLASS or
cuSPARSELt; float16, bfloat16, int8; sides that are multiples of 32 or 64) packs such matrices: somewhat over half the
memory, and up to twice the rate of products. On a CPU it saves nothing. Not run here for want of a GPU.

Shapes: O outputs, I inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slm.compress.config import Pruning
from slm.compress.gptq import inverse_factor, sweep
from slm.core.errors import UserError

KEPT, OF = 2, 4


def prune(weight_OI: Tensor, by: Pruning, gram_II: Tensor | None = None) -> Tensor:
    """`weight_OI` with two of each four weights set to 0; `wanda` and `sparsegpt` need the Gram matrix."""
    weight_OI = weight_OI.detach().float()
    if weight_OI.shape[1] % OF:
        raise UserError(
            f"a row of {weight_OI.shape[1]:,} weights does not fall into fours, which 2:4 sparsity needs; take a model "
            f"whose widths are multiples of {OF}"
        )
    if by == "magnitude":
        return weight_OI * best(weight_OI.abs())
    assert gram_II is not None  # the stage observes the inputs for these
    if by == "wanda":
        return weight_OI * best(weight_OI.abs() * gram_II.diagonal().sqrt())
    return _sparsegpt(weight_OI, gram_II)


def best(score_OI: Tensor) -> Tensor:
    """True at the two highest scores of each four, the first of equals."""
    score_OGF = score_OI.reshape(len(score_OI), -1, OF)
    chosen_OGK = score_OGF.argsort(dim=-1, descending=True, stable=True)[..., :KEPT]
    kept_OI: Tensor = torch.zeros_like(score_OGF, dtype=torch.bool).scatter_(-1, chosen_OGK, True).flatten(1)
    return kept_OI


def _sparsegpt(weight_OI: Tensor, gram_II: Tensor) -> Tensor:
    weight_IO = weight_OI.T.clone(memory_format=torch.contiguous_format)
    factor_II = inverse_factor(gram_II)
    diagonal_I, pruned_IO = factor_II.diagonal(), torch.empty_like(weight_IO)
    kept_OF = weight_IO

    def masked(column: int) -> Tensor:
        nonlocal kept_OF
        if column % OF == 0:
            four = slice(column, column + OF)
            kept_OF = best((weight_IO[four].T / diagonal_I[four]).square())
        pruned_IO[column] = weight_IO[column] * kept_OF[:, column % OF]
        return pruned_IO[column]

    sweep(weight_IO, factor_II, masked)
    return pruned_IO.T.contiguous()
