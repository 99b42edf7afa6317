"""Requests as trees of tokens, so that what they share is computed once: pure functions of ids.

In: sequences of ids, of which the last ones are scored. Out: families of rows. Sequences that begin alike share the
nodes of a tree: choices share their question, its tokens are there once. A row is a tree, and a token in it sees its
ancestors alone. Where so many sequences begin alike that they need several rows, as with examples in front of each
item, the beginning is the family's prefix: computed once, kept in the cache, seen by all its rows, which then hold
several trees side by side.

A tree is laid out depth first, so a token's descendants are the places up to its `end`, and "sees" is two comparisons:
no list of ancestors is kept. Cost: 0.4 s for 4,000 sequences of 100 ids.

Shapes: N places of a row.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slm.shards.pack import best_fit

Ids = NDArray[np.int32]
Integers = NDArray[np.int64]

SHORTEST_PREFIX = 32
"""Shorter beginnings are computed in each row: a forward of its own for them costs more than they do."""
PREFIX_ROWS = 4
"""A beginning gets a forward of its own where what begins so fills more rows than this, and so does one context."""
PREFIX = -1
"""Stands for the prefix's last token where a place is asked for."""
APART = 8
"""Sequences that share fewer ids than this beyond the prefix may go into different rows."""


@dataclass(frozen=True, slots=True)
class Request:
    """A sequence of ids, of which those from `first` on are scored; 1 <= first < len(ids)."""

    ids: Ids
    first: int


@dataclass(frozen=True, slots=True)
class Row:
    """A tree, or some side by side. A place sees those before it whose `end` lies beyond it, and itself."""

    tokens_N: Integers
    positions_N: Integers
    ends_N: Integers
    scored: list[tuple[int, Integers]]
    """Of each request its number and the places whose next token is scored; PREFIX is the prefix's last token."""

    @property
    def wanted(self) -> Integers:
        """The places whose next token is scored, each once, rising; the prefix's last token left out."""
        places = np.unique(np.concatenate([places for _, places in self.scored]))
        inside: Integers = places[places != PREFIX]
        return inside


@dataclass(frozen=True, slots=True)
class Family:
    """Rows after one prefix, which is empty where nothing long is shared."""

    prefix: Ids
    rows: list[Row]


def plan_families(requests: Sequence[Request], row_tokens: int) -> list[Family]:
    """All sequences; rows behind a prefix have at most `row_tokens` places, or one tree where that alone is longer."""
    order = sorted(range(len(requests)), key=lambda number: requests[number].ids.astype(">i4").tobytes())
    inputs = [requests[number].ids[:-1] for number in order]
    shared = [0, *(common(a, b) for a, b in itertools.pairwise(inputs))]
    alone: list[tuple[int, int]] = []
    families: list[Family] = []
    for start, stop in _runs(shared, SHORTEST_PREFIX):
        size = len(inputs[start]) + sum(len(inputs[place]) - shared[place] for place in range(start + 1, stop))
        if size > PREFIX_ROWS * row_tokens and stop - start > 1:
            depth = min(*shared[start + 1 : stop], *(requests[number].first for number in order[start:stop]))
            units = _units(requests, order, shared, (start, stop), depth, row_tokens)
            rows = _rows(requests, order, inputs, shared, units, depth, row_tokens)
            families.append(Family(inputs[start][:depth], rows))
        elif alone and alone[-1][1] == start:
            alone[-1] = (alone[-1][0], stop)
        else:
            alone.append((start, stop))
    units = [unit for span in alone for unit in _units(requests, order, shared, span, 0, row_tokens)]
    if units:
        families.append(Family(np.zeros(0, np.int32), _rows(requests, order, inputs, shared, units, 0, 1)))
    return families


def common(a: Ids, b: Ids) -> int:
    """How many ids two sequences begin with in common."""
    length = min(len(a), len(b))
    differing = np.flatnonzero(a[:length] != b[:length])
    return int(differing[0]) if len(differing) else length


def _runs(shared: Sequence[int], least: int) -> list[tuple[int, int]]:
    """Neighbours in sorted order that share at least `least`, as ranges."""
    cuts = [place for place in range(len(shared)) if place == 0 or shared[place] < least]
    return list(zip(cuts, [*cuts[1:], len(shared)], strict=True))


def _units(
    requests: Sequence[Request],
    order: Sequence[int],
    shared: Sequence[int],
    span: tuple[int, int],
    depth: int,
    most: int,
) -> list[tuple[int, int]]:
    """What stays together in a row: neighbours of one context, or that share more than is worth computing twice."""
    cuts: list[int] = []
    size = 0
    for place in range(*span):
        one, length = requests[order[place]], len(requests[order[place]].ids) - 1
        same_context = place > span[0] and shared[place] + 1 >= max(one.first, requests[order[place - 1]].first)
        near = place > span[0] and shared[place] - depth >= APART
        grown = size + length - shared[place]
        if (near and grown <= most) or (same_context and grown <= PREFIX_ROWS * most):
            size += length - shared[place]
        else:
            cuts.append(place)
            size = length - depth
    return list(zip(cuts, [*cuts[1:], span[1]], strict=True))


def _rows(
    requests: Sequence[Request],
    order: Sequence[int],
    inputs: Sequence[Ids],
    shared: Sequence[int],
    units: Sequence[tuple[int, int]],
    depth: int,
    row_tokens: int,
) -> list[Row]:
    sizes = [
        sum(len(inputs[place]) - (shared[place] if place > start else depth) for place in range(start, stop))
        for start, stop in units
    ]
    together = bins(sizes, row_tokens)
    return [_row(requests, order, inputs, shared, [units[unit] for unit in one], depth) for one in together]


def bins(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """The numbers of sizes that share a bin, as documents share rows; a size larger than a bin has one alone."""
    sizes_N = np.minimum(np.array(sizes, dtype=np.int64), capacity)
    bin_N = best_fit(sizes_N, capacity)
    found: list[list[int]] = [[] for _ in range(int(bin_N.max(initial=-1)) + 1)]
    for number in np.argsort(-sizes_N, kind="stable").tolist():
        found[bin_N[number]].append(number)
    return found


def _row(
    requests: Sequence[Request],
    order: Sequence[int],
    inputs: Sequence[Ids],
    shared: Sequence[int],
    units: Sequence[tuple[int, int]],
    depth: int,
) -> Row:
    tokens: list[Ids] = []
    positions: list[Integers] = []
    scored: list[tuple[int, Integers]] = []
    size = 0
    for start, stop in units:
        path = np.full(max(len(inputs[place]) for place in range(start, stop)), PREFIX, dtype=np.int64)
        for place in range(start, stop):
            ids, begin = inputs[place], shared[place] if place > start else depth
            new = len(ids) - begin
            path[begin : len(ids)] = np.arange(size, size + new)
            tokens.append(ids[begin:])
            positions.append(np.arange(begin, len(ids), dtype=np.int64))
            scored.append((order[place], path[requests[order[place]].first - 1 : len(ids)].copy()))
            size += new
    positions_N = np.concatenate(positions)
    return Row(np.concatenate(tokens).astype(np.int64), positions_N, ends(positions_N), scored)


def ends(positions_N: Integers) -> Integers:
    """Where each place's descendants end: at the next place that is no deeper."""
    ends_N = np.full(len(positions_N), len(positions_N), dtype=np.int64)
    path: list[tuple[int, int]] = []
    for place, position in enumerate(positions_N.tolist()):
        while path and path[-1][1] >= position:
            ends_N[path.pop()[0]] = place
        path.append((place, position))
    return ends_N
