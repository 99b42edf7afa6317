"""How near a model is to a teacher on held-out text, document by document.

In: both models, held-out documents as ids, and windows as for bits per byte. Out: a line for each document: at how many
positions both find the same token likeliest, and the sum of KL(p | q) in nats, p the teacher's distribution. It is
taken on the sample of positions on which calibration is judged (`next_token.sampled`), since two models are asked;
whole logits are there for a chunk of positions at a time. A teacher must share the tokenizer, which the stage proves;
it may be a student's own teacher, or that of others, so that a student trained alone stands in the same table.

Shapes: M positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slm.evaluate.next_token import Learned, collect, sampled
from slm.evaluate.score import LOGITS_PER_CHUNK
from slm.evaluate.statistics.intervals import estimate
from slm.model.transformer import Transformer

COLUMNS = ("id", "positions", "agreed", "divergence_nats")


@torch.inference_mode()
def agreement(
    model: Transformer,
    teacher: Transformer,
    documents: Sequence[tuple[str, NDArray[np.int32], Learned]],
    *,
    context: int,
    stride: int,
    batch_tokens: int,
    precision: Literal["fp32", "bf16"],
) -> dict[str, list[Any]]:
    """`COLUMNS` of each document with sampled positions.

    `documents` are names, ids [bos] text [eos], and of conversations the tokens that count.
    """
    ids, learned = [each for _, each, _ in documents], [flags for *_, flags in documents]
    windows = sampled(ids, learned, context, stride)
    mine, theirs = (collect(one, ids, windows, batch_tokens, precision, learned) for one in (model, teacher))
    rows = max(1, LOGITS_PER_CHUNK // model.config.vocab_size)
    figures = []
    for q_MD, p_ME in zip(torch.split(mine.x_MD, rows), torch.split(theirs.x_MD, rows), strict=True):
        log_q, log_p = model.project(q_MD).log_softmax(-1), teacher.project(p_ME).log_softmax(-1)
        same_M = (log_q.argmax(-1) == log_p.argmax(-1)).double()
        figures.append(torch.stack([same_M, (log_p.exp() * (log_p - log_q)).sum(-1).double()]).cpu())
    same_M, nats_M = torch.cat(figures, 1).numpy()
    owners, of_document_M, counts = np.unique(mine.documents_M, return_inverse=True, return_counts=True)
    sums = (np.bincount(of_document_M, weights=column).tolist() for column in (same_M, nats_M))
    return dict(zip(COLUMNS, ([documents[owner][0] for owner in owners], counts.tolist(), *sums), strict=True))


def summary(columns: dict[str, list[Any]], seed: int) -> dict[str, Any]:
    """Agreement and divergence a position, with 95 % intervals over documents, for results.json."""
    positions = np.array(columns["positions"], dtype=np.float64)
    found: dict[str, Any] = {"documents": len(positions), "positions": int(positions.sum())}
    for name, column in (("agreement", "agreed"), ("divergence_nats", "divergence_nats")):
        value = estimate(np.array(columns[column], dtype=np.float64), positions, seed=seed)
        found |= {name: value.value, f"{name}_95": [value.low, value.high]}
    return found
