"""Calibration of next-token predictions, on a sample of the held-out positions.

In: a model and some held-out documents as ids. Out: the figures of `statistics.calibration` for the likeliest next
token. Windows are laid as for bits per byte and taken at even distances until `POSITIONS` of their tokens are
scored; hidden states of these are kept (16 MB at width 512) and projected again for each temperature. That is a few
seconds for the models of this project on a CPU, whatever the size of the held-out text. Tokens of one document are one
cluster. Arithmetic is that of the evaluation; probabilities are float32.

Shapes: M scored positions, T inputs of a window, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slm.evaluate.score import LOGITS_PER_CHUNK, autocast
from slm.evaluate.statistics.calibration import Predictions, before_and_after
from slm.evaluate.statistics.intervals import Integers
from slm.evaluate.windows import Windows, batches, lay_windows
from slm.model.transformer import Transformer

POSITIONS = 8_192
Learned = NDArray[np.bool_] | None
"""Which of a conversation's tokens count; None for a text, of which all do."""


@dataclass(frozen=True, slots=True)
class States:
    """What the model holds before each scored token, the token, and the document it stands in."""

    x_MD: Tensor
    targets_M: Tensor
    documents_M: Integers


def next_token_calibration(
    model: Transformer,
    documents: Sequence[NDArray[np.int32]],
    learned: Sequence[Learned] = (),
    *,
    context: int,
    stride: int,
    batch_tokens: int,
    precision: Literal["fp32", "bf16"],
    seed: int,
) -> dict[str, Any]:
    """As stated and at the fitted temperature; `documents` are ids [bos] text [eos], at least two.

    Of those with `learned`, conversations, only these tokens count.
    """
    windows = sampled(documents, learned, context, stride)
    states = collect(model, documents, windows, batch_tokens, precision, learned)
    return before_and_after(
        lambda beta, chosen: predictions(model, states, beta, chosen),
        lambda beta, chosen: slopes(model, states, beta, chosen),
        states.documents_M,
        seed,
    )


def sampled(documents: Sequence[NDArray[np.int32]], learned: Sequence[Learned], context: int, stride: int) -> Windows:
    """The windows to judge, each of which scores a token that counts."""
    windows = lay_windows(np.array([len(ids) - 1 for ids in documents], dtype=np.int64), context, stride)
    of_windows = zip(windows.document_W, windows.begin_W, windows.length_W, windows.scored_W, strict=True)
    counting = [
        not learned
        or (flags := learned[document]) is None
        or bool(flags[begin + scored + 1 : begin + length + 1].any())
        for document, begin, length, scored in of_windows
    ]
    return spread(windows.take(np.flatnonzero(counting)))


def spread(windows: Windows, positions: int = POSITIONS) -> Windows:
    """Windows at even distances that score about so many tokens; all where they score fewer."""
    scored = int((windows.length_W - windows.scored_W).sum())
    wanted = max(2, min(len(windows.length_W), len(windows.length_W) * positions // max(1, scored)))
    return windows.take(np.unique(np.linspace(0, len(windows.length_W) - 1, wanted).round().astype(np.int64)))


@torch.inference_mode()
def collect(
    model: Transformer,
    documents: Sequence[NDArray[np.int32]],
    windows: Windows,
    batch_tokens: int,
    precision: Literal["fp32", "bf16"],
    learned: Sequence[Learned] = (),
) -> States:
    """Hidden states, targets and documents of all tokens that the windows score, of conversations those `learned`."""
    device = next(model.parameters()).device
    states: list[Tensor] = []
    targets: list[Integers] = []
    owners: list[Integers] = []
    for batch in batches(windows, batch_tokens):
        inputs_BT = np.zeros((len(batch.length_W), int(batch.length_W.max())), dtype=np.int64)
        rows = list(zip(batch.document_W, batch.begin_W, batch.length_W, batch.scored_W, strict=True))
        for row, (document, begin, length, _) in enumerate(rows):
            inputs_BT[row, :length] = documents[document][begin : begin + length]
        with autocast(str(device.type), precision):
            x_BTD = model.hidden(torch.from_numpy(inputs_BT).to(device))
        for row, (document, begin, length, scored) in enumerate(rows):
            scores = slice(begin + scored + 1, begin + length + 1)
            flags = learned[document] if learned else None
            counts = np.arange(length - scored) if flags is None else np.flatnonzero(flags[scores])
            states.append(x_BTD[row, scored:length][torch.from_numpy(counts).to(device)].float())
            targets.append(np.asarray(documents[document][scores][counts], dtype=np.int64))
            owners.append(np.full(len(counts), document, dtype=np.int64))
    return States(torch.cat(states), torch.from_numpy(np.concatenate(targets)).to(device), np.concatenate(owners))


@torch.inference_mode()
def predictions(model: Transformer, states: States, beta: float, chosen_K: Integers) -> Predictions:
    """The likeliest token of each chosen position at an inverse temperature."""
    columns: list[Tensor] = []
    for logits_KV, targets_K in _logits(model, states, chosen_K):
        logprobs_KV = (beta * logits_KV).log_softmax(-1)
        p_KV, right_K = logprobs_KV.exp(), logprobs_KV.gather(1, targets_K[:, None])[:, 0]
        top_K, likeliest_K = p_KV.max(-1)
        brier_K = p_KV.square().sum(-1) - 2 * right_K.exp() + 1
        columns.append(torch.stack([top_K, (likeliest_K == targets_K).float(), brier_K, -right_K]))
    return Predictions(*torch.cat(columns, dim=1).double().cpu().numpy())


@torch.inference_mode()
def slopes(model: Transformer, states: States, beta: float, chosen_K: Integers) -> tuple[float, float]:
    """First and second derivative of the chosen positions' nats by the inverse temperature."""
    first = second = 0.0
    for logits_KV, targets_K in _logits(model, states, chosen_K):
        p_KV = (beta * logits_KV).softmax(-1)
        mean_K = (p_KV * logits_KV).sum(-1)
        first += float((mean_K - logits_KV.gather(1, targets_K[:, None])[:, 0]).double().sum())
        second += float((p_KV * (logits_KV - mean_K[:, None]).square()).sum(-1).double().sum())
    return first, second


def _logits(model: Transformer, states: States, chosen_K: Integers) -> Iterator[tuple[Tensor, Tensor]]:
    rows = max(1, LOGITS_PER_CHUNK // model.config.vocab_size)
    for part in torch.split(torch.from_numpy(chosen_K).to(states.x_MD.device), rows):
        yield model.project(states.x_MD[part]), states.targets_M[part]
