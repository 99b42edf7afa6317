"""Grouped-query attention within documents: which token sees which, decided once per forward.

A token sees itself and earlier tokens of its own document, at most `sliding_window` of them. Padding
(document -1) is a document of its own, so no row attends to nothing and nothing becomes NaN.

`plan` decides once per forward what all layers share: nothing but `causal` where every row is one
document (torch then skips what lies above the diagonal), otherwise an additive mask in the type of the
queries. Handing SDPA a boolean mask would make it build the same additive mask again in every layer.
Key and value heads are not expanded: grouping inside SDPA takes 0.9 of the time (CPU, bfloat16).

Backends (`slm.model.backends` chooses): torch's SDPA everywhere; kernels that are told where documents begin
(`slm.model.flash`) and FlexAttention (`slm.model.flex`) on GPUs. Cached decoding always takes SDPA.

What was tried and left out: plain products with a bfloat16 softmax take 0.76 of SDPA's time in training at
256 tokens and 1.04 at 1,024, but round every score to 8 bits.

Shapes: B rows, T new tokens, K keys, H heads, G key/value heads, D head_dim; x_BTW is the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from slm.model.backends import choose
from slm.model.cache import KVCache
from slm.model.causal_products import first_keys
from slm.model.config import Backend, ModelConfig
from slm.model.flash import Boundaries, attend_flash, attend_varlen, boundaries
from slm.model.flex import attend_flex, block_mask
from slm.model.norm import RMSNorm
from slm.model.packing import Packing, Stretches, additive, attend_stretches
from slm.model.rope import Rotation, rotate

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


@dataclass(frozen=True, slots=True)
class Plan:
    """How one forward attends; made once, shared by all layers."""

    causal: bool = True
    """Every query sees all keys up to its own place, and nothing else has to be masked."""
    mask_BTK: Tensor | None = None
    """0 where a query sees a key, -inf where not; [B or 1, 1, T, K]."""
    first_keys: list[list[int]] = field(default_factory=list)
    """Where blocks of queries begin to see keys, for training on a CPU (`slm.model.causal_products.first_keys`)."""
    first_slot: int = 0
    """With a cache: the first slot that any query sees."""
    backend: Backend = "sdpa"
    where: Boundaries | None = None
    """With flash_attn and varlen: where documents begin; beside the window nothing else is needed then."""
    window: int = 0
    """With flash_attn and varlen: tokens that a query sees at most, 0 for all."""
    blocks: BlockMask | None = None
    """With flex: all that has to be known."""
    stretches: Sequence[Stretches] = ()
    """Of a row that holds many sequences (`slm.model.packing`): what attends apart from the rest."""
    wanted_M: Tensor | None = None
    """With stretches, in the last block: the places that ask."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Plan:
        """The same for layers on another device, where SDPA attends."""
        if self.mask_BTK is None or self.mask_BTK.device == torch.device(device):
            return self
        return replace(self, mask_BTK=self.mask_BTK.to(device, non_blocking=non_blocking))


def plan(
    config: ModelConfig,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    documents_BT: Tensor | None = None,
    cache: KVCache | None = None,
    sees_BTK: Tensor | None = None,
) -> Plan:
    """Decide how new tokens, `shape` [B, T], attend to themselves and to what `cache` holds, computing in `dtype`.

    Where `sees_BTK` is given it decides alone.
    """
    batch, num_tokens = shape
    if sees_BTK is not None:
        return Plan(causal=False, mask_BTK=additive(sees_BTK, dtype))
    backend = choose(config, device, dtype, training=torch.is_grad_enabled()).name if cache is None else "sdpa"
    if backend == "flex":
        blocks = block_mask(documents_BT, batch, num_tokens, config.sliding_window, device)
        return Plan(backend=backend, blocks=blocks)
    if backend != "sdpa":
        found = boundaries(documents_BT, batch, num_tokens, device)
        return Plan(backend=backend, where=found, window=config.sliding_window)
    start = cache.length if cache is not None else 0
    stop, window = start + num_tokens, config.sliding_window
    first_slot = max(0, start - window + 1) if window else 0
    keys_BK = documents_BT
    if cache is not None:
        keys_BK = cache.documents_BS[:, first_slot:stop] if cache.packed else None
    windowed = bool(window) and stop - first_slot > window
    if (keys_BK is None or _one_document(keys_BK)) and not windowed:
        if num_tokens == 1:
            return Plan(causal=False, first_slot=first_slot)
        if start == 0:
            return Plan()
    sees_BTK = visible(keys_BK, num_tokens, stop - first_slot, window, device)
    mask_B1TK = additive(sees_BTK, dtype)
    trains_on_cpu = cache is None and device.type == "cpu" and torch.is_grad_enabled()
    keys = first_keys(mask_B1TK) if trains_on_cpu else []
    return Plan(causal=False, mask_BTK=mask_B1TK, first_keys=keys, first_slot=first_slot)


def plans(packing: Packing, dtype: torch.dtype) -> tuple[Plan, Plan]:
    """How all blocks but the last attend over a packed row, and how the last one does."""
    every, last = ([one.masked(dtype) for one in some] for some in (packing.stretches, packing.last))
    return Plan(causal=False, stretches=every), Plan(causal=False, stretches=last, wanted_M=packing.wanted_M)


def visible(documents_BK: Tensor | None, num_queries: int, num_keys: int, window: int, device: torch.device) -> Tensor:
    """Which key each of the last `num_queries` tokens sees, boolean [B or 1, num_queries, num_keys]."""
    keys_K = torch.arange(num_keys, device=device)
    queries_T = keys_K[num_keys - num_queries :, None]
    sees_TK = keys_K <= queries_T
    if window:
        sees_TK &= keys_K > queries_T - window
    if documents_BK is None:
        return sees_TK.unsqueeze(0)
    return sees_TK & (documents_BK[:, num_keys - num_queries :, None] == documents_BK[:, None, :])


def _one_document(documents_BK: Tensor) -> bool:
    """Whether every row is one document. Asked on CPU only: elsewhere the answer would stall the device."""
    return documents_BK.device.type == "cpu" and bool((documents_BK == documents_BK[:, :1]).all())


class Attention(nn.Module):
    """Causal self-attention with rotary positions and, by option, RMSNorm on queries and keys."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim, self.layer = config.heads, config.kv_heads, config.head_dim, layer
        self.q = nn.Linear(config.width, config.heads * config.head_dim, bias=False)
        self.k = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.v = nn.Linear(config.width, config.kv_heads * config.head_dim, bias=False)
        self.o = nn.Linear(config.heads * config.head_dim, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    def forward(self, x_BTW: Tensor, rotation: Rotation, how: Plan, cache: KVCache | None = None) -> Tensor:
        """[B, T, width] to [B, T, width]; with `how.wanted_M` only these places ask, [B, M, width]."""
        asking = x_BTW if how.wanted_M is None else x_BTW[:, how.wanted_M]
        q_BTHD = self.q(asking).unflatten(-1, (self.heads, self.head_dim))
        k_BTGD = self.k(x_BTW).unflatten(-1, (self.kv_heads, self.head_dim))
        v_BTGD = self.v(x_BTW).unflatten(-1, (self.kv_heads, self.head_dim))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHD, k_BTGD = self.q_norm(q_BTHD), self.k_norm(k_BTGD)
        turned = rotation if how.wanted_M is None else (rotation[0][:, how.wanted_M], rotation[1][:, how.wanted_M])
        q_BTHD, k_BTGD = rotate(q_BTHD, turned), rotate(k_BTGD, rotation)
        if cache is not None:
            k_BTGD, v_BTGD = cache.store(self.layer, k_BTGD, v_BTGD, how.first_slot)
            k_BTGD, v_BTGD = k_BTGD.to(q_BTHD.dtype), v_BTGD.to(q_BTHD.dtype)
        out_BTHD = attend(q_BTHD, k_BTGD, v_BTGD, how)
        out: Tensor = self.o(out_BTHD.flatten(2))
        return out


def attend(q_BTHD: Tensor, k_BKGD: Tensor, v_BKGD: Tensor, how: Plan) -> Tensor:
    """Softmax attention of each query over the keys that `how` lets it see, [B, T, H, D]."""
    if how.stretches:
        return attend_stretches(q_BTHD, k_BKGD, v_BKGD, how.stretches)
    if how.blocks is not None:
        return attend_flex(q_BTHD, k_BKGD, v_BKGD, how.blocks)
    if how.where is not None:
        kernel = attend_flash if how.backend == "flash_attn" else attend_varlen
        return kernel(q_BTHD, k_BKGD, v_BKGD, how.where, how.window)
    out_BHTD = functional.scaled_dot_product_attention(
        q_BTHD.transpose(1, 2),
        k_BKGD.transpose(1, 2),
        v_BKGD.transpose(1, 2),
        attn_mask=how.mask_BTK,
        is_causal=how.causal,
        enable_gqa=q_BTHD.shape[2] != k_BKGD.shape[2],
    )
    return out_BHTD.transpose(1, 2)
