"""Answers to other prompts: what KTO's reference point is estimated from.

In: a `Batch` of packed conversations of which the last answer is learned. Out: the same rows in which each prompt has
the answer of the document before it, the first that of the last (Ethayarajh et al. 2024, arXiv 2402.01306, section
4.1). A row keeps its length, since its answers only move. One with a single document has no other prompt, so nothing of
it counts: the reference point is then that of the other row of the pair, or 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from slm.core.batch import IGNORED, Batch


def mismatched(batch: Batch) -> Batch:
    """The batch with answers moved on by one document within each row; made on the CPU, on the batch's device again."""
    rows = [_moved(*row) for row in zip(*(getattr(batch, name).cpu() for name in _COLUMNS), strict=True)]
    tokens, targets, documents, positions = (
        torch.stack(column).to(batch.tokens_BT.device) for column in zip(*rows, strict=True)
    )
    return replace(
        batch, tokens_BT=tokens, targets_BT=targets, documents_BT=documents, positions_BT=positions, dropout=None
    )


_COLUMNS = ("tokens_BT", "targets_BT", "documents_BT")


def _moved(tokens_T: Tensor, targets_T: Tensor, documents_T: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    number_of_documents = int(documents_T.max()) + 1
    prompts, answers, tails = [], [], []
    for document in range(number_of_documents):
        places = (documents_T == document).nonzero()[:, 0]
        learned = (targets_T[places] != IGNORED).nonzero()[:, 0] + 1
        begin, end = int(learned[0]), int(learned[-1]) + 1
        prompts.append(tokens_T[places[:begin]])
        answers.append(tokens_T[places[begin:end]])
        tails.append(tokens_T[places[end:]])
    moved = (
        tokens_T.clone(),
        torch.full_like(tokens_T, IGNORED),
        torch.full_like(documents_T, -1),
    )
    if number_of_documents < 2:
        return tokens_T, moved[1], documents_T, torch.arange(len(tokens_T))
    positions_T = torch.zeros_like(tokens_T)
    place = 0
    for number, (prompt, answer, tail) in enumerate(zip(prompts, [*answers[-1:], *answers[:-1]], tails, strict=True)):
        told = torch.cat([prompt, answer, tail])
        mine = slice(place, place + len(told))
        moved[0][mine], moved[2][mine], positions_T[mine] = told, number, torch.arange(len(told))
        first = place + len(prompt)
        moved[1][first - 1 : first - 1 + len(answer)] = answer
        place = mine.stop
    rest = len(tokens_T) - place
    positions_T[place:] = torch.arange(rest)
    return *moved, positions_T
