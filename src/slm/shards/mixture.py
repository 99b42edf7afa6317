"""Which row comes when: one stream over all sources, or a mixture with fixed shares.

In: the global number of a row in the stream. Out: the row of the shards that stands there, and its
source; a pure function, so any position is computed directly, the 10**12th as fast as the first.

Without weights all rows of all sources are one set, permuted anew each epoch: each row appears exactly
once an epoch. With weights the stream is cut into blocks of 1,024 rows. Each block holds the same
number of rows of each source, apportioned by largest remainder, spread evenly; every source has a
permutation, an epoch and a counter of its own, so a small source repeats while a large one is still in
its first epoch. The price is that shares are multiples of 1/1,024; one that rounds to none is refused.

A mixture may have stages, such as main and anneal. Each goes on in every source where the one before left off, so
its rows, too, are computed directly at any position.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.shards.config import MixtureSource, MixtureStage
from slm.shards.order import Indices, permute_many

BLOCK_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Stream:
    """Rows that are permuted together, their first row, and where they stand in each block."""

    name: str
    first: int
    size: int
    quota: int
    taken: int = 0
    """Rows that had been taken where the mixture begins."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """The endless stream of rows that `seed` names. `ranges` gives each source's rows in the shards."""

    ranges: Mapping[str, range]
    streams: tuple[Stream, ...]
    seed: int
    slot_stream: NDArray[np.int64]
    slot_rank: NDArray[np.int64]
    first: int = 0
    """The position at which it begins; none before it may be asked for."""

    def rows(self, first: int, count: int) -> Indices:
        """The rows of the shards at positions `first`, ..., `first + count - 1` of the stream."""
        positions = np.arange(first, first + count, dtype=np.int64)
        blocks, slots = np.divmod(positions - self.first, len(self.slot_stream))
        found = np.empty(count, dtype=np.int64)
        for number, stream in enumerate(self.streams):
            mine = self.slot_stream[slots] == number
            taken = stream.taken + blocks[mine] * stream.quota + self.slot_rank[slots[mine]]
            epochs, inside = np.divmod(taken, stream.size)
            distinct, which = np.unique(epochs, return_inverse=True)
            seeds = np.array([derive(self.seed, "order", stream.name, int(e)) for e in distinct], dtype=np.uint64)
            found[mine] = stream.first + permute_many(inside, stream.size, seeds[which])
        return found

    def count_sources(self, rows: Indices) -> dict[str, int]:
        """How many of `rows` belong to each source."""
        return {name: int(((rows >= r.start) & (rows < r.stop)).sum()) for name, r in self.ranges.items()}


@dataclass(frozen=True, slots=True)
class Staged:
    """Mixtures one after the other, each from its `first` row of the stream on; the last has no end."""

    stages: tuple[Mixture, ...]

    def rows(self, first: int, count: int) -> Indices:
        """As `Mixture.rows`."""
        borders = [*(stage.first for stage in self.stages[1:]), first + count]
        parts, place = [], first
        for stage, border in zip(self.stages, borders, strict=True):
            end = min(border, first + count)
            if place < end:
                parts.append(stage.rows(place, end - place))
                place = end
        return np.concatenate(parts)

    def count_sources(self, rows: Indices) -> dict[str, int]:
        """As `Mixture.count_sources`."""
        return self.stages[0].count_sources(rows)


def resolve(stage: MixtureStage, rows: Mapping[str, int], seq_len: int) -> tuple[dict[str, float], int]:
    """The weights of a stage's sources, and its rows in the stream; 0 where nothing ends it.

    Epochs become weights by the rows of each source, and together the length of the stage.
    """
    for entry in stage.sources:
        if entry.source not in rows:
            raise UserError(
                f"shards.mixture.{stage.name}.{entry.source}: the shards hold no row of such a source, only "
                f"{', '.join(rows)}; correct it"
            )
    weights = {entry.source: entry.weight or entry.epochs * rows[entry.source] for entry in stage.sources}
    if stage.tokens:
        return weights, max(1, stage.tokens // seq_len)
    return weights, math.ceil(sum(weights.values())) if stage.sources[0].epochs else 0


def mix_stages(
    ranges: Mapping[str, range], stages: Sequence[MixtureStage], seq_len: int, seed: int
) -> Mixture | Staged:
    """The stream that `shards.mixture` describes; without stages each row once an epoch."""
    if not stages:
        return mix(ranges, {}, seed)
    sizes = {name: len(rows) for name, rows in ranges.items()}
    made: list[Mixture] = []
    first, taken = 0, dict.fromkeys(ranges, 0)
    for stage in stages:
        weights, length = resolve(stage, sizes, seq_len)
        mixture = mix(ranges, weights, seed, first=first, taken=taken)
        made.append(mixture)
        taken = {**taken, **taken_at(mixture, first + length)}
        first += length
    return made[0] if len(made) == 1 else Staged(tuple(made))


def stages_of(shards: Artifact) -> tuple[MixtureStage, ...]:
    """The stages that shards were made with."""
    return tuple(MixtureStage.model_validate(stage) for stage in shards.section["mixture"])


def only(stages: Sequence[MixtureStage], sources: Collection[str], known: Collection[str]) -> tuple[MixtureStage, ...]:
    """The stages without any but these sources; without stages, each row of these once an epoch."""
    if not sources:
        return tuple(stages)
    if unknown := [name for name in sources if name not in known]:
        raise UserError(
            f"train.sources ({', '.join(unknown)}) must name sources of the shards ({', '.join(known)}); correct it"
        )
    whole = MixtureStage(sources=tuple(MixtureSource(source=name, epochs=1) for name in known))
    found = []
    for stage in stages or (whole,):
        kept = tuple(entry for entry in stage.sources if entry.source in sources)
        if not kept:
            raise UserError(
                f"train.sources ({', '.join(sources)}) leaves stage {stage.name} of shards.mixture nothing to read "
                f"(it has {', '.join(entry.source for entry in stage.sources)}); name one of its sources too"
            )
        found.append(stage.model_copy(update={"sources": kept}))
    return tuple(found)


def describe(stages: Sequence[MixtureStage], rows: Mapping[str, int], seq_len: int) -> list[dict[str, Any]]:
    """The stages as people read them: where each begins, and the share and epochs of each of its sources."""
    found, first = [], 0
    for stage in stages:
        weights, length = resolve(stage, rows, seq_len)
        total = sum(weights.values())
        sources = {name: {"share": round(weight / total, 6)} for name, weight in weights.items()}
        for name, facts in sources.items():
            if length:
                facts["epochs"] = round(facts["share"] * length / rows[name], 4)
        found.append({"stage": stage.name, "first_token": first * seq_len, "sources": sources})
        first += length
    return found


def taken_at(mixture: Mixture, position: int) -> dict[str, int]:
    """How many rows of each source of a mixture come before a position of the stream."""
    blocks, slot = divmod(position - mixture.first, len(mixture.slot_stream))
    rest = np.bincount(mixture.slot_stream[:slot], minlength=len(mixture.streams))
    return {
        stream.name: stream.taken + blocks * stream.quota + int(more)
        for stream, more in zip(mixture.streams, rest, strict=True)
    }


def mix(
    ranges: Mapping[str, range],
    weights: Mapping[str, float],
    seed: int,
    *,
    first: int = 0,
    taken: Mapping[str, int] | None = None,
) -> Mixture:
    """The stream over the sources in `ranges` (contiguous, from row 0), with the shares of `weights`.

    With weights it may begin at position `first`, going on in each source after the rows `taken` of it.
    """
    total = sum(len(rows) for rows in ranges.values())
    if not weights:
        nothing = np.zeros(1, dtype=np.int64)
        return Mixture(ranges, (Stream("", 0, total, 1),), seed, nothing, nothing)
    quotas = apportion(weights, BLOCK_ROWS)
    before = taken or {}
    streams = tuple(
        Stream(name, ranges[name].start, len(ranges[name]), quotas[name], before.get(name, 0)) for name in weights
    )
    places = sorted(
        ((2 * rank + 1) / (2 * stream.quota), number, rank)
        for number, stream in enumerate(streams)
        for rank in range(stream.quota)
    )
    slot_stream = np.array([number for _, number, _ in places], dtype=np.int64)
    slot_rank = np.array([rank for _, _, rank in places], dtype=np.int64)
    return Mixture(ranges, streams, seed, slot_stream, slot_rank, first)


def apportion(weights: Mapping[str, float], seats: int) -> dict[str, int]:
    """Seats by largest remainder, in exact arithmetic; the earlier name wins a tie. None may go empty."""
    total = sum(map(Fraction, weights.values()))
    exact = {name: Fraction(weight) * seats / total for name, weight in weights.items()}
    quotas = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: quotas[name] - exact[name])
    for name in by_remainder[: seats - sum(quotas.values())]:
        quotas[name] += 1
    for name, quota in quotas.items():
        if not quota:
            raise UserError(
                f"shards.mixture: the weight of {name} ({weights[name]:g}) is less than one row in {seats:,}; "
                "raise it or leave the source out of the corpus"
            )
    return quotas
