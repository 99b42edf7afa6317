"""RMSNorm: divide by the root mean square, multiply by a learned weight.

Computed in the type of the residual stream (float32 in training) and handed on in the type that the
following matrix products use. Under autocast that is one cast per norm; autocast itself would cast the
same activations again for each of q, k, v and for gate and up. What it does not do: a bias, or Gemma's 1 + weight.
"""

from __future__ import annotations

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
        normal = functional.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        return normal.to(compute_dtype(normal))


def compute_dtype(x: Tensor) -> torch.dtype:
    """The type that a matrix product of `x` computes in: autocast's where it is on, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
