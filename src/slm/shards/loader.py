"""Batches for the training loop, and the state from which it goes on.

In: a shards artifact, the rows of a step, a seed, and which part of each step is ours. Out: per step,
the micro-batches of this rank. What step N trains on is a pure function of (seed, plan, N * batch_rows);
rank, world size, micro-batch and prefetch only divide the same rows differently: rank r of W takes rows
r, r + W, ... of each global batch.

Prefetch builds the next steps in one thread while this one is used; there are no worker processes, since
rows are copied out of mapped files and one core makes 50 million tokens a second at 256 a row and 107
million at 2,048. The thread computes the same function of the cursor, and what it built is thrown away when
the cursor was moved, so it cannot change the data.

Shares of the sources may change as the run goes (`reweigh`). The stream then is a list of segments, each with
the row at which it begins, its shares, and how many rows of each source came before; so any position inside
one is still computed directly. The list is part of the loader's state.

Shapes: B rows, T tokens in a row, P documents and paddings of a batch in a line.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.batch import IGNORED, Batch
from slm.core.errors import UserError
from slm.shards.cursor import Cursor
from slm.shards.mixture import BLOCK_ROWS, Mixture, apportion, mix
from slm.shards.reader import ShardReader

ORDER_VERSION = 1
"""Part of the plan; raised when `order.py` or `mixture.py` put another row at the same place."""


Built = tuple[list[Batch], dict[str, int]]
"""A step's micro-batches, and how many of its rows are of each source."""
Segment = dict[str, Any]
"""`first` row, `seats` of each source in a block, rows `taken` of each before; JSON values."""


class Loader:
    """The endless stream of optimizer steps; `cursor` says how far it has been read."""

    def __init__(
        self,
        artifact: Artifact,
        *,
        batch_rows: int,
        micro_batch_rows: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        prefetch_steps: int = 1,
    ) -> None:
        check_division(batch_rows, micro_batch_rows, world_size)
        self.reader = ShardReader(artifact, "train")
        if not self.reader.num_rows:
            raise UserError(f"{artifact.path} holds no train rows; make the shards again from a corpus with text")
        weights = artifact.section["weights"]
        parts = plan_parts(artifact, seed)
        self.cursor = Cursor(_digest(parts), parts, sources=dict.fromkeys(self.reader.ranges, 0))
        self._source_starts = [rows.start for rows in self.reader.ranges.values()]
        self._seed, self._weights = seed, weights
        self._mixture = mix(self.reader.ranges, weights, seed)
        self._segments: list[Segment] = []
        self._batch_rows, self._micro_batch_rows = batch_rows, micro_batch_rows
        self._rank, self._world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch_steps else None
        self._prefetch_steps = prefetch_steps
        self._before = self.cursor.state_dict()
        self._ahead: deque[tuple[tuple[int, int], Future[Built]]] = deque()

    def step(self, rows: int | None = None) -> list[Batch]:
        """The micro-batches of the next step for this rank; the cursor moves on by the global batch.

        A step has `rows` rows, or the loader's `batch_rows`. What is built ahead goes on with as many.
        """
        count, row = rows or self._batch_rows, self.cursor.row
        self._before = self.cursor.state_dict()
        batches, sources = self._take(row, count)
        following = row + count
        self.cursor.row = following
        self.cursor.epoch = following // self.reader.num_rows
        self.cursor.tokens += count * self.reader.seq_len
        for name, taken in sources.items():
            self.cursor.sources[name] += taken
        self._build_ahead(following, count)
        return batches

    @property
    def step_row(self) -> int:
        """The row at which the last step began."""
        return int(self._before["row"])

    def undo(self) -> None:
        """Put the cursor back to where it was before the last `step`."""
        self.cursor.load_state_dict(self._before)

    def rows_at(self, first: int, count: int) -> list[int]:
        """The rows of the shards at places `first`, ..., `first + count - 1` of the stream."""
        found: list[int] = []
        borders = [*(segment["first"] for segment in self._segments[1:]), first + count]
        for number, border in enumerate(borders):
            begin, end = first + len(found), min(border, first + count)
            if begin < end:
                mixture = self._mix(self._segments[number]) if self._segments else self._mixture
                found += mixture.rows(begin, end - begin).tolist()
        return found

    def reweigh(self, shares: Mapping[str, float]) -> None:
        """From the cursor on take rows of the sources in these shares, in 1,024ths."""
        row, taken = self.cursor.row, dict(self.cursor.sources)
        kept = [segment for segment in self._segments if segment["first"] < row]
        self._enter([*kept, {"first": row, "seats": apportion(shares, BLOCK_ROWS), "taken": taken}])

    @property
    def shares(self) -> dict[str, float]:
        """The share of each source in the stream here, where `reweigh` has set one."""
        seats = self._segments[-1]["seats"] if self._segments else {}
        return {name: count / BLOCK_ROWS for name, count in seats.items()}

    def state_dict(self) -> dict[str, Any]:
        """The cursor as JSON values, and the segments where there are some; steps built ahead are not in it."""
        return {**self.cursor.state_dict(), **({"segments": list(self._segments)} if self._segments else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved cursor; refused if the data or its order are not the same."""
        self.cursor.load_state_dict(state)
        segments = list(state.get("segments", []))
        if segments != self._segments:
            self._enter(segments)

    def _enter(self, segments: list[Segment]) -> None:
        """Read on in the last of `segments`; what was built ahead belongs to another."""
        self._segments = segments
        self._mixture = self._mix(segments[-1]) if segments else mix(self.reader.ranges, self._weights, self._seed)
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _mix(self, segment: Segment) -> Mixture:
        return mix(self.reader.ranges, segment["seats"], self._seed, first=segment["first"], taken=segment["taken"])

    def _take(self, row: int, count: int) -> Built:
        """The step of `count` rows at `row`: built ahead, unless the cursor was moved since or steps have grown."""
        while self._ahead:
            place, future = self._ahead.popleft()
            if place == (row, count):
                return future.result()
            future.cancel()
        return self._build(self._mixture, row, count)

    def _build_ahead(self, row: int, count: int) -> None:
        while self._thread is not None and len(self._ahead) < self._prefetch_steps:
            place = row + len(self._ahead) * count
            self._ahead.append(((place, count), self._thread.submit(self._build, self._mixture, place, count)))

    def _build(self, mixture: Mixture, row: int, count: int) -> Built:
        rows = mixture.rows(row, count)
        mine = rows[self._rank :: self._world_size]
        tokens_NT, lengths = self.reader.rows(mine)
        micro = self._micro_batch_rows
        batches = [
            collate(tokens_NT[first : first + micro], lengths[first : first + micro], self.reader.pad_id)
            for first in range(0, len(mine), micro)
        ]
        if len(self._source_starts) > 1:
            sources = torch.from_numpy(np.searchsorted(self._source_starts, mine, side="right") - 1)
            for number, batch in enumerate(batches):
                batch.sources_B = sources[number * micro : (number + 1) * micro]
        return batches, mixture.count_sources(rows)


def collate(tokens_BT: NDArray[Any], lengths: Sequence[NDArray[np.int32]], pad_id: int) -> Batch:
    """Rows as a `Batch`: documents numbered, positions restarting in each, next tokens as targets.

    The last token of a document or fragment has no target: what follows it in the row is another text.
    """
    num_rows, seq_len = tokens_BT.shape
    counts_B = np.array([len(pieces) for pieces in lengths])
    used_B = np.array([pieces.sum() for pieces in lengths])
    ends_B = np.cumsum(counts_B + 1)  # one more piece a row: its padding, of length 0 in a full row
    pieces_P = np.empty(int(ends_B[-1]), dtype=np.int64)
    is_padding_P = np.zeros(len(pieces_P), dtype=bool)
    is_padding_P[ends_B - 1] = True
    pieces_P[is_padding_P] = seq_len - used_B
    pieces_P[~is_padding_P] = np.concatenate(lengths)
    numbers_P = np.arange(len(pieces_P)) - np.repeat(ends_B - counts_B - 1, counts_B + 1)
    numbers_P[is_padding_P] = -1

    starts_P = np.cumsum(pieces_P) - pieces_P
    flat = np.arange(num_rows * seq_len, dtype=np.int64)
    positions = flat - np.repeat(starts_P, pieces_P)
    documents = np.repeat(numbers_P.astype(np.int32), pieces_P)
    tokens = tokens_BT.reshape(-1).astype(np.int64)
    padding = documents < 0
    tokens[padding] = pad_id
    targets = np.empty_like(tokens)
    targets[:-1] = tokens[1:]
    targets[(starts_P + pieces_P - 1)[pieces_P > 0]] = IGNORED
    targets[padding] = IGNORED
    num_targets = int((pieces_P[~is_padding_P] - 1).sum())

    def shaped(values: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(values.reshape(num_rows, seq_len))

    return Batch(shaped(tokens), shaped(targets), shaped(documents), shaped(positions), num_targets)


def check_division(batch_rows: int, micro_batch_rows: int, world_size: int, key: str = "train.batch_tokens") -> None:
    """Every rank must run the same number of equal micro-batches."""
    together = micro_batch_rows * world_size
    if batch_rows % together or not batch_rows:
        nearest = max(1, round(batch_rows / together)) * together
        raise UserError(
            f"{key} gives {batch_rows:,} rows a step, which must be a multiple of train.micro_batch_rows "
            f"x processes ({micro_batch_rows} x {world_size} = {together}); "
            f"set {key} to {nearest:,} x shards.seq_len, or change micro_batch_rows"
        )


def plan_parts(artifact: Artifact, seed: int) -> dict[str, Any]:
    """Everything that decides which row stands where in the stream."""
    files = {name: record["sha256"] for name, record in artifact.manifest["files"].items() if name.startswith("train-")}
    return {
        "files": _digest(files),
        "seed": seed,
        "weights": artifact.section["weights"],
        "seq_len": artifact.counts["seq_len"],
        "packing": artifact.section["packing"],
        "order_version": ORDER_VERSION,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
