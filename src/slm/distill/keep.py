"""What is kept of a distribution: draws, or the likeliest tokens.

In: a teacher's logits of some positions. Out: ids and, beside them, a value or more, as a store holds them.

Draws are systematic (Madow 1949): one uniform number u a position, and the tokens at which the cumulated distribution
passes (u + i) / S for i = 0, ..., S - 1. Token v is drawn S p(v) times on average, exactly; in any one position S p(v)
rounded down or up, so that a share scatters less than among independent draws (arXiv 2503.16870 draws independently)
and a token with p >= 1 / S is never missing. Draws are kept as they come, an id for each: that takes fewer bytes than
ids with counts. The likeliest token stands before them, so that agreement with the teacher can be counted exactly.

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
"""(u + S - 1) / S may round to 1, past the last token."""


def uniforms(seed: int, row: int, seq_len: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each position of a row of the shards."""
    return np.random.Generator(np.random.Philox(key=derive(seed, "distill", row))).random(seq_len)


def draws(logits_CV: Tensor, uniforms_C: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The likeliest token and `count` draws, [C, 1 + S], and the entropy in nats, [C, 1]."""
    log_p_CV = logits_CV.float().log_softmax(-1)
    p_CV = log_p_CV.exp()
    cumulated_CV = p_CV.double().cumsum(-1)
    steps_S = torch.arange(count, device=logits_CV.device)
    points_CS = ((uniforms_C[:, None] + steps_S) / count).clamp_max_(BELOW_ONE) * cumulated_CV[:, -1:]
    ids_CS = torch.searchsorted(cumulated_CV, points_CS, right=True)
    entropy_C1 = -(p_CV * log_p_CV).sum(-1, keepdim=True)
    return torch.cat([logits_CV.argmax(-1, keepdim=True), ids_CS], -1), entropy_C1


def likeliest(logits_CV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens in order, and their probabilities, both [C, K]."""
    p_CK, ids_CK = logits_CV.float().softmax(-1).topk(count)
    return ids_CK, p_CK
