"""What the inputs of a linear looked like over the calibration text, in memory that does not grow with it.

Kept per set of linears that read the same input: the Gram matrix X^T X [I, I] in float32, the mean size of each input
and the number of tokens. AWQ and GPTQ need nothing else. A width of 8,192 takes 268 MB; one block is held at a time.

Shapes: N tokens, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class InputStatistics:
    """Sums over the tokens seen so far."""

    width: int
    tokens: int = 0
    sum_I: Tensor = field(init=False)
    gram_II: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sum_I = torch.zeros(self.width, dtype=torch.float64)
        self.gram_II = torch.zeros(self.width, self.width)

    def add(self, x: Tensor) -> None:
        """Add inputs [..., I]."""
        x_NI = x.detach().reshape(-1, self.width).float()
        self.tokens += len(x_NI)
        self.sum_I += x_NI.abs().sum(0, dtype=torch.float64)
        self.gram_II.addmm_(x_NI.T, x_NI)

    def mean(self) -> Tensor:
        """Mean absolute value of each input, float32 [I]."""
        return (self.sum_I / max(self.tokens, 1)).float()

    def scaled(self, scale_I: Tensor) -> InputStatistics:
        """The statistics of the same inputs divided by `scale_I`."""
        other = InputStatistics(self.width, self.tokens)
        other.sum_I = self.sum_I / scale_I
        other.gram_II = self.gram_II / torch.outer(scale_I, scale_I)
        return other
