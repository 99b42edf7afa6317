"""Held-out documents to nats, exactly.

In: a model and documents as ids [bos] text [eos]. Out: per document the negative log-likelihood of all
tokens after the first, the end of text included. Windows of equal length share a forward pass, so there
is hardly any padding; it lies on the right, where causal attention keeps it from the tokens that count.
Only scored positions are projected, in chunks of 64 MB of logits, so a vocabulary of 256,000 fits.

Sums are float64. The result equals scoring one token at a time to float32 rounding (tested to 1e-5).

Shapes: B windows of a batch, T their longest, D width, M scored positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slm.evaluate.windows import Windows, batches, lay_windows
from slm.model.cache import KVCache, KVKind
from slm.model.transformer import Transformer

LOGITS_PER_CHUNK = 1 << 24


@torch.inference_mode()
def score(
    model: Transformer,
    documents: Sequence[NDArray[np.int32]],
    *,
    context: int,
    stride: int,
    batch_tokens: int,
    precision: Literal["fp32", "bf16"] = "fp32",
    kv_cache: KVKind = "float",
    progress: Callable[[int], None] | None = None,
    learned: Sequence[NDArray[np.bool_] | None] = (),
) -> NDArray[np.float64]:
    """Nats of each document; `progress` is told the number of targets scored by each forward pass.

    With `kv_cache` int8 each window is read through such a cache, as decoding it token by token would.
    Where `learned` is given, only tokens count that it names; a None in it names all.
    """
    device = next(model.parameters()).device
    targets_D = np.array([len(ids) - 1 for ids in documents], dtype=np.int64)
    flat = np.concatenate([*documents, np.zeros(1, dtype=np.int32)]).astype(np.int64)
    starts_D = np.cumsum(targets_D + 1) - targets_D - 1
    nats_D = np.zeros(len(documents), dtype=np.float64)
    counts = _flags(documents, learned) if learned else None
    for batch in batches(lay_windows(targets_D, context, stride), batch_tokens):
        inputs_BT, targets_BT, scored_BT = _gather(batch, flat, starts_D, counts)
        with autocast(str(device.type), precision):
            rows, places = inputs_BT.shape
            cache = KVCache(model.config, rows, places, torch.int8, device) if kv_cache == "int8" else None
            x_BTD = model.hidden(torch.from_numpy(inputs_BT).to(device), cache=cache)
            x_MD = x_BTD[torch.from_numpy(scored_BT).to(device)]
            nats_M = token_nats(model, x_MD, torch.from_numpy(targets_BT[scored_BT]).to(device))
        owner_M = np.repeat(batch.document_W, scored_BT.sum(axis=1))
        nats_D += np.bincount(owner_M, weights=nats_M.double().cpu().numpy(), minlength=len(documents))
        if progress is not None:
            progress(len(owner_M))
    return nats_D


def token_nats(model: Transformer, x_MD: Tensor, targets_M: Tensor) -> Tensor:
    """Negative log-likelihood of each target given the hidden state before it, float32."""
    rows = max(1, LOGITS_PER_CHUNK // model.config.vocab_size)
    parts = [
        functional.cross_entropy(model.project(x), targets, reduction="none")
        for x, targets in zip(torch.split(x_MD, rows), torch.split(targets_M, rows), strict=True)
    ]
    return torch.cat(parts)


def autocast(device: str, precision: Literal["fp32", "bf16"]) -> contextlib.AbstractContextManager[object]:
    """bf16 matrix products if asked for, else nothing; weights and sums stay as they are."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def _flags(documents: Sequence[NDArray[np.int32]], learned: Sequence[NDArray[np.bool_] | None]) -> NDArray[np.bool_]:
    """Which tokens of all documents count, laid end to end, and one more."""
    pairs = zip(documents, learned, strict=True)
    return np.concatenate([*(np.ones(len(ids), bool) if own is None else own for ids, own in pairs), np.zeros(1, bool)])


def _gather(
    batch: Windows, flat: NDArray[np.int64], starts_D: NDArray[np.int64], counts: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Inputs, the token after each, and which of them count; past a window's end inputs repeat id 0."""
    columns_T = np.arange(int(batch.length_W.max()))
    inside_BT = columns_T < batch.length_W[:, None]
    places_BT = (starts_D[batch.document_W] + batch.begin_W)[:, None] + columns_T
    places_BT = np.where(inside_BT, places_BT, len(flat) - 2)
    inputs_BT = np.where(inside_BT, flat[places_BT], 0)
    scored_BT = inside_BT & (columns_T >= batch.scored_W[:, None])
    if counts is not None:
        scored_BT &= counts[places_BT + 1]
    return inputs_BT, flat[places_BT + 1], scored_BT
