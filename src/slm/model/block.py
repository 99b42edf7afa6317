"""One layer: attention and feed-forward, each behind a norm and added to the residual stream."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from slm.core.batch import Dropout
from slm.model.attention import Attention, Plan
from slm.model.cache import KVCache
from slm.model.config import ModelConfig
from slm.model.dropout import thinned
from slm.model.fused import fused_block, reason_against
from slm.model.mlp import SwiGLU
from slm.model.norm import RMSNorm
from slm.model.recompute import Recompute, recomputed
from slm.model.rope import Rotation


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config, layer)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.ffn = SwiGLU(config)
        self.recompute: Recompute = "none"
        """What backward computes once more; training sets it."""
        self.fuses = True
        """Whether training on a CPU may take the block as one step of autograd, where that applies."""
        self.compiled = False
        """Whether training runs this block through torch.compile; training sets it. Without gradients it does not."""

    @property
    def as_written(self) -> bool:
        """Whether the modules below must run one by one: as asked, or for selection or a compiler looks inside."""
        return not self.fuses or self.recompute == "selective" or self.compiled

    def forward(
        self,
        x_BTD: Tensor,
        rotation: Rotation,
        how: Plan,
        cache: KVCache | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """[B, T, width] to [B, T, width]; with `dropout`, which only training has, parts are left out."""
        if not torch.is_grad_enabled() or cache is not None:
            return self._layer(x_BTD, rotation, how, cache, dropout)
        layer = _compiled_layer() if self.compiled else Block._fused_or_not
        if self.compiled and how.where is not None:
            torch._dynamo.maybe_mark_dynamic(how.where.cu_seqlens, 0)  # or each number of documents is compiled anew
        return recomputed(self.recompute, layer, self, x_BTD, rotation, how, cache, dropout)

    def _fused_or_not(
        self, x_BTD: Tensor, rotation: Rotation, how: Plan, cache: KVCache | None, dropout: Dropout | None
    ) -> Tensor:
        if not reason_against(self, x_BTD, how, dropout):
            return fused_block(self, x_BTD, rotation, how)
        return self._layer(x_BTD, rotation, how, cache, dropout)

    def _layer(
        self, x_BTD: Tensor, rotation: Rotation, how: Plan, cache: KVCache | None, dropout: Dropout | None
    ) -> Tensor:
        attended_BTD = self.attention(self.attention_norm(x_BTD), rotation, how, cache)
        if how.wanted_M is not None:
            x_BTD = x_BTD[:, how.wanted_M]
        x_BTD = x_BTD + thinned(attended_BTD, dropout, self.layer, "attention")
        out: Tensor = x_BTD + thinned(self.ffn(self.ffn_norm(x_BTD)), dropout, self.layer, "ffn")
        return out


@functools.cache
def _compiled_layer() -> Callable[..., Tensor]:
    """One compiled function for all blocks: weights are arguments of it, and shapes are what it is compiled for."""
    return torch.compile(Block._layer, dynamic=False)


def set_recompute(model: nn.Module, kind: Recompute) -> None:
    """Have every block of `model` recompute `kind` in training. Call it before blocks are sharded or compiled."""
    for module in model.modules():
        if isinstance(module, Block):
            module.recompute = kind


def recompute_of(model: nn.Module) -> Recompute:
    """What the blocks of `model` recompute."""
    return next(module.recompute for module in model.modules() if isinstance(module, Block))


def set_fused(model: nn.Module, fuses: bool) -> None:
    """Have every block of `model` train on a CPU as one step of autograd where that applies, or never."""
    for module in model.modules():
        if isinstance(module, Block):
            module.fuses = fuses


def set_compiled(model: nn.Module) -> None:
    """Have every block of `model` train by compiled code from now on."""
    for module in model.modules():
        if isinstance(module, Block):
            module.compiled = True
