"""How likely a model finds continuations of contexts: what every choice task asks.

In: requests, each a sequence of ids whose last ones are scored. Out, as batches are done: per request the sum of the
log-probabilities of its scored ids (nats, natural logarithm) and whether each of them was the likeliest. Requests
are laid out as trees (`slm.evaluate.tree`), so a context is computed once for all its choices and a beginning that
items share once for all of them; only places whose next token is scored are projected to the vocabulary, in chunks
of 64 MB of logits.

The result equals a forward over each request alone to float32 rounding (1e-4 at most, tested; also against
lm-eval's own `hf` model). What it costs beside that model: `benchmarks/evaluate.md`.

It does not shorten: a request longer than the model's context is an error of the caller, who counts or cuts.

Shapes: B rows, N places of them, T places that ask, P tokens of the prefix, K all that may be seen, M scored places, L
scored ids, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm.evaluate.score import LOGITS_PER_CHUNK, autocast
from slm.evaluate.tree import PREFIX, Family, Ids, Integers, Request, Row, plan_families
from slm.model.cache import KVCache, KVKind, dtype_of
from slm.model.packing import Packing, Stretches
from slm.model.transformer import Transformer

LEAST_FILLED = 0.8
"""Rows at least so full of the longest beside them attend in one call; those of one call are padded to the longest."""
CPU_PLACES = 2_048
"""Places of a forward on a CPU at most: what lies between products stays in the cache (4,096: 1.08 times the time)."""
ROW_TOKENS = 256
"""Places of a row behind a prefix, whose keys are laid beside those of each row: fewer copies of it."""


class Likelihood(NamedTuple):
    """Of one request."""

    logprob: float
    greedy: bool


@torch.inference_mode()
def likelihoods(
    model: Transformer,
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    precision: Literal["fp32", "bf16"] = "fp32",
    kv_cache: KVKind = "float",
) -> Iterator[list[tuple[int, Likelihood]]]:
    """The number and likelihood of each request, a batch at a time, in no order."""
    longest = max((len(request.ids) - 1 for request in requests), default=0)
    assert longest <= model.config.max_seq_len, f"a request of {longest} tokens exceeds the context"
    for family in plan_families(requests, ROW_TOKENS):
        yield from _of_family(model, requests, family, batch_tokens, precision, kv_cache)


def _of_family(
    model: Transformer,
    requests: Sequence[Request],
    family: Family,
    batch_tokens: int,
    precision: Literal["fp32", "bf16"],
    kv_cache: KVKind,
) -> Iterator[list[tuple[int, Likelihood]]]:
    device = next(model.parameters()).device
    rows = sorted(family.rows, key=lambda row: -len(row.tokens_N))
    prefix, cache, x_1D = len(family.prefix), None, None
    batches = list(_batches(rows, min(batch_tokens, CPU_PLACES) if device.type == "cpu" else batch_tokens))
    if prefix or kv_cache == "int8":
        float_type = torch.bfloat16 if precision == "bf16" else next(model.parameters()).dtype
        most = max(sum(len(row.tokens_N) for row in batch) for batch in batches)
        cache = KVCache(model.config, 1, prefix + most, dtype_of(kv_cache, float_type), device)
    if prefix and cache is not None:
        with autocast(device.type, precision):
            x_1D = read_prefix(model, family.prefix, cache)
    for batch in batches:
        with autocast(device.type, precision):
            yield _judged(model, requests, batch, _forward(model, batch, prefix, cache, device), x_1D)


def _batches(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[Row]]:
    """Neighbours that together have at most `batch_tokens` places, or one row alone."""
    batch: list[Row] = []
    places = 0
    for row in rows:
        if batch and places + len(row.tokens_N) > batch_tokens:
            yield batch
            batch, places = [], 0
        batch.append(row)
        places += len(row.tokens_N)
    yield batch


def read_prefix(model: Transformer, prefix: Ids, cache: KVCache) -> Tensor:
    """Put the prefix into every row of `cache`, computing it once; its last hidden state, [1, D]."""
    device = cache.keys_LBSHD.device
    once = KVCache(model.config, 1, len(prefix), cache.keys_LBSHD.dtype, device)
    x_BTD = model.hidden(torch.from_numpy(prefix.astype(np.int64)).to(device).unsqueeze(0), cache=once)
    cache.fill(once)
    return x_BTD[0, -1:]


def _forward(
    model: Transformer, batch: Sequence[Row], prefix: int, cache: KVCache | None, device: torch.device
) -> Tensor:
    """Hidden states of the scored places of some rows, one row after the other and rising in each, [M, D]."""
    tokens_1N, positions_1N = (
        torch.from_numpy(np.concatenate([getattr(row, name) for row in batch])).to(device).unsqueeze(0)
        for name in ("tokens_N", "positions_N")
    )
    if not tokens_1N.numel():
        return torch.zeros((0, model.config.width), device=device)
    packing = pack(batch, prefix, model.config.sliding_window, device)
    x_1MD = model.hidden(tokens_1N, positions_BT=positions_1N, packing=packing, cache=cache)
    if cache is not None:
        cache.truncate(prefix)
    return x_1MD[0]


def pack(batch: Sequence[Row], prefix: int, window: int, device: torch.device) -> Packing:
    """How rows attend that stand one after the other, the longest first, behind `prefix` tokens in the cache."""
    sizes = [len(row.tokens_N) for row in batch]
    starts, every_place = np.cumsum([0, *sizes]), [np.arange(size) for size in sizes]
    wanted = [row.wanted for row in batch]
    wanted_starts = np.cumsum([0, *map(len, wanted)])
    every: list[Stretches] = []
    last: list[Stretches] = []
    first = 0
    while first < len(batch) and sizes[first]:
        stop = first + sum(size >= LEAST_FILLED * sizes[first] for size in sizes[first:])
        slots_BN = np.minimum(starts[first:stop, None] + np.arange(sizes[first]), starts[-1] - 1)
        before_BP = np.broadcast_to(np.arange(prefix), (stop - first, prefix))
        slots_BK = torch.from_numpy(np.concatenate((before_BP, prefix + slots_BN), 1)).to(device)
        positions_BN = _padded([row.positions_N for row in batch[first:stop]], device)
        ends_BN = _padded([row.ends_N for row in batch[first:stop]], device)
        for made, asking, begins in ((every, every_place, starts), (last, wanted, wanted_starts)):
            places_BT = _padded(asking[first:stop], device, repeat=True)
            numbers = [begin + np.arange(len(one)) for begin, one in zip(begins, asking, strict=False)]
            sees_BTK = ancestors(places_BT, positions_BN, ends_BN, prefix, window)
            made.append(Stretches(_padded(numbers[first:stop], device, repeat=True), slots_BK, sees_BTK))
        first = stop
    wanted_M = np.concatenate([start + places for start, places in zip(starts, wanted, strict=False)])
    return Packing(every, torch.from_numpy(wanted_M).to(device), last)


def _padded(arrays: Sequence[Integers], device: torch.device, *, repeat: bool = False) -> Tensor:
    """Arrays side by side, the shorter ones filled with 0, or with their last entry."""
    longest = max(map(len, arrays))
    mode: Literal["edge", "constant"] = "edge" if repeat else "constant"
    return torch.from_numpy(np.stack([np.pad(one, (0, longest - len(one)), mode=mode) for one in arrays])).to(device)


def ancestors(places_BT: Tensor, positions_BN: Tensor, ends_BN: Tensor, prefix: int, window: int) -> Tensor:
    """Which of the prefix and the row some places see, boolean [B, T, P + N]: themselves and what they grew out of."""
    places_BT1, all_N = places_BT.unsqueeze(-1), torch.arange(positions_BN.shape[1], device=positions_BN.device)
    sees_BTK = (places_BT1 > all_N) & (places_BT1 < ends_BN.unsqueeze(1)) | (places_BT1 == all_N)
    positions_BT1 = positions_BN.gather(1, places_BT).unsqueeze(-1)
    if window:
        sees_BTK &= positions_BN.unsqueeze(1) > positions_BT1 - window
    if prefix:
        before_P = torch.arange(prefix, device=positions_BN.device)
        before_BTP = before_P > positions_BT1 - (window or prefix + positions_BN.shape[1])
        sees_BTK = torch.cat((before_BTP, sees_BTK), -1)
    return sees_BTK


def _judged(
    model: Transformer, requests: Sequence[Request], batch: Sequence[Row], x_MD: Tensor, x_1D: Tensor | None
) -> list[tuple[int, Likelihood]]:
    """The scored ids' log-probabilities, added up for each request; each place is projected once."""
    if x_1D is not None:
        x_MD = torch.cat((x_MD, x_1D.to(x_MD.dtype)))
    begins = np.cumsum([0, *(len(row.wanted) for row in batch)])
    scored = [(number, np.where(places == PREFIX, len(x_MD) - 1, begin + np.searchsorted(row.wanted, places)))
              for begin, row in zip(begins, batch, strict=False) for number, places in row.scored]  # fmt: skip
    of_L = np.concatenate([places for _, places in scored])
    targets_L = np.concatenate([requests[number].ids[requests[number].first :] for number, _ in scored])
    owner_L = np.repeat(np.arange(len(scored)), [len(places) for _, places in scored])
    order_L = np.argsort(of_L, kind="stable")
    of_L, targets_L, owner_L = of_L[order_L], targets_L[order_L].astype(np.int64), owner_L[order_L]
    logprobs, greedy = np.zeros(len(scored)), np.ones(len(scored), dtype=bool)
    chunk = max(1, LOGITS_PER_CHUNK // model.config.vocab_size)
    for first in range(0, len(x_MD), chunk):
        logits_MV = model.project(x_MD[first : first + chunk])
        begin, end = np.searchsorted(of_L, (first, first + chunk))
        rows = torch.from_numpy(of_L[begin:end] - first).to(x_MD.device)
        ids = torch.from_numpy(targets_L[begin:end]).to(x_MD.device)
        of_target_L, highest_M = logits_MV[rows, ids], logits_MV.amax(-1)
        nats_L = logits_MV.logsumexp(-1)[rows] - of_target_L
        np.add.at(logprobs, owner_L[begin:end], -nats_L.double().cpu().numpy())
        np.logical_and.at(greedy, owner_L[begin:end], (of_target_L == highest_M[rows]).cpu().numpy())
    return [(number, Likelihood(float(logprobs[k]), bool(greedy[k]))) for k, (number, _) in enumerate(scored)]
