"""What the inputs of a linear looked like over the calibration text, in memory that does not grow with it.

Kept per set of linears that read the same input: the Gram matrix X^T X [I, I] in float32, the mean size of each input
and the number of tokens. AWQ and GPTQ need nothing else. A width of 8,192 takes 268 MB; one block is held at a time.
Of the Gram matrix only the upper half is summed, in panels of rows: products are two thirds of what they would be.

Shapes: N tokens, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

PANEL = 512
"""Rows of the Gram matrix that are added to together, from where they meet the diagonal."""


@dataclass(slots=True)
class InputStatistics:
    """Sums over the tokens seen so far."""

    width: int
    tokens: int = 0
    device: torch.device | str = "cpu"
    sum_I: Tensor = field(init=False)
    _sums_II: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.sum_I = torch.zeros(self.width, dtype=torch.float64, device=self.device)
        self._sums_II = torch.zeros(self.width, self.width, device=self.device)

    def add(self, x: Tensor) -> None:
        """Add inputs [..., I]."""
        x_NI = x.detach().reshape(-1, self.width).float()
        self.tokens += len(x_NI)
        self.sum_I += x_NI.abs().sum(0)
        for at in range(0, self.width, PANEL):
            self._sums_II[at : at + PANEL, at:].addmm_(x_NI[:, at : at + PANEL].T, x_NI[:, at:])

    @property
    def gram_II(self) -> Tensor:  # noqa: N802
        """The Gram matrix, its lower half the mirror image of what was summed."""
        for at in range(PANEL, self.width, PANEL):
            self._sums_II[at:, at - PANEL : at] = self._sums_II[at - PANEL : at, at:].T
        return self._sums_II

    def mean(self) -> Tensor:
        """Mean absolute value of each input, float32 [I]."""
        return (self.sum_I / max(self.tokens, 1)).float()

    def scaled(self, scale_I: Tensor) -> InputStatistics:
        """The statistics of the same inputs divided by `scale_I`."""
        other = InputStatistics(self.width, self.tokens, self.device)
        other.sum_I = self.sum_I / scale_I
        other._sums_II = (self._sums_II / scale_I).div_(scale_I[:, None])
        return other
