"""Log-probabilities of targets under the output head, differentiable, without ever holding all logits.

In: hidden states, the head's weight, target ids. Out: the log-probability of each target, fp32, 0 where there is none.
Losses over sums of them (preferences) weigh each row by what the whole batch comes to, so slopes are not known in
forward, as those of a plain sum are (`linear_cross_entropy`). Backward therefore computes a chunk's logits a second
time: four matrix products a chunk instead of three, and one buffer of chunk x vocabulary. Rows without a target, such
as prompts, are left out of all of them.

Shape legend: N rows (tokens), M rows with a target, D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from slm.core.batch import IGNORED
from slm.objective.linear_cross_entropy import CHUNK_ROWS, to_slopes


def linear_log_probs(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """[N]; under autocast the products run in its type."""
    dtype = hidden_ND.dtype
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
    kept_M = (targets_N != IGNORED).nonzero()[:, 0]
    apply = cast("Callable[..., Tensor]", _LinearLogProbs.apply)
    found_M = apply(hidden_ND[kept_M], weight_VD, targets_N[kept_M], dtype)
    return torch.zeros(targets_N.shape, device=hidden_ND.device).index_copy(0, kept_M, found_M)


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, dtype: torch.dtype) -> Tensor:
        hidden, weight = hidden_MD.to(dtype), weight_VD.to(dtype)
        found_M = torch.empty(len(targets_M), dtype=torch.float32, device=hidden.device)
        for begin in range(0, len(targets_M), CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            nats_C, _ = to_slopes(hidden[rows] @ weight.T, targets_M[rows])
            found_M[rows] = -nats_C
        context.save_for_backward(hidden_MD, weight_VD, targets_M)
        context.dtype = dtype
        return found_M

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_MD, weight_VD, targets_M = context.saved_tensors
        hidden, weight = hidden_MD.to(context.dtype), weight_VD.to(context.dtype)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for begin in range(0, len(targets_M), CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            slope_CV = hidden[rows] @ weight.T
            to_slopes(slope_CV, targets_M[rows])
            slope_CV *= -grads[0][rows, None].to(slope_CV.dtype)
            grad_hidden[rows] = slope_CV @ weight
            grad_weight += slope_CV.T @ hidden[rows]
        return grad_hidden.to(hidden_MD.dtype), grad_weight.to(weight_VD.dtype), None, None
