"""Keys and values of tokens already seen, so that decoding costs one token at a time.

One buffer per layer, [B, S, kv_heads, head_dim], allocated once for `max_tokens` slots. A slot is a place in the row;
what is compared for causality and window is the slot, what turns queries and keys is the position. Rows
of different lengths are padded on the left with documents == -1: the document of every slot is kept.

With a sliding window all slots stay allocated (2 * kv_heads * head_dim * layers numbers each), but only
those that the window reaches are read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slm.core.errors import UserError
from slm.model.config import ModelConfig


class KVCache:
    """Keys and values of up to `max_tokens` tokens of `batch` rows."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        max_tokens: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.layers, batch, max_tokens, config.kv_heads, config.head_dim)
        self.keys_LBSHD = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBSHD = torch.zeros(shape, dtype=dtype, device=device)
        self.documents_BS = torch.zeros((batch, max_tokens), dtype=torch.int32, device=device)
        self.max_tokens = max_tokens
        self.length = 0
        self.packed = False

    def reset(self) -> None:
        """Forget all tokens; the buffers stay."""
        self.length = 0
        self.packed = False

    def truncate(self, length: int) -> None:
        """Forget all tokens after the first `length`."""
        self.length = min(self.length, length)

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these, given by number; they are numbered anew in this order."""
        self.keys_LBSHD, self.values_LBSHD = self.keys_LBSHD[:, rows], self.values_LBSHD[:, rows]
        self.documents_BS = self.documents_BS[rows]

    def fill(self, one: KVCache) -> None:
        """Begin every row with what a cache of one row holds."""
        self.reset()
        self.keys_LBSHD[:, :, : one.length] = one.keys_LBSHD[:, :, : one.length]
        self.values_LBSHD[:, :, : one.length] = one.values_LBSHD[:, :, : one.length]
        self.documents_BS[:, : one.length] = one.documents_BS[:, : one.length]
        self.length, self.packed = one.length, one.packed

    def reserve(self, documents_BT: Tensor | None, batch: int, num_tokens: int) -> None:
        """Check that `num_tokens` more fit and note which documents they belong to."""
        if batch != self.documents_BS.shape[0]:
            raise UserError(
                f"the cache holds {self.documents_BS.shape[0]} rows, but {batch} came; make a cache for {batch} rows"
            )
        stop = self.length + num_tokens
        if stop > self.max_tokens:
            raise UserError(
                f"the cache has room for {self.max_tokens:,} tokens, but this would be token {stop:,}; "
                "shorten the prompt or the continuation, or make a larger cache"
            )
        self.packed = self.packed or documents_BT is not None
        self.documents_BS[:, self.length : stop] = 0 if documents_BT is None else documents_BT

    def store(self, layer: int, k_BTHD: Tensor, v_BTHD: Tensor, first_slot: int) -> tuple[Tensor, Tensor]:
        """Put away new keys and values of one layer; returns all from `first_slot` on, [B, K, H, D]."""
        stop = self.length + k_BTHD.shape[1]
        self.keys_LBSHD[layer, :, self.length : stop] = k_BTHD
        self.values_LBSHD[layer, :, self.length : stop] = v_BTHD
        return self.keys_LBSHD[layer, :, first_slot:stop], self.values_LBSHD[layer, :, first_slot:stop]
