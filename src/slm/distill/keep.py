"""What is kept of a distribution: draws, or the likeliest tokens.

In: a teacher's logits of some positions. Out: ids and, beside them, a value or more, as a store holds them.

The likeliest token is kept with its probability, as what it leaves to all others (which float16 holds better near 1);
the draws are of the others. They are systematic (Madow 1949): one uniform number u a position, and the tokens at which
the others' cumulated distribution r passes (u + i) / S for i = 0, ..., S - 1. Token v is drawn S r(v) times on average,
exactly; in any one position S r(v) rounded down or up, so that a share scatters less than among independent draws of
the whole (arXiv 2503.16870) and a token with r >= 1 / S is never missing. Draws are kept as they come, an id for each:
that takes fewer bytes than ids with counts. Agreement with the teacher can be counted exactly.

u is a pure function of seed, row and position. Which token it hits follows the arithmetic of the teacher too, so the
same bytes need the same kind of device.

Shapes: C positions, V vocabulary, S draws, K likeliest tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slm.core.seeds import derive

BELOW_ONE = 1 - 1e-15
"""(u + S - 1) / S may round to 1, past the last token. Where nothing is left to the others, draws count nothing."""


def uniforms(seed: int, row: int, seq_len: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each position of a row of the shards."""
    return np.random.Generator(np.random.Philox(key=derive(seed, "distill", row))).random(seq_len)


def draws(logits_CV: Tensor, uniforms_C: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The likeliest token and draws of the others, [C, 1 + S]; the entropy in nats and the others' share, [C, 2]."""
    log_p_CV = logits_CV.float().log_softmax(-1)
    p_CV = log_p_CV.exp()
    entropy_C1 = -(p_CV * log_p_CV).sum(-1, keepdim=True)
    top_C1 = logits_CV.argmax(-1, keepdim=True)
    cumulated_CV = p_CV.double().scatter_(-1, top_C1, 0.0).cumsum(-1)
    rest_C1 = cumulated_CV[:, -1:]
    steps_S = torch.arange(count, device=logits_CV.device)
    points_CS = ((uniforms_C[:, None] + steps_S) / count).clamp_max_(BELOW_ONE) * rest_C1
    ids_CS = torch.searchsorted(cumulated_CV, points_CS, right=True).clamp_max_(logits_CV.shape[-1] - 1)
    return torch.cat([top_C1, ids_CS], -1), torch.cat([entropy_C1, rest_C1.float()], -1)


def likeliest(logits_CV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens in order; the share of all others, and the probabilities but the first, both [C, K].

    The first is what these leave: near 1 float16 would lose by it what the others are worth.
    """
    p_CV = logits_CV.float().softmax(-1)
    p_CK, ids_CK = p_CV.topk(count)
    others_C1 = p_CV.scatter(1, ids_CK, 0.0).sum(-1, keepdim=True)
    return ids_CK, torch.cat([others_C1, p_CK[:, 1:]], -1)
