"""One row of many sequences, each attending apart from the others: no place of a matrix product is padding.

In: for each stretch of the row the places that ask, the slots that they may look at, and which of them each sees.
Stretches of about one length lie side by side, so that one call of SDPA takes them; only there a shorter one is padded.
The last block is computed for the places whose output is wanted alone; of all others it takes keys and values.

Shapes: B stretches, T places that ask, K slots (what the cache holds, then the row), N places of the row, M wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Stretches:
    """Some stretches of about one length."""

    places_BT: Tensor
    """The places that ask, by number among those of the block's input that do; a shorter one repeats its last."""
    slots_BK: Tensor
    """Where keys and values are taken from; what no place sees may be any."""
    sees_BTK: Tensor
    """Boolean; as `masked` gives it: 0 where a place sees a slot, -inf where not, [B, 1, T, K]."""

    def masked(self, dtype: torch.dtype) -> Stretches:
        """With an additive mask, made once for all layers."""
        return Stretches(self.places_BT, self.slots_BK, additive(self.sees_BTK, dtype))


@dataclass(frozen=True, slots=True)
class Packing:
    """How a row of N places attends, and whose output is wanted."""

    stretches: Sequence[Stretches]
    """For all blocks but the last: every place asks."""
    wanted_M: Tensor
    """The places whose output is wanted, rising."""
    last: Sequence[Stretches]
    """For the last block: the wanted places ask, numbered by their place in `wanted_M`."""


def additive(sees_BTK: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query sees a key, -inf where not, the same for all heads, [B, 1, T, K]."""
    mask_BTK = torch.zeros(sees_BTK.shape, dtype=dtype, device=sees_BTK.device).masked_fill_(~sees_BTK, float("-inf"))
    return mask_BTK.unsqueeze(1)


def attend_stretches(q_1THD: Tensor, k_1SGD: Tensor, v_1SGD: Tensor, stretches: Sequence[Stretches]) -> Tensor:
    """Softmax attention within each stretch, [1, T, H, D]."""
    out_THD = torch.empty_like(q_1THD[0])
    for one in stretches:
        found_BHTD = functional.scaled_dot_product_attention(
            q_1THD[0, one.places_BT].transpose(1, 2),
            k_1SGD[0, one.slots_BK].transpose(1, 2),
            v_1SGD[0, one.slots_BK].transpose(1, 2),
            attn_mask=one.sees_BTK,
            enable_gqa=q_1THD.shape[2] != k_1SGD.shape[2],
        )
        out_THD[one.places_BT] = found_BHTD.transpose(1, 2)
    return out_THD.unsqueeze(0)
