"""SwiGLU: down(silu(gate(x)) * up(x)), after Shazeer (arXiv 2002.05202). No biases."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from slm.model.config import ModelConfig


class SwiGLU(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.ffn_width, bias=False)
        self.up = nn.Linear(config.width, config.ffn_width, bias=False)
        self.down = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """[B, T, width] to [B, T, width]."""
        inner: Tensor = functional.silu(self.gate(x_BTD)) * self.up(x_BTD)
        out: Tensor = self.down(inner)
        return out
