"""The output head and its cross-entropy in one step, without ever holding all logits.

In: hidden states, the head's weight, target ids. Out: summed cross-entropy and z-loss, differentiable.
Rows are taken `CHUNK_ROWS` at a time; since the loss is a sum, the gradient of each chunk is known as soon
as its logits are, so forward computes it at once and keeps only the gradients of hidden states and weight.
Nothing is computed twice: three matrix products a chunk, as with full logits, but peak memory is
chunk x vocabulary instead of tokens x vocabulary (16,384 x 32,768 in fp32: 2.1 GB, here 134 MB).
Label smoothing needs the mean logit of a row, which is the hidden state times the mean row of the weight:
it costs a vector product a row and no further pass over logits, and its gradient is of rank one.

Shape legend: N rows (tokens), D width, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from slm.core.batch import IGNORED

CHUNK_ROWS = 1024


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
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        nats = hidden.new_zeros((), dtype=torch.float32)
        penalty = hidden.new_zeros((), dtype=torch.float32)
        mean_weight_D = weight.float().mean(0) if label_smoothing else None
        for begin in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(begin, begin + CHUNK_ROWS)
            targets_C = targets_N[rows]
            kept_C = targets_C != IGNORED
            index_C1 = targets_C.clamp_min(0).unsqueeze(1)
            logits_CV = (hidden[rows] @ weight.T).float()
            log_shares_CV = torch.log_softmax(logits_CV, 1)
            picked_C = logits_CV.gather(1, index_C1).squeeze(1)
            nats_C = torch.where(kept_C, -log_shares_CV.gather(1, index_C1).squeeze(1), 0.0)
            normaliser_C = picked_C + nats_C  # right where a target is kept, used nowhere else
            nats += nats_C.sum()
            if nats_N is not None:
                nats_N[rows] = nats_C
            penalty += z_loss * torch.where(kept_C, normaliser_C, 0.0).square().sum()
            if mean_weight_D is not None:
                mean_logit_C = hidden[rows].float() @ mean_weight_D
                penalty += label_smoothing * torch.where(kept_C, picked_C - mean_logit_C, 0.0).sum()
            if not (wants_hidden or wants_weight):
                continue
            # d/dlogits: softmax * (1 + 2 z logsumexp) - (1 - s) onehot, zero on ignored rows; smoothing's -s / V below.
            slope_CV = log_shares_CV.exp_()
            if z_loss:
                slope_CV.mul_((1.0 + 2.0 * z_loss * normaliser_C).unsqueeze(1))
            slope_CV.scatter_add_(1, index_C1, torch.full_like(index_C1, label_smoothing - 1.0, dtype=torch.float32))
            slope = slope_CV.to(dtype).mul_(kept_C.unsqueeze(1))
            if grad_hidden is not None:
                torch.mm(slope, weight, out=grad_hidden[rows])
                if mean_weight_D is not None:
                    grad_hidden[rows] -= label_smoothing * torch.outer(kept_C.float(), mean_weight_D).to(dtype)
            if grad_weight is not None:
                grad_weight += slope.T @ hidden[rows]
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
