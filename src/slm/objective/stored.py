"""The divergence from what was stored of a teacher's distributions, without the teacher.

In: a chunk of the student's logits and, for each row, ids and values of a store (see `Stored`). Out: D of each row, its
slopes by the logits, and the token that the teacher finds likeliest.

- Draws: the likeliest token has its probability, and each of the S draws of the others the S-th part of what that
  leaves. These shares are p on average; KL(p | q), but for the teacher's entropy, and its slope, q minus p, are linear
  in p, so loss and gradient with the shares in its place are right in expectation whatever the number of draws (arXiv
  2503.16870). Reverse KL and JSD are not linear in p, so they cannot be had from draws.
- The likeliest tokens: all others count as one more outcome, for teacher and student alike, so the divergence is that
  of the two coarser distributions; never above that of the whole ones, and equal to it where all tokens are kept. Any
  divergence can be had so, but what the teacher says among the others is lost, which biases the student.

Distributions are those at the temperature; slopes follow `divergence`. Shapes: C rows, V vocabulary, K ids of a row,
S draws.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slm.core.batch import Stored
from slm.objective.divergence import Against, Divergence, divergence


def against_stored(stored: Stored, how: Divergence) -> Against:
    """D from the rows of a store."""
    ids_NK, values_NF = (tensor.flatten(0, 1) for tensor in (stored.ids_BTK, stored.values_BTF))
    compare = from_draws if stored.sampled else from_likeliest

    def against(rows_C: Tensor, student_CV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ids_CK = ids_NK[rows_C].long()
        return *compare(student_CV, ids_CK, values_NF[rows_C], how), ids_CK[:, 0]

    return against


def from_draws(student_CV: Tensor, ids_CK: Tensor, values_C2: Tensor, how: Divergence) -> tuple[Tensor, Tensor]:
    """An unbiased estimate of KL(p | q) and of its slopes; the first of the ids is the likeliest and no draw."""
    log_q_CV = (student_CV / how.temperature).log_softmax(-1)
    entropy_C, rest_C1 = values_C2[:, 0], values_C2[:, 1:]
    num_draws = ids_CK.shape[1] - 1
    shares_CK = torch.cat([1 - rest_C1, (rest_C1 / num_draws).expand(-1, num_draws)], -1)
    found_C = -(shares_CK * log_q_CV.gather(1, ids_CK)).sum(1) - entropy_C
    return found_C, log_q_CV.exp_().scatter_add_(1, ids_CK, -shares_CK).div_(how.temperature)


def from_likeliest(student_CV: Tensor, ids_CK: Tensor, values_CK: Tensor, how: Divergence) -> tuple[Tensor, Tensor]:
    """D of the distributions over the kept tokens and all others as one, and its slopes by all logits."""
    held_CK = values_CK.clamp_min(SMALLEST)
    if ids_CK.shape[1] == student_CV.shape[1]:
        held_CK[:, 0] = torch.finfo(torch.float32).tiny  # there are no others
    p = torch.cat([1 - held_CK.sum(-1, keepdim=True), held_CK[:, 1:], held_CK[:, :1]], -1)
    log_p = p.clamp_min(torch.finfo(torch.float32).tiny).log()
    log_q_CV = (student_CV / how.temperature).log_softmax(-1)
    others_CV = log_q_CV.scatter(1, ids_CK, -torch.inf)
    others_C1 = others_CV.logsumexp(-1, keepdim=True).clamp_min(NEVER)  # of none, where all tokens are kept
    coarse = torch.cat([log_q_CV.gather(1, ids_CK), others_C1], -1)
    found_C, slope = divergence(coarse * how.temperature, log_p * how.temperature, how)
    slope_CV = (others_CV - others_C1).exp_().mul_(slope[:, -1:])  # the slope of others_C1, by softmax among them
    return found_C, slope_CV.scatter_(1, ids_CK, slope[:, :-1])


SMALLEST = 2.0**-26
"""Half of what float16 rounds to 0: what a teacher all but rules out is not impossible, or its logarithm would be
infinite."""
NEVER = -100.0
"""The logarithm of a probability of nothing in float32."""
