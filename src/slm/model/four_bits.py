"""A frozen matrix held in 4 bits while adapters are trained beside it (QLoRA, arXiv 2305.14314).

In: a matrix [O, I]. Out: its codes, two to a byte, with a scale for each group of 64 neighbouring inputs. `int4` is the
grid with zero points that `slm compress` rounds to; `nf4` has 16 uneven levels, the quantiles of a normal distribution
that the paper's appendix E gives, times the largest number of the group. A product makes the matrix anew from the
codes, forward and backward, so that no float copy of it outlives the product.

nf4's levels, codes and scales are those of bitsandbytes (compared by hand with 0.50.2 on a CPU: levels to 1.2e-7, the
rest equal). What it does not do: codes of the scales themselves ("double quantization", which saves 0.4 bits a weight),
kernels that multiply codes.

Shapes: O outputs, I inputs, G groups, N numbers of a group.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional

from slm.core.errors import UserError
from slm.model.integers import Grid, Integers, grouped, pack, quantize, unpack

GROUP = 64
"""Numbers that share a scale, as the paper's weights do."""
OFFSET = 0.9677083
"""The outermost quantile of nf4: the middle between 1 - 1/32 and 1 - 1/30, by the paper's code."""

Kind = Literal["int4", "nf4"]


class FourBits:
    """One matrix in 4 bits."""

    def __init__(self, weight_OI: Tensor, kind: Kind, name: str) -> None:
        if weight_OI.shape[1] % GROUP:
            raise UserError(
                f"train.lora.base={kind} holds groups of {GROUP} numbers, but the rows of {name} have "
                f"{weight_OI.shape[1]:,}; set it to float"
            )
        self.kind, self.dtype = kind, weight_OI.dtype
        self.zeros_OG: Tensor | None = None
        if kind == "int4":
            integers = quantize(weight_OI, Grid(4, GROUP))
            codes_OI, self.scales_OG, self.zeros_OG = integers.values_OI, integers.scales_OG, integers.zeros_OG
        else:
            weight_OGN = grouped(weight_OI.detach().float(), weight_OI.shape[1] // GROUP)
            self.scales_OG = weight_OGN.abs().amax(-1)
            levels = levels_of_nf4().to(weight_OI.device)
            shares_OGN = weight_OGN / self.scales_OG.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)
            codes_OI = torch.bucketize(shares_OGN, (levels[1:] + levels[:-1]) / 2).to(torch.uint8).flatten(1)
        self.packed = pack(codes_OI, 4)

    def dense(self) -> Tensor:
        """The matrix [O, I] that the codes stand for, float32."""
        codes_OI = unpack(self.packed, 4)
        if self.zeros_OG is not None:
            return Integers(codes_OI, self.scales_OG, self.zeros_OG, Grid(4, GROUP)).dequantize()
        levels = levels_of_nf4().to(codes_OI.device)
        levels_OGN = grouped(levels[codes_OI.int()], self.scales_OG.shape[1])
        dense_OI: Tensor = (levels_OGN * self.scales_OG.unsqueeze(-1)).flatten(1)
        return dense_OI

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        tensors = (self.packed, self.scales_OG, self.zeros_OG)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)

    def to(self, device: torch.device) -> FourBits:
        """The same on `device`, in place."""
        self.packed, self.scales_OG = self.packed.to(device), self.scales_OG.to(device)
        self.zeros_OG = self.zeros_OG.to(device) if self.zeros_OG is not None else None
        return self


class _Linear(torch.autograd.Function):
    """[..., I] to [..., O] by a matrix of codes, which gets no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: FourBits) -> Tensor:
        ctx.matrix, ctx.dtype = matrix, x.dtype
        return functional.linear(x, matrix.dense().to(x.dtype))

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        matrix, dtype = ctx.matrix, ctx.dtype  # type: ignore[attr-defined]
        return (gradient @ matrix.dense().to(gradient.dtype)).to(dtype), None


def linear(x: Tensor, matrix: FourBits) -> Tensor:
    """[..., I] to [..., O]; under autocast in its type."""
    made: Tensor = _Linear.apply(x, matrix)  # type: ignore[no-untyped-call]
    return made


def levels_of_nf4() -> Tensor:
    """The 16 levels [16], from -1 to 1: seven quantiles below 0, 0, and eight above."""
    levels = torch.tensor(_quantiles(), dtype=torch.float64)  # not kept: a forecast's tensors have no content
    return (levels / levels.max()).float()


@cache
def _quantiles() -> tuple[float, ...]:
    normal = NormalDist()

    def quantiles(count: int) -> list[float]:
        step = (OFFSET - 0.5) / count
        return [normal.inv_cdf(OFFSET - number * step) for number in range(count)]

    return tuple(sorted([*quantiles(8), 0.0, *(-one for one in quantiles(7))]))
