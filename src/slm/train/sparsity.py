"""`train.sparsity=2:4`: a fine-tune that leaves at 0 what pruning set to 0.

In: the model that a run begins with. Out: a `Mask`: where its blocks' matrices are 0. Gradients there are set to 0
before they are clipped, so that they count in no norm and no moment; weights there are set to 0 after each update,
since Muon's updates are dense. So they are 0 bit for bit in every forward, checkpoint, average and rounding (a grid
always holds 0). The mask comes from `train.initial` alone, which is a parent of the run: it needs no place in the
state. Shards are rows or parts of them, and each process masks its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slm.core.errors import UserError
from slm.model.transformer import Transformer
from slm.train.optim import split_parameters
from slm.train.parallel import local

KEPT, OF = 2, 4


@dataclass(frozen=True, slots=True)
class Mask:
    """The zeros of some matrices, the part of them that this process holds."""

    zeros: tuple[tuple[nn.Parameter, Tensor], ...] = ()

    @torch.no_grad()
    def hold_gradients(self) -> None:
        """Set the gradients of the zeros to 0."""
        for parameter, zeros in self.zeros:
            if parameter.grad is not None:
                local([parameter.grad])[0].masked_fill_(zeros, 0.0)

    @torch.no_grad()
    def hold_weights(self) -> None:
        """Set the zeros to 0 again."""
        for parameter, zeros in self.zeros:
            local([parameter])[0].masked_fill_(zeros, 0.0)


def require_2_of_4(model: Transformer, where: str) -> None:
    """Refuse a model whose blocks' matrices do not have two zeros in each four neighbours of a row."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    for matrix in split_parameters(model)[0]:
        rows, inputs = matrix.shape
        if inputs % OF or int((matrix.detach().view(rows, -1, OF) != 0).sum(-1).max()) > KEPT:
            raise UserError(
                f"train.sparsity is 2:4, but {names[matrix]} in {where} has fours of weights with more than two that "
                "are not 0; prune it by slm.compress, method sparse with 32 bits, and name that variant as initial"
            )


def mask_of(model: Transformer) -> Mask:
    """The zeros of the blocks' matrices as they are now."""
    return Mask(tuple((matrix, local([matrix.detach()])[0] == 0) for matrix in split_parameters(model)[0]))
