"""FlexAttention: causal attention inside documents, by a mask of blocks that is made once per forward.

In: document numbers, row length, window. Out: a `BlockMask` that all layers share, and attention by it. Blocks
of 128 x 128 that no query sees are skipped, so packed rows cost about what their documents cost.

On a GPU both halves are compiled at their first call: eager FlexAttention would hold all scores. On a CPU it
runs eagerly and computes no gradients; there SDPA takes a quarter of its time and it serves as a check only.
Not run on a GPU. What is tested on a CPU: forward equals SDPA with its mask, documents, padding and windows.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def block_mask(
    documents_BT: Tensor | None, batch: int, num_tokens: int, window: int, device: torch.device
) -> BlockMask:
    """Who sees whom: the past of one's own document, itself included, at most `window` tokens of it (0 for all)."""
    from torch.nn.attention.flex_attention import create_block_mask  # here, for torch's compiler comes along: 1.4 s

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        found = key <= query
        if window:
            found = found & (key > query - window)
        if documents_BT is not None:
            found = found & (documents_BT[row, query] == documents_BT[row, key])
        return found

    rows = None if documents_BT is None else batch
    make: Callable[..., BlockMask] = create_block_mask
    if device.type == "cuda":
        make = _compiled(make)
    return make(sees, rows, None, num_tokens, num_tokens, device=device)


def attend_flex(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, blocks: BlockMask) -> Tensor:
    """Softmax attention by `blocks`, [B, T, H, D]."""
    from torch.nn.attention.flex_attention import flex_attention

    compute: Callable[..., Tensor] = flex_attention
    if q_BTHD.device.type == "cuda":
        compute = _compiled(compute)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")  # on a CPU that is meant
        out_BHTD = compute(
            q_BTHD.transpose(1, 2),
            k_BTGD.transpose(1, 2),
            v_BTGD.transpose(1, 2),
            block_mask=blocks,
            enable_gqa=q_BTHD.shape[2] != k_BTGD.shape[2],
        )
    return out_BHTD.transpose(1, 2)


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)
