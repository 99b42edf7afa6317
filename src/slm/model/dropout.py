"""Dropout of entries and of whole branches (stochastic depth), as a pure function of each row's own seed.

In: what a block is about to add to the residual stream and the `Dropout` of the batch, which says how much is
left out and holds a seed for each row. Out: the same with entries, and for some rows everything, set to zero,
the rest scaled up so that the mean stays (dropout: arXiv 1207.0580; stochastic depth, rates growing linearly
with depth: arXiv 1603.09382, scaled in training instead of in use). Nothing asks torch's own generators, so a
row loses the same entries whichever process or micro-batch it falls to and whenever it is computed again. So it is with
noise on the embeddings (NEFTune, arXiv 2310.05914), uniform and smaller the longer a document is: its length is that of
the document in a packed row, not the row's.

Random bits are drawn 64 at a time and compared 16 at a time: a mask of 16 x 256 x 256 and its use take 4.9 ms,
torch's own dropout of as much 6.9 ms. Rates are so rounded to 1/65,536. Masks stay for backward, a byte an entry.
On another kind of device the same seeds give other masks.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from slm.core.batch import Dropout
from slm.core.seeds import derive

LEVELS = 1 << 16


def thinned(x_BTD: Tensor, dropout: Dropout | None, layer: int, part: str) -> Tensor:
    """What the `part` ("attention" or "ffn") of a layer adds to the stream, with parts left out."""
    if dropout is None:
        return x_BTD
    if dropout.rate:
        x_BTD = _without_entries(x_BTD, dropout.rate, [derive(seed, layer, part) for seed in dropout.seeds])
    chance = dropout.path_rates[layer]
    if chance:
        dropped_B = torch.tensor([derive(seed, "path", layer, part) < chance * 2**63 for seed in dropout.seeds])
        x_BTD = x_BTD.masked_fill(dropped_B.to(x_BTD.device)[:, None, None], 0.0) * (1.0 / (1.0 - chance))
    return x_BTD


def thinned_embedding(x_BTD: Tensor, dropout: Dropout | None, documents_BT: Tensor | None = None) -> Tensor:
    """The embeddings with noise and with entries left out; without `documents_BT` a row is one document."""
    if dropout is None:
        return x_BTD
    if dropout.embedding_noise:
        seeds = [derive(seed, "noise") for seed in dropout.seeds]
        x_BTD = x_BTD + _noise(x_BTD, seeds) * _noise_at(dropout.embedding_noise, x_BTD, documents_BT)
    if not dropout.embedding_rate:
        return x_BTD
    return _without_entries(x_BTD, dropout.embedding_rate, [derive(seed, "embedding") for seed in dropout.seeds])


def _noise(x_BTD: Tensor, seeds: list[int]) -> Tensor:
    noise_BTD = torch.empty_like(x_BTD)
    generator = torch.Generator(x_BTD.device)
    for row_TD, seed in zip(noise_BTD, seeds, strict=True):
        row_TD.uniform_(-1, 1, generator=generator.manual_seed(seed))
    return noise_BTD


def _noise_at(alpha: float, x_BTD: Tensor, documents_BT: Tensor | None) -> Tensor:
    """alpha / sqrt(L D) at each position of a document of L tokens, 0 on padding; [B, T, 1]."""
    rows, length, width = x_BTD.shape
    if documents_BT is None:
        return x_BTD.new_full((rows, length, 1), alpha / math.sqrt(length * width))
    places_BT = documents_BT.long() + 1  # 0 is padding
    counts_BP = torch.zeros(rows, length + 1, dtype=torch.int64, device=x_BTD.device)
    lengths_BT = counts_BP.scatter_add_(1, places_BT, torch.ones_like(places_BT)).gather(1, places_BT)
    return (alpha * (places_BT > 0) / (lengths_BT * width).sqrt()).to(x_BTD.dtype).unsqueeze(-1)


def _without_entries(x_BTD: Tensor, rate: float, seeds: list[int]) -> Tensor:
    level = round(rate * LEVELS)
    size = x_BTD.shape[1] * x_BTD.shape[2]
    bits = torch.empty(len(seeds), -(-size // 4), dtype=torch.int64, device=x_BTD.device)
    generator = torch.Generator(x_BTD.device)
    for row, seed in zip(bits, seeds, strict=True):
        row.random_(-(2**63), None, generator=generator.manual_seed(seed))
    dropped_BTD = (bits.view(torch.int16)[:, :size] < level - LEVELS // 2).reshape(x_BTD.shape)
    return x_BTD.masked_fill(dropped_BTD, 0.0) * (LEVELS / (LEVELS - level))
