"""Keys and values of tokens already seen, so that decoding costs one token at a time.

One buffer per layer, [B, S, kv_heads, head_dim], allocated once for `max_tokens` slots. A slot is a place in the row;
what is compared for causality and window is the slot, what turns queries and keys is the position. Rows
of different lengths are padded on the left with documents == -1: the document of every slot is kept.

With a sliding window all slots stay allocated (2 * kv_heads * head_dim * layers numbers each), but only
those that the window reaches are read.

With dtype int8 each head of each token is kept as integers from -127 to 127 and one float16 scale, head_dim + 2 bytes
instead of 4 * head_dim. What is new is read back from the integers too, so that a prompt read in one piece, in chunks
or token by token gives the same. Zero points instead of symmetry were measured and left out: see
`benchmarks/low_bits.md`. All that is read of a layer is dequantized anew at each step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from slm.core.errors import UserError
from slm.model.config import ModelConfig

KVKind = Literal["float", "int8"]
MOST = 127
"""The largest integer of an int8 cache, and minus the smallest."""


class KVCache:
    """Keys and values of up to `max_tokens` tokens of `batch` rows; int8 is quantized, other types are as they come."""

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
        scales = (2, *shape[:-1]) if dtype == torch.int8 else (2, 0, 0, 0, 0)
        self.scales_2LBSH = torch.zeros(scales, dtype=torch.float16, device=device)
        self.documents_BS = torch.zeros((batch, max_tokens), dtype=torch.int32, device=device)
        self.max_tokens = max_tokens
        self.length = 0
        self.packed = False

    @property
    def num_bytes(self) -> int:
        """What keys, values and scales take."""
        return sum(tensor.nbytes for tensor in (self.keys_LBSHD, self.values_LBSHD, self.scales_2LBSH))

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
        self.scales_2LBSH = self.scales_2LBSH[:, :, rows] if self.scales_2LBSH.numel() else self.scales_2LBSH
        self.documents_BS = self.documents_BS[rows]

    def fill(self, one: KVCache) -> None:
        """Begin every row with what a cache of one row holds."""
        self.reset()
        self.keys_LBSHD[:, :, : one.length] = one.keys_LBSHD[:, :, : one.length]
        self.values_LBSHD[:, :, : one.length] = one.values_LBSHD[:, :, : one.length]
        self.scales_2LBSH[:, :, :, : one.length] = one.scales_2LBSH[:, :, :, : one.length]
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
        new, read = slice(self.length, stop), slice(first_slot, stop)
        if self.keys_LBSHD.dtype != torch.int8:
            self.keys_LBSHD[layer, :, new], self.values_LBSHD[layer, :, new] = k_BTHD, v_BTHD
            return self.keys_LBSHD[layer, :, read], self.values_LBSHD[layer, :, read]
        found = []
        for kind, buffer, x_BTHD in ((0, self.keys_LBSHD, k_BTHD), (1, self.values_LBSHD, v_BTHD)):
            buffer[layer, :, new], self.scales_2LBSH[kind, layer, :, new] = quantized(x_BTHD)
            scales_BKH = self.scales_2LBSH[kind, layer, :, read]
            found.append((buffer[layer, :, read] * scales_BKH.float().unsqueeze(-1)).to(x_BTHD.dtype))
        return found[0], found[1]


def quantized(x_BTHD: Tensor) -> tuple[Tensor, Tensor]:
    """Each head of each token as int8, and its scale [B, T, H] in float16, as which the integers are chosen."""
    scale_BTH = (x_BTHD.float().abs().amax(-1) / MOST).clamp(min=2.0**-24).half()
    values_BTHD = (x_BTHD.float() / scale_BTH.float().unsqueeze(-1)).round().clamp(-MOST, MOST)
    return values_BTHD.to(torch.int8), scale_BTH


def dtype_of(kind: KVKind, otherwise: torch.dtype) -> torch.dtype:
    """The type of a cache of this kind, where a float one would be `otherwise`."""
    return torch.int8 if kind == "int8" else otherwise
