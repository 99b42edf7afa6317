"""What compressing cost: the compressed model against the one in float32, on held-out text.

In: models and held-out documents. Out: a `Cost` each: the rise in bits per byte with its interval (documents drawn
anew, the same ones for both models, so what is common to both does not widen it), the mean KL divergence from the
float32 model, and how often both find the same token likeliest. KL is taken at positions spread evenly over the
held-out text, the whole vocabulary each; the reference's log-probabilities of them are kept (512 positions of 32,768
ids: 67 MB), so that only one model is in memory at a time.

Shapes: D documents, P positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slm.evaluate.score import score
from slm.evaluate.statistics.intervals import estimate
from slm.model.cache import KVCache, KVKind
from slm.model.transformer import Transformer

BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The text over which costs are measured."""

    ids: list[NDArray[np.int32]]
    """Each document, from its start token to its end token."""
    bytes_D: NDArray[np.float64]
    context: int

    @property
    def targets(self) -> int:
        """Tokens that are scored."""
        return sum(len(ids) - 1 for ids in self.ids)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model says of the held-out text."""

    nats_D: NDArray[np.float64]
    logp_PV: Tensor


@dataclass(frozen=True, slots=True)
class Cost:
    """What a compressed model lost against its reference."""

    bits_per_byte: float
    increase: float
    """Of bits per byte."""
    interval_95: tuple[float, float]
    """Of the increase."""
    mean_kl: float
    """Nats a token, from the reference to the compressed model."""
    top1_agreement: float
    positions: int


def answers(
    model: Transformer,
    text: HeldOut,
    positions: int,
    progress: Callable[[int], None] | None = None,
    kv_cache: KVKind = "float",
) -> Answers:
    """Score a model on the held-out text, read through a cache of this kind."""
    nats_D = score(
        model, text.ids, context=text.context, stride=max(1, text.context // 2), batch_tokens=BATCH_TOKENS,
        kv_cache=kv_cache, progress=progress,
    )  # fmt: skip
    return Answers(nats_D, _log_probabilities(model, text, positions, kv_cache))


def compare(reference: Answers, found: Answers, text: HeldOut, seed: int) -> Cost:
    """The cost of a compressed model, given what both said."""
    bits_D = (found.nats_D - reference.nats_D) / math.log(2)
    num_bytes = float(text.bytes_D.sum())
    kl_P = (reference.logp_PV.exp() * (reference.logp_PV - found.logp_PV)).sum(-1)
    agreed_P = reference.logp_PV.argmax(-1) == found.logp_PV.argmax(-1)
    rise = estimate(bits_D, text.bytes_D, seed=seed)
    return Cost(
        bits_per_byte=float(found.nats_D.sum()) / math.log(2) / num_bytes,
        increase=rise.value,
        interval_95=(rise.low, rise.high),
        mean_kl=float(kl_P.mean()),
        top1_agreement=float(agreed_P.float().mean()),
        positions=len(kl_P),
    )


@torch.inference_mode()
def _log_probabilities(model: Transformer, text: HeldOut, positions: int, kv_cache: KVKind) -> Tensor:
    """Log-probabilities [P, V] of what follows each of so many positions, spread evenly over the text."""
    counts_D = np.array([len(ids) - 1 for ids in text.ids])
    starts_D = np.cumsum(counts_D) - counts_D
    wanted = np.linspace(0, counts_D.sum() - 1, min(positions, int(counts_D.sum()))).astype(np.int64)
    owners = np.searchsorted(starts_D, wanted, side="right") - 1
    parts = []
    for owner in np.unique(owners).tolist():
        inside = (wanted[owners == owner] - starts_D[owner]).tolist()
        parts.append(_of_document(model, text.ids[owner], inside, text.context, kv_cache))
    return torch.cat(parts)


def _of_document(
    model: Transformer, ids: NDArray[np.int32], places: Sequence[int], context: int, kv_cache: KVKind
) -> Tensor:
    found = []
    for first in range(0, len(ids), context):
        mine = [place - first for place in places if first <= place < first + context]
        if mine:
            window_BT = torch.from_numpy(ids[first : first + context].astype(np.int64)).unsqueeze(0)
            cache = KVCache(model.config, 1, window_BT.shape[1], torch.int8) if kv_cache == "int8" else None
            logits_PV = model.project(model.hidden(window_BT, cache=cache)[0, mine])
            found.append(functional.log_softmax(logits_PV, dim=-1))
    return torch.cat(found)
