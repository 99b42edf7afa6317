"""One layer: attention and feed-forward, each behind a norm and added to the residual stream."""

from __future__ import annotations

from torch import Tensor, nn

from slm.model.attention import Attention, Plan
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.mlp import SwiGLU
from slm.model.norm import RMSNorm
from slm.model.rope import Rotation


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config, layer)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = SwiGLU(config)

    def forward(self, x_BTD: Tensor, rotation: Rotation, how: Plan, cache: KVCache | None = None) -> Tensor:
        """[B, T, width] to [B, T, width]."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation, how, cache)
        out: Tensor = x_BTD + self.ffn(self.ffn_norm(x_BTD))
        return out
