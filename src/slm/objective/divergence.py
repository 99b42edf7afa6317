"""How far a student's next-token distribution is from a teacher's, in one step with the output head, in chunks.

In: the student's hidden states and head, target ids, and what says D of a chunk of logits: a teacher's hidden states
and head (`against_teacher`), or what was stored of its distributions (`slm.objective.stored`). Out: the sum over
targets of a * cross-entropy + (1 - a) * tau^2 * D, differentiable by the student's hidden states and head, with D of
the distributions at temperature tau (Hinton et al. 2015, arXiv 1503.02531, whose tau^2 keeps gradients of one size):

- `forward_kl`  KL(p | q), p the teacher's and q the student's;
- `reverse_kl`  KL(q | p);
- `jsd`         beta KL(p | m) + (1 - beta) KL(q | m) with m = beta p + (1 - beta) q (Agarwal et al. 2024, GKD, arXiv
  2306.13649).

As in `linear_cross_entropy` forward computes the gradient of each chunk at once, so no more than two chunks of logits
are ever held, one of the student's and one of the teacher's, in float32.

Slopes by the student's logits s: (q - p) / tau; q (log(q / p) - KL) / tau; q (g - sum q g) / tau with g = (1 - beta)
log(q / m). Shapes: N rows (tokens), D and E widths of student and teacher, V vocabulary, C rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from slm.core.batch import IGNORED

CHUNK_ROWS = 512
"""Rows whose logits are held at one time."""
Kind = Literal["forward_kl", "reverse_kl", "jsd"]


class Divergence(NamedTuple):
    """Which distance, and how it is mixed with the cross-entropy."""

    kind: Kind
    beta: float
    temperature: float
    cross_entropy: float
    """The share a of the cross-entropy."""


Against = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Rows [C] and the student's logits there, float32 [C, V], to D of each row [C], its slopes by the logits [C, V], and
the token that the teacher finds likeliest [C]."""


class Sums(NamedTuple):
    """What the targets come to, float32 scalars."""

    total: Tensor
    """What is minimised; gradients flow through it alone."""
    nats: Tensor
    """The student's cross-entropy."""
    divergence: Tensor
    """D in nats, without tau^2."""
    agreed: Tensor
    """Targets for which both find the same token likeliest."""


def linear_divergence(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, against: Against, how: Divergence
) -> Sums:
    """The sums over the targets that are not `IGNORED`; under autocast the products run in its type."""
    apply = cast("Callable[..., tuple[Tensor, ...]]", _LinearDivergence.apply)
    return Sums(*apply(hidden_ND, weight_VD, targets_N, against, how, _product_type(hidden_ND)))


def against_teacher(teacher_NE: Tensor, teacher_VE: Tensor, how: Divergence) -> Against:
    """D from a teacher's hidden states and head."""
    dtype = _product_type(teacher_NE)
    head = teacher_VE.to(dtype)

    def against(rows_C: Tensor, student_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        teacher_CV = (teacher_NE[rows_C].to(dtype) @ head.T).float()
        return *divergence(student_CV, teacher_CV, how), teacher_CV.argmax(-1)

    return against


def divergence(student_CV: Tensor, teacher_CV: Tensor, how: Divergence) -> tuple[Tensor, Tensor]:
    """D of each row and its slopes by the student's logits, [C] and [C, V], from float32 logits."""
    log_q, log_p = ((logits / how.temperature).log_softmax(-1) for logits in (student_CV, teacher_CV))
    q, p = log_q.exp(), log_p.exp()
    if how.kind == "forward_kl":
        return (p * (log_p - log_q)).sum(-1), (q - p) / how.temperature
    if how.kind == "reverse_kl":
        gap_CV = log_q - log_p
        found_C = (q * gap_CV).sum(-1)
        return found_C, q * (gap_CV - found_C[:, None]) / how.temperature
    log_m = (how.beta * p + (1 - how.beta) * q).clamp_min(torch.finfo(torch.float32).tiny).log()
    by_q = (1 - how.beta) * (log_q - log_m)
    mean_C = (q * by_q).sum(-1)
    found_C = how.beta * (p * (log_p - log_m)).sum(-1) + mean_C
    return found_C, q * (by_q - mean_C[:, None]) / how.temperature


class _LinearDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, against: Against, how: Divergence,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        if isinstance(targets_N, FakeTensor):  # whose memory alone is asked for: all are targets
            kept_N = torch.arange(len(targets_N))
        else:
            kept_N = (targets_N != IGNORED).nonzero()[:, 0]  # the others have no logits at all
        hidden, weight = hidden_ND[kept_N].to(dtype), weight_VD.to(dtype)
        grad_hidden, grad_weight = torch.zeros_like(hidden_ND), torch.zeros_like(weight_VD, dtype=torch.float32)
        total, nats, distance, agreed = (torch.zeros((), dtype=torch.float32, device=hidden.device) for _ in range(4))
        scale = (1 - how.cross_entropy) * how.temperature**2
        for begin in range(0, len(kept_N), CHUNK_ROWS):
            mine = slice(begin, begin + CHUNK_ROWS)
            rows = kept_N[mine]
            student_CV = (hidden[mine] @ weight.T).float()
            found_C, slope_CV, likeliest_C = against(rows, student_CV)
            normaliser_C1 = student_CV.logsumexp(-1, keepdim=True)
            targets_C1 = targets_N[rows, None]
            nats_C = (normaliser_C1 - student_CV.gather(1, targets_C1))[:, 0]
            agreed += (student_CV.argmax(-1) == likeliest_C).sum()
            nats, distance = nats + nats_C.sum(), distance + found_C.sum()
            total = total + how.cross_entropy * nats_C.sum() + scale * found_C.sum()
            slope_CV *= scale
            if how.cross_entropy:
                slope_CV += how.cross_entropy * (student_CV - normaliser_C1).exp_()
                slope_CV.scatter_add_(
                    1, targets_C1, torch.full_like(targets_C1, -how.cross_entropy, dtype=slope_CV.dtype)
                )
            slope_CV = slope_CV.to(dtype)
            grad_hidden[rows] = (slope_CV @ weight).to(grad_hidden.dtype)
            grad_weight += slope_CV.T @ hidden[mine]
        context.save_for_backward(grad_hidden, grad_weight.to(weight_VD.dtype))
        context.mark_non_differentiable(nats, distance, agreed)
        return total, nats, distance, agreed

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = context.saved_tensors
        return grad_hidden * grads[0], grad_weight * grads[0], None, None, None, None


def _product_type(hidden_ND: Tensor) -> torch.dtype:
    kind = hidden_ND.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_ND.dtype
