"""Batches for the training loop, and the state from which it goes on.

In: a shards artifact, the rows of a step, a seed, and which part of each step is ours. Out: per step,
the micro-batches of this rank. What step N trains on is a pure function of (seed, plan, N * batch_rows);
rank, world size, micro-batch and prefetch only divide the same rows differently: rank r of W takes rows
r, r + W, ... of each global batch.

Prefetch builds the next step in a thread while this one is used. It computes the same function of the
cursor, and what it built is thrown away when the cursor was moved, so it cannot change the data.
Without it, one core makes 50 million tokens a second at 256 a row and 107 million at 2,048.

Shapes: B rows, T tokens in a row, P documents and paddings of a batch in a line.
"""

from __future__ import annotations

import hashlib
import json
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
from slm.shards.mixture import mix
from slm.shards.reader import ShardReader

ORDER_VERSION = 1
"""Part of the plan; raised when `order.py` or `mixture.py` put another row at the same place."""


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
        prefetch: bool = True,
    ) -> None:
        check_division(batch_rows, micro_batch_rows, world_size)
        self.reader = ShardReader(artifact, "train")
        if not self.reader.num_rows:
            raise UserError(f"{artifact.path} holds no train rows; make the shards again from a corpus with text")
        weights = artifact.section["weights"]
        parts = plan_parts(artifact, seed)
        self.cursor = Cursor(_digest(parts), parts, sources=dict.fromkeys(self.reader.ranges, 0))
        self._mixture = mix(self.reader.ranges, weights, seed)
        self._batch_rows, self._micro_batch_rows = batch_rows, micro_batch_rows
        self._rank, self._world_size = rank, world_size
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader") if prefetch else None
        self._before = self.cursor.state_dict()
        self._ahead: tuple[int, Future[tuple[list[Batch], dict[str, int]]]] | None = None

    def step(self) -> list[Batch]:
        """The micro-batches of the next step for this rank; the cursor moves on by the global batch."""
        row = self.cursor.row
        self._before = self.cursor.state_dict()
        if self._ahead is not None and self._ahead[0] == row:
            batches, sources = self._ahead[1].result()
        else:
            batches, sources = self._build(row)
        following = row + self._batch_rows
        self.cursor.row = following
        self.cursor.epoch = following // self.reader.num_rows
        self.cursor.tokens += self._batch_rows * self.reader.seq_len
        for name, count in sources.items():
            self.cursor.sources[name] += count
        if self._thread is not None:
            self._ahead = (following, self._thread.submit(self._build, following))
        return batches

    def undo(self) -> None:
        """Put the cursor back to where it was before the last `step`."""
        self.cursor.load_state_dict(self._before)

    def rows_at(self, first: int, count: int) -> list[int]:
        """The rows of the shards at places `first`, ..., `first + count - 1` of the stream."""
        found: list[int] = self._mixture.rows(first, count).tolist()
        return found

    def state_dict(self) -> dict[str, Any]:
        """The cursor as JSON values; steps built ahead are not in it."""
        return self.cursor.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved cursor; refused if the data or its order are not the same."""
        self.cursor.load_state_dict(state)

    def _build(self, row: int) -> tuple[list[Batch], dict[str, int]]:
        rows = self._mixture.rows(row, self._batch_rows)
        mine = rows[self._rank :: self._world_size]
        tokens_NT, lengths = self.reader.rows(mine)
        micro = self._micro_batch_rows
        batches = [
            collate(tokens_NT[first : first + micro], lengths[first : first + micro], self.reader.pad_id)
            for first in range(0, len(mine), micro)
        ]
        return batches, self._mixture.count_sources(rows)


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


def check_division(batch_rows: int, micro_batch_rows: int, world_size: int) -> None:
    """Every rank must run the same number of equal micro-batches."""
    together = micro_batch_rows * world_size
    if batch_rows % together or not batch_rows:
        nearest = max(1, round(batch_rows / together)) * together
        raise UserError(
            f"train.batch_tokens gives {batch_rows:,} rows a step, which must be a multiple of train.micro_batch_rows "
            f"x processes ({micro_batch_rows} x {world_size} = {together}); "
            f"set train.batch_tokens to {nearest:,} x shards.seq_len, or change micro_batch_rows"
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
