"""What compressing cost: the compressed model against the one in float32, on held-out text.

In: models, ours or in another engine, and held-out documents. Out: a `Cost` each: the rise in bits per byte with its
interval (documents drawn anew, the same ones for both models, so what is common to both does not widen it), the mean
KL divergence from the float32 model, and how often both find the same token likeliest. KL is taken at positions
spread evenly over the held-out text, the whole vocabulary each; the reference's log-probabilities of them are kept
(512 positions of 32,768 ids: 67 MB), so that only one model is in memory at a time. Other engines are asked window by
window (`answers_of`), each token once.

Shapes: D documents, T ids of a window, P positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from slm.core.artifact import Artifact
from slm.corpus import read_documents
from slm.evaluate.score import score
from slm.evaluate.statistics.intervals import estimate
from slm.model.cache import KVCache, KVKind
from slm.model.transformer import Transformer
from slm.shards.encode import encode
from slm.tokenizer.tokenizer import Tokenizer

BATCH_TOKENS = 4096

Logits = Callable[[Sequence[int]], NDArray[Any]]
"""An engine: the logits (or log-probabilities) [T, V] of what follows each of T ids."""
At = Callable[[NDArray[np.int32], Sequence[int]], Tensor]
"""Logits [P, V] of what follows the ids at some of the places of a window."""


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
    perplexity: float
    """By token, and so only comparable under one vocabulary."""
    perplexity_increase: float
    perplexity_interval_95: tuple[float, float]
    """Of its increase."""


def held_out(corpus: Artifact, tokenizer: Path, context: int, most: int, threads: int) -> HeldOut:
    """The validation documents of a corpus, or `most` of them at even distances."""
    total = int(corpus.counts["validation"]["documents"])
    chosen = (
        document
        for number, document in enumerate(read_documents(corpus, "validation"))
        if not most or most >= total or (number + 1) * most // total > number * most // total
    )
    encoded = list(encode(chosen, Tokenizer.load(tokenizer), threads))
    bytes_D = np.array([len(document.text.encode()) for document, _ in encoded], dtype=np.float64)
    return HeldOut([ids.ids_T for _, ids in encoded], bytes_D, context)


def answers(
    model: Transformer,
    text: HeldOut,
    positions: int,
    progress: Callable[[int], None] | None = None,
    kv_cache: KVKind = "float",
    stride: int = 0,
) -> Answers:
    """Score a model on the held-out text, read through a cache of this kind; windows begin every half context."""
    nats_D = score(
        model, text.ids, context=text.context, stride=stride or max(1, text.context // 2), batch_tokens=BATCH_TOKENS,
        kv_cache=kv_cache, progress=progress,
    )  # fmt: skip

    @torch.inference_mode()
    def at(window: NDArray[np.int32], places: Sequence[int]) -> Tensor:
        window_BT = torch.from_numpy(window.astype(np.int64)).unsqueeze(0)
        cache = KVCache(model.config, 1, len(window), torch.int8) if kv_cache == "int8" else None
        logits_PV: Tensor = model.project(model.hidden(window_BT, cache=cache)[0, list(places)])
        return logits_PV

    return Answers(nats_D, _log_probabilities(at, text, positions))


def answers_of(logits: Logits, text: HeldOut, positions: int, progress: Callable[[int], None] | None = None) -> Answers:
    """Score another engine on the held-out text, in windows side by side: `answers` with the context as its stride."""
    nats_D, found = np.zeros(len(text.ids)), []
    for owner, places in enumerate(_places(text, positions)):
        ids = text.ids[owner]
        for first in range(0, len(ids) - 1, text.context):
            window = ids[first : first + text.context + 1]
            logits_TV = torch.from_numpy(logits(window[:-1].tolist()))
            targets_T = torch.from_numpy(window[1:].astype(np.int64))
            nats_D[owner] += float(functional.cross_entropy(logits_TV.double(), targets_T, reduction="sum"))
            mine = [place - first for place in places if first <= place < first + len(targets_T)]
            found.append(functional.log_softmax(logits_TV[mine].float(), dim=-1))
            if progress is not None:
                progress(len(targets_T))
    return Answers(nats_D, torch.cat(found))


def compare(reference: Answers, found: Answers, text: HeldOut, seed: int) -> Cost:
    """The cost of a compressed model, given what both said."""
    bits_D = (found.nats_D - reference.nats_D) / math.log(2)
    num_bytes = float(text.bytes_D.sum())
    kl_P = (reference.logp_PV.exp() * (reference.logp_PV - found.logp_PV)).sum(-1)
    agreed_P = reference.logp_PV.argmax(-1) == found.logp_PV.argmax(-1)
    rise = estimate(bits_D, text.bytes_D, seed=seed)
    tokens_D = np.array([len(ids) - 1 for ids in text.ids], dtype=np.float64)
    by_token = estimate(found.nats_D - reference.nats_D, tokens_D, seed=seed)
    before = math.exp(reference.nats_D.sum() / tokens_D.sum())
    low, value, high = (before * math.expm1(nats) for nats in (by_token.low, by_token.value, by_token.high))
    return Cost(
        bits_per_byte=float(found.nats_D.sum()) / math.log(2) / num_bytes,
        increase=rise.value,
        interval_95=(rise.low, rise.high),
        mean_kl=float(kl_P.mean()),
        top1_agreement=float(agreed_P.float().mean()),
        positions=len(kl_P),
        perplexity=before + value,
        perplexity_increase=value,
        perplexity_interval_95=(low, high),
    )


def _log_probabilities(at: At, text: HeldOut, positions: int) -> Tensor:
    """Log-probabilities [P, V] of what follows each of so many positions, spread evenly over the text."""
    parts = [
        _of_document(at, ids, places, text.context)
        for ids, places in zip(text.ids, _places(text, positions), strict=True)
    ]
    return torch.cat([part for found in parts for part in found])


def _places(text: HeldOut, positions: int) -> list[list[int]]:
    """Of each document the places in it, so many in all, spread evenly over the text."""
    counts_D = np.array([len(ids) - 1 for ids in text.ids])
    starts_D = np.cumsum(counts_D) - counts_D
    wanted = np.linspace(0, counts_D.sum() - 1, min(positions, int(counts_D.sum()))).astype(np.int64)
    owners = np.searchsorted(starts_D, wanted, side="right") - 1
    return [(wanted[owners == owner] - starts_D[owner]).tolist() for owner in range(len(counts_D))]


def _of_document(at: At, ids: NDArray[np.int32], places: Sequence[int], context: int) -> list[Tensor]:
    found = []
    for first in range(0, len(ids), context):
        mine = [place - first for place in places if first <= place < first + context]
        if mine:
            logits_PV = at(ids[first : first + context], mine)
            found.append(functional.log_softmax(logits_PV, dim=-1))
    return found
