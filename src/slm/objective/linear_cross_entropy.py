"""The output head and its cross-entropy in one step, without ever holding all logits.

In: hidden states, the head's weight, target ids. Out: summed cross-entropy and z-loss, differentiable.
Rows are taken `CHUNK_ROWS` at a time; since the loss is a sum, the gradient of each chunk is known as soon
as its logits are, so forward computes it at once and keeps only the gradients of hidden states and weight.
Nothing is computed twice: three matrix products a chunk, as with full logits, but peak memory is one buffer of
chunk x vocabulary instead of tokens x vocabulary (16,384 x 32,768 in fp32: 2.1 GB; here 67 MB in bf16, 134 in
fp32). The buffer holds a chunk's logits, then in their place the slopes. On a CPU what is between the two goes
through a tile of `TILE_BYTES` in fp32, which stays in the cache: a third of the time of a pass over whole chunks.
Label smoothing needs the mean logit of a row, which is the hidden state times the mean row of the weight:
it costs a vector product a row and no further pass over logits, and its gradient is of rank one.

Shape legend: N rows (tokens), D width, V vocabulary, C rows of a chunk, R rows of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from slm.core.batch import IGNORED

CHUNK_ROWS = 1024
"""Rows whose logits are held at one time."""
TILE_BYTES = 1 << 20
"""Logits in fp32 that are worked on at one time on a CPU."""


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    nats_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of `hidden @ weight.T` against `targets` plus `z_loss * sum(logsumexp**2)`.

    With `label_smoothing` that share of each target is spread evenly over the vocabulary, as in torch.

    Returns that sum, through which gradients flow, and the plain cross-entropy, for reporting; both fp32
    scalars. Targets equal to `IGNORED` count for nothing. Under autocast the products run in its dtype;
    softmax and sums are in fp32. The cross-entropy of each row is written into `nats_N` where that is given.
    """
    dtype = hidden_ND.dtype
    if torch.is_autocast_enabled(hidden_ND.device.type):
        dtype = torch.get_autocast_dtype(hidden_ND.device.type)
    apply = cast("Callable[..., tuple[Tensor, Tensor]]", _LinearCrossEntropy.apply)
    return apply(hidden_ND, weight_VD, targets_N, z_loss, label_smoothing, dtype, nats_N, torch.is_grad_enabled())


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        z_loss: float,
        label_smoothing: float,
        dtype: torch.dtype,
        nats_N: Tensor | None,
        learns: bool,
    ) -> tuple[Tensor, Tensor]:
        hidden, weight = hidden_ND.to(dtype), weight_VD.to(dtype)
        wants_hidden, wants_weight = (learns and wanted for wanted in context.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight: Tensor | None = None
        nats = hidden.new_zeros((), dtype=torch.float32)
        penalty = hidden.new_zeros((), dtype=torch.float32)
        mean_weight_D = weight.float().mean(0) if label_smoothing else None
        buffer_CV = hidden.new_empty(min(CHUNK_ROWS, len(hidden)), len(weight))
        for begin in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            targets_C = targets_N[rows]
            logits_CV = torch.mm(hidden[rows], weight.T, out=buffer_CV[: len(targets_C)])
            nats_C, picked_C = to_slopes(logits_CV, targets_C, z_loss, label_smoothing)
            kept_C = targets_C != IGNORED
            nats += nats_C.sum()
            if nats_N is not None:
                nats_N[rows] = nats_C
            penalty += z_loss * torch.where(kept_C, picked_C + nats_C, 0.0).square().sum()
            if mean_weight_D is not None:
                mean_logit_C = hidden[rows].float() @ mean_weight_D
                penalty += label_smoothing * torch.where(kept_C, picked_C - mean_logit_C, 0.0).sum()
            slope_CV = logits_CV
            if grad_hidden is not None:
                torch.mm(slope_CV, weight, out=grad_hidden[rows])
                if mean_weight_D is not None:
                    grad_hidden[rows] -= label_smoothing * torch.outer(kept_C.float(), mean_weight_D).to(dtype)
            if wants_weight:
                part = slope_CV.T @ hidden[rows]
                grad_weight = part.float() if grad_weight is None else grad_weight.add_(part)
        if label_smoothing and grad_weight is not None:
            kept_sum_D = (targets_N != IGNORED).float() @ hidden.float()
            grad_weight -= label_smoothing / weight.shape[0] * kept_sum_D
        context.save_for_backward(grad_hidden, grad_weight)
        context.hidden_dtype, context.weight_dtype = hidden_ND.dtype, weight_VD.dtype
        context.mark_non_differentiable(nats)
        return nats + penalty, nats

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = context.saved_tensors
        scale = grads[0]
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * scale).to(context.hidden_dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(context.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None, None, None


def to_slopes(
    logits_CV: Tensor, targets_C: Tensor, z_loss: float = 0.0, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Each row's cross-entropy and the logit of its target, fp32; logits become the slopes of the loss by them.

    A slope is softmax * (1 + 2 z logsumexp) - (1 - s) onehot, zero on rows whose target is ignored; what smoothing
    takes from every other logit is of rank one and left to the caller.
    """
    num_rows, vocabulary = logits_CV.shape
    tile_rows = max(1, TILE_BYTES // (4 * vocabulary)) if logits_CV.device.type == "cpu" else num_rows
    tile_RV = torch.empty(min(tile_rows, num_rows), vocabulary, dtype=torch.float32, device=logits_CV.device)
    nats_C, picked_C = (torch.empty(num_rows, dtype=torch.float32, device=logits_CV.device) for _ in range(2))
    kept_C1 = (targets_C != IGNORED).unsqueeze(1)
    index_C1 = targets_C.clamp_min(0).unsqueeze(1)
    begins = range(0, num_rows, tile_rows)
    if isinstance(logits_CV, FakeTensor):  # whose memory alone is asked for: the first tile stands for all
        begins = begins[:1]
    for begin in begins:
        rows = slice(begin, begin + tile_rows)
        kept_R1, index_R1 = kept_C1[rows], index_C1[rows]
        slope_RV = tile_RV[: len(kept_R1)].copy_(logits_CV[rows])
        picked_R1 = slope_RV.gather(1, index_R1)
        highest_R1 = slope_RV.amax(1, keepdim=True)
        sum_R1 = slope_RV.sub_(highest_R1).exp_().sum(1, keepdim=True)
        normaliser_R1 = sum_R1.log().add_(highest_R1)
        nats_C[rows] = torch.where(kept_R1, normaliser_R1 - picked_R1, 0.0).squeeze(1)
        picked_C[rows] = picked_R1.squeeze(1)
        scale_R1 = kept_R1 / sum_R1
        if z_loss:
            scale_R1 *= 1.0 + 2.0 * z_loss * normaliser_R1
        slope_RV.mul_(scale_R1).scatter_add_(1, index_R1, kept_R1 * (label_smoothing - 1.0))
        logits_CV[rows] = slope_RV
    return nats_C, picked_C
