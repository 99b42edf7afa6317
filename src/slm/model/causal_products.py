"""Causal attention and its gradient as matrix products over blocks of queries; what `slm.model.fused` calls.

In: queries, keys and values by head, an additive mask or none. Out: what they attend to; in backward three gradients.
Torch's flash kernel for the CPU reaches a third of the rate of matrix products in bfloat16, its backward a fifth
(8 x 512 tokens, 6 heads of 64, one thread: 44 and 96 ms); plain products are near their peak even at these sizes,
so the same work as batched products takes 21 and 52 ms. A block of `BLOCK` queries is multiplied with the keys up to
its last query only, a softmax kernel makes probabilities of it, and what is held at a time is bounded by
`SCORE_BYTES`, small enough to stay in the cache; so memory does not grow with the square of the length beyond one head.

What it costs: scores are rounded to the type of the queries before the softmax, which itself computes in
float32 (as transformers' eager attention does). Probabilities are computed once more in backward, not kept.

Shapes: B rows, T tokens, H heads, G key/value heads, D head_dim; S heads of a slice, C queries of a block, K keys.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

BLOCK = 128
"""Queries at a time. A row of T tokens costs (1 + BLOCK / T) / 2 of the whole square."""
KEY_STEP = 64
"""Keys that are skipped before a block of queries come in multiples of this."""
SCORE_BYTES = 4 << 20
"""Scores of a slice of heads, in bytes, at most; a single head may take more."""


Mask = tuple[Tensor, list[list[int]]]
"""0 where a query sees a key, -inf where not, [B or 1, 1, T, K]; and what `first_keys` says of it."""


def first_keys(mask_BTK: Tensor) -> list[list[int]]:
    """For each row of the mask and each block of queries a key before which no query of the block sees any.

    Rounded down to whole `KEY_STEP`s, so that products come in few sizes.
    """
    begins = range(0, mask_BTK.shape[2], BLOCK)
    if isinstance(mask_BTK, FakeTensor):
        return [[0] * len(begins)]
    seen_BTK = (mask_BTK == 0).squeeze(1)
    blocks = [seen_BTK[:, begin : begin + BLOCK].any(1).int().argmax(1) for begin in begins]
    found: list[list[int]] = (torch.stack(blocks, 1) // KEY_STEP * KEY_STEP).tolist()
    return found


def attend_causal(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, mask: Mask | None) -> Tensor:
    """Softmax attention of each query over keys up to its own place, less where `mask` is -inf; [B, T, H, D]."""
    out_BTHD = torch.empty_like(q_BHTD.transpose(1, 2), memory_format=torch.contiguous_format)
    k_BHTD, v_BHTD = _for_each_query_head(k_BGTD, q_BHTD), _for_each_query_head(v_BGTD, q_BHTD)
    q_BHTD = q_BHTD.contiguous()
    for part in _slices(q_BHTD):
        q, k, v = (tensor[part].flatten(0, 1) for tensor in (q_BHTD, k_BHTD, v_BHTD))
        out = out_BTHD.transpose(1, 2)[part]
        for begin, end in _blocks(q):
            first = _first_key(mask, part, begin)
            seen_SCK = _probabilities(q, k, mask, part, (first, begin, end))
            out[:, :, begin:end] = (seen_SCK @ v[:, first:end]).view_as(out[:, :, begin:end])
    return out_BTHD


def attend_causal_backward(
    slope_BHTD: Tensor, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, mask: Mask | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, [B, heads, T, D] in memory as [B, T, heads, D], from the output's."""
    k_BHTD, v_BHTD = _for_each_query_head(k_BGTD, q_BHTD), _for_each_query_head(v_BGTD, q_BHTD)
    q_BHTD, slope_BHTD = q_BHTD.contiguous(), slope_BHTD.contiguous()
    for_q_BHTD = torch.empty_like(q_BHTD)
    for_k_BHTD, for_v_BHTD = (torch.zeros(q_BHTD.shape, dtype=torch.float32) for _ in range(2))
    scale = 1 / math.sqrt(q_BHTD.shape[-1])
    for part in _slices(q_BHTD):
        q, k, v, slope, for_q, for_k, for_v = (
            tensor[part].flatten(0, 1)
            for tensor in (q_BHTD, k_BHTD, v_BHTD, slope_BHTD, for_q_BHTD, for_k_BHTD, for_v_BHTD)
        )
        for begin, end in _blocks(q):
            first = _first_key(mask, part, begin)
            seen_SCK = _probabilities(q, k, mask, part, (first, begin, end))
            slope_SCD = slope[:, begin:end]
            for_v[:, first:end] += seen_SCK.mT @ slope_SCD
            for_scores_SCK = torch._softmax_backward_data(slope_SCD @ v[:, first:end].mT, seen_SCK, -1, q.dtype)
            for_q[:, begin:end] = _scaled(for_scores_SCK, k[:, first:end], scale)
            for_k[:, first:end] += _scaled(for_scores_SCK.mT, q[:, begin:end], scale)
    groups = (len(k_BGTD), k_BGTD.shape[1], -1, *k_BGTD.shape[2:])
    return for_q_BHTD, for_k_BHTD.view(groups).sum(2), for_v_BHTD.view(groups).sum(2)


def _probabilities(
    q_STD: Tensor, k_STD: Tensor, mask: Mask | None, part: tuple[slice, slice], places: tuple[int, int, int]
) -> Tensor:
    """What queries begin .. end - 1 of a slice see of keys first .. end - 1, [S, C, K]."""
    first, begin, end = places
    scores_SCK = _scaled(q_STD[:, begin:end], k_STD[:, first:end].mT, 1 / math.sqrt(q_STD.shape[-1]))
    if mask is None:
        ahead_CC = torch.full((end - begin, end - begin), -math.inf, dtype=q_STD.dtype).triu_(1)
        scores_SCK[:, :, begin:] += ahead_CC
    else:
        mask_BTK = mask[0] if mask[0].shape[0] == 1 else mask[0][part[0]]
        heads = part[1].stop - part[1].start
        scores_SCK.view(-1, heads, *scores_SCK.shape[1:]).add_(mask_BTK[:, :, begin:end, first:end])
    return torch.softmax(scores_SCK, -1)


def _first_key(mask: Mask | None, part: tuple[slice, slice], begin: int) -> int:
    """The first key that a block of queries sees in any row of a slice."""
    if mask is None:
        return 0
    rows = mask[1] if len(mask[1]) == 1 else mask[1][part[0]]
    return min(row[begin // BLOCK] for row in rows)


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale * left @ right; the factor is applied before the product is rounded and costs nothing."""
    return torch.baddbmm(left.new_empty(()), left, right, beta=0, alpha=scale)


def _for_each_query_head(x_BGTD: Tensor, q_BHTD: Tensor) -> Tensor:
    """Key or value heads, each repeated for the queries of its group."""
    times = q_BHTD.shape[1] // x_BGTD.shape[1]
    return x_BGTD.contiguous() if times == 1 else x_BGTD.repeat_interleave(times, 1)


def _slices(q_BHTD: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and heads whose scores are held at one time: some rows with all heads, or some heads of one row.

    Of tensors without content, whose memory alone is asked for, the first slice stands for all.
    """
    rows, heads, num_tokens, _ = q_BHTD.shape
    head_bytes = num_tokens * min(BLOCK, num_tokens) * q_BHTD.element_size()
    heads_at_once = max(1, min(heads, SCORE_BYTES // head_bytes))
    rows_at_once = max(1, SCORE_BYTES // (head_bytes * heads)) if heads_at_once == heads else 1
    for row in range(0, rows, rows_at_once):
        for head in range(0, heads, heads_at_once):
            stop = min(head + heads_at_once, heads)
            yield slice(row, min(row + rows_at_once, rows)), slice(head, stop)
            if isinstance(q_BHTD, FakeTensor):
                return


def _blocks(q_STD: Tensor) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of blocks of queries; without content the last two, which see the most keys."""
    num_tokens = q_STD.shape[1]
    begins = range(0, num_tokens, BLOCK)
    shown = begins[-2:] if isinstance(q_STD, FakeTensor) else begins
    return ((begin, min(begin + BLOCK, num_tokens)) for begin in shown)
