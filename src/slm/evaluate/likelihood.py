"""How likely a model finds continuations of contexts: what every choice task asks.

In: requests, each a sequence of ids whose last ones are scored. Out, as batches are done: per request the sum of the
log-probabilities of its scored ids (nats, natural logarithm) and whether each of them was the likeliest. Requests
are laid out as trees (`slm.evaluate.tree`), so a context is computed once for all its choices and a beginning that
items share once for all of them; only places whose next token is scored are projected to the vocabulary, in chunks
of 64 MB of logits.

The result equals a forward over each request alone to float32 rounding (1e-4 at most, tested; also against
lm-eval's own `hf` model). What it costs beside that model: `benchmarks/evaluate.md`.

It does not shorten: a request longer than the model's context is an error of the caller, who counts or cuts.

Shapes: B rows, N places, P tokens of the prefix, M projected places, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slm.evaluate.score import LOGITS_PER_CHUNK, autocast
from slm.evaluate.tree import PREFIX, Family, Ids, Request, Row, plan_families
from slm.model.cache import KVCache, KVKind, dtype_of
from slm.model.transformer import Transformer

LEAST_FILLED = 0.95
"""A row that would fill less than this share of its places waits for the next forward; at 0.75 all took 1.15 times."""
ROW_TOKENS = 256
"""Places of a row: attention costs their square, and shorter rows leave more places empty."""


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
    most = max(1, batch_tokens // len(rows[0].tokens_N))
    if prefix or kv_cache == "int8":
        float_type = torch.bfloat16 if precision == "bf16" else next(model.parameters()).dtype
        places, dtype = prefix + len(rows[0].tokens_N), dtype_of(kv_cache, float_type)
        cache = KVCache(model.config, min(most, len(rows)), places, dtype, device)
    if prefix and cache is not None:
        with autocast(device.type, precision):
            x_1D = read_prefix(model, family.prefix, cache)
    first = 0
    while first < len(rows):
        longest = len(rows[first].tokens_N)
        room = max(1, batch_tokens // longest)
        batch = rows[first : first + (min(room, most) if cache is not None else room)]
        batch = [row for row in batch if len(row.tokens_N) >= LEAST_FILLED * longest]
        first += len(batch)
        with autocast(device.type, precision):
            x_BND = _forward(model, batch, prefix, cache, device)
            yield _judged(model, requests, batch, x_BND, x_1D)


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
    """Hidden states of all places of some rows; what is padding means nothing."""
    rows = cache.documents_BS.shape[0] if cache is not None else len(batch)
    tokens_BN, positions_BN, ends_BN = (
        np.zeros((rows, max(len(row.tokens_N) for row in batch)), dtype=np.int64) for _ in range(3)
    )
    positions_BN += prefix
    for number, row in enumerate(batch):
        size = len(row.tokens_N)
        tokens_BN[number, :size], positions_BN[number, :size] = row.tokens_N, row.positions_N
        ends_BN[number, :size] = row.ends_N
    tokens, positions, ends = (torch.from_numpy(array).to(device) for array in (tokens_BN, positions_BN, ends_BN))
    sees_BNK = ancestors(positions, ends, prefix, model.config.sliding_window)
    x_BND = model.hidden(tokens, positions_BT=positions, sees_BTK=sees_BNK, cache=cache)
    if cache is not None:
        cache.truncate(prefix)
    return x_BND


def ancestors(positions_BN: Tensor, ends_BN: Tensor, prefix: int, window: int) -> Tensor:
    """Which of the prefix and the row each place sees, boolean [B, N, P + N]: itself and what it grew out of."""
    places_N = torch.arange(positions_BN.shape[1], device=positions_BN.device)
    later_NN = places_N[:, None] >= places_N
    inside_BNN = places_N[:, None] < ends_BN[:, None, :]
    sees_BNK = later_NN & inside_BNN | torch.eye(len(places_N), dtype=torch.bool, device=positions_BN.device)
    if window:
        sees_BNK &= positions_BN[:, None, :] > positions_BN[:, :, None] - window
    if prefix:
        before_P = torch.arange(prefix, device=positions_BN.device)
        shape = (*positions_BN.shape, prefix)
        before_BNP = before_P > positions_BN[:, :, None] - window if window else torch.ones((), dtype=torch.bool)
        sees_BNK = torch.cat((before_BNP.to(positions_BN.device).expand(shape), sees_BNK), -1)
    return sees_BNK


def _judged(
    model: Transformer, requests: Sequence[Request], batch: Sequence[Row], x_BND: Tensor, x_1D: Tensor | None
) -> list[tuple[int, Likelihood]]:
    """The scored ids' log-probabilities, added up for each request; each place is projected once."""
    columns = x_BND.shape[1]
    x_XD = x_BND.flatten(0, 1) if x_1D is None else torch.cat((x_BND.flatten(0, 1), x_1D.to(x_BND.dtype)))
    scored = [(number, np.where(places == PREFIX, len(x_XD) - 1, row_number * columns + places))
              for row_number, row in enumerate(batch) for number, places in row.scored]  # fmt: skip
    where_M, of_L = np.unique(np.concatenate([places for _, places in scored]), return_inverse=True)
    targets_L = np.concatenate([requests[number].ids[requests[number].first :] for number, _ in scored])
    owner_L = np.repeat(np.arange(len(scored)), [len(places) for _, places in scored])
    order_L = np.argsort(of_L, kind="stable")
    of_L, targets_L, owner_L = of_L[order_L], targets_L[order_L].astype(np.int64), owner_L[order_L]
    logprobs, greedy = np.zeros(len(scored)), np.ones(len(scored), dtype=bool)
    chunk = max(1, LOGITS_PER_CHUNK // model.config.vocab_size)
    for first in range(0, len(where_M), chunk):
        logits_MV = model.project(x_XD[torch.from_numpy(where_M[first : first + chunk]).to(x_XD.device)])
        begin, end = np.searchsorted(of_L, (first, first + chunk))
        rows = torch.from_numpy(of_L[begin:end] - first).to(x_XD.device)
        ids = torch.from_numpy(targets_L[begin:end]).to(x_XD.device)
        nats = logits_MV.logsumexp(-1)[rows] - logits_MV[rows, ids]
        likeliest = logits_MV.argmax(-1)[rows] == ids
        np.add.at(logprobs, owner_L[begin:end], -nats.double().cpu().numpy())
        np.logical_and.at(greedy, owner_L[begin:end], likeliest.cpu().numpy())
    return [(number, Likelihood(float(logprobs[k]), bool(greedy[k]))) for k, (number, _) in enumerate(scored)]
