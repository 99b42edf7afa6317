"""Batches for the training loop, and the state from which it goes on.

In: a shards artifact, the rows of a step, a seed, and which part of each step is ours. Out: per step,
the micro-batches of this rank. What step N trains on is a pure function of (seed, plan, N * batch_rows);
rank, world size, micro-batch and prefetch only divide the same rows differently: rank r of W takes rows
r, r + W, ... of each global batch.

Prefetch builds the next steps in one thread while this one is used; there are no worker processes, since
rows are copied out of mapped files and one core makes 80 million tokens a second at 512 a row and 235 million
at 2,048. The thread computes the same function of the cursor, and what it built is thrown away when the cursor
was moved, so it cannot change the data.

Where neighbouring rows belong together (pairs of answers), they are one sample: order, mixture and ranks deal in
samples, while steps, micro-batches and the cursor go on to count rows.

What costs is the number of calls, not of tokens: order is computed for `ORDER_ROWS` rows at once, and the
micro-batches of a step are laid out together and handed out as views, `TOGETHER_TOKENS` at a time, which bounds
the memory.

Shares of the sources may change as the run goes (`reweigh`). The stream then is a list of segments, each with
the row at which it begins, its shares, and how many rows of each source came before; so any position inside
one is still computed directly. The list is part of the loader's state.

Shapes: B rows of a batch, N rows of several, T tokens in a row, P documents and paddings in a line.
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
from slm.shards.mixture import BLOCK_ROWS, Mixture, Staged, apportion, mix, mix_stages, only, stages_of
from slm.shards.order import Indices
from slm.shards.preferences import rows_of, rows_together
from slm.shards.reader import ShardReader

ORDER_VERSION = 1
"""Part of the plan; raised when `order.py` or `mixture.py` put another row at the same place of the same segments."""
ORDER_ROWS = 1_024
"""Places of the stream that are looked up together; 64 alone cost as much as half of these."""
TOGETHER_TOKENS = 1 << 17
"""Tokens laid out together: about 4 MB of arrays; with a quarter of it, rows of 2,048 take half as long again."""

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
        store: Artifact | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        check_division(batch_rows, micro_batch_rows, world_size)
        self.reader = ShardReader(artifact, "train", store)
        if not self.reader.num_rows:
            raise UserError(f"{artifact.path} holds no train rows; make the shards again from a corpus with text")
        self._together = rows_together(artifact)
        if micro_batch_rows % self._together:
            raise UserError(
                f"train.micro_batch_rows ({micro_batch_rows}) must be even, since chosen and rejected answers lie in "
                f"two rows that stay together; set it to {micro_batch_rows + 1}"
            )
        stages = only(stages_of(artifact), sources, self.reader.ranges)
        parts = {**plan_parts(artifact, seed), **({"sources": list(sources)} if sources else {})}
        self.cursor = Cursor(_digest(parts), parts, sources=dict.fromkeys(self.reader.ranges, 0))
        self._source_starts = [rows.start for rows in self.reader.ranges.values()]
        self._seed = seed
        self._ranges = {
            name: range(rows.start // self._together, rows.stop // self._together)
            for name, rows in self.reader.ranges.items()
        }
        tokens = self.reader.seq_len * self._together
        self._recipe_mixture = mix_stages(self._ranges, stages, tokens, seed)
        self._mixture = self._recipe_mixture
        self._segments: list[Segment] = []
        self._order: tuple[Mixture | Staged, int, Indices] | None = None
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
        borders = [*(segment["first"] * self._together for segment in self._segments[1:]), first + count]
        for number, border in enumerate(borders):
            begin, end = first + len(found), min(border, first + count)
            if begin < end:
                mixture = self._mix(self._segments[number]) if self._segments else self._mixture
                samples = mixture.rows(begin // self._together, (end - begin) // self._together)
                found += rows_of(samples, self._together).tolist()
        return found

    def reweigh(self, shares: Mapping[str, float]) -> None:
        """From the cursor on take rows of the sources in these shares, in 1,024ths; the same again begin no segment."""
        row, taken = self.cursor.row // self._together, dict(self.cursor.sources)
        seats = apportion(shares, BLOCK_ROWS)
        if self._segments and self._segments[-1]["seats"] == seats:
            return
        kept = [segment for segment in self._segments if segment["first"] < row]
        self._enter([*kept, {"first": row, "seats": seats, "taken": taken}])

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
        self._mixture = self._mix(segments[-1]) if segments else self._recipe_mixture
        for _, future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _mix(self, segment: Segment) -> Mixture:
        return mix(self._ranges, segment["seats"], self._seed, first=segment["first"], taken=segment["taken"])

    def _take(self, row: int, count: int) -> Built:
        """The step of `count` rows at `row`: built ahead, unless the cursor was moved since or steps have grown."""
        while self._ahead:
            place, future = self._ahead.popleft()
            if place == (row, count) and not future.cancel():  # one that was not begun is sooner built here
                return future.result()
            future.cancel()
        return self._build(self._mixture, row, count)

    def _build_ahead(self, row: int, count: int) -> None:
        while self._thread is not None and len(self._ahead) < self._prefetch_steps:
            place = row + len(self._ahead) * count
            self._ahead.append(((place, count), self._thread.submit(self._build, self._mixture, place, count)))

    def _build(self, mixture: Mixture | Staged, row: int, count: int) -> Built:
        samples = self._places(mixture, row // self._together, count // self._together)
        mine = rows_of(samples[self._rank :: self._world_size], self._together)
        micro = self._micro_batch_rows
        at_once = micro * max(1, TOGETHER_TOKENS // (micro * self.reader.seq_len))
        batches: list[Batch] = []
        for first in range(0, len(mine), at_once):
            asked = mine[first : first + at_once]
            batches += read_batches(self.reader, asked, micro)
        if len(self._source_starts) > 1:
            sources = torch.from_numpy(np.searchsorted(self._source_starts, mine, side="right") - 1)
            for batch, sources_B in zip(batches, torch.split(sources, micro), strict=True):
                batch.sources_B = sources_B
        return batches, mixture.count_sources(samples)

    def _places(self, mixture: Mixture | Staged, row: int, count: int) -> Indices:
        """`mixture.rows(row, count)`, from what was looked up with an earlier step where it reaches that far.

        Here, in the mixture, and in segments rows are samples.
        """
        known = self._order
        if known is None or known[0] is not mixture or row < known[1] or row + count > known[1] + len(known[2]):
            known = self._order = (mixture, row, mixture.rows(row, max(count, ORDER_ROWS)))
        return known[2][row - known[1] :][:count]


def read_batch(reader: ShardReader, rows: Sequence[int]) -> Batch:
    """Rows of the shards as one `Batch`."""
    return read_batches(reader, rows, len(rows))[0]


def read_batches(reader: ShardReader, rows: Sequence[int] | Indices, part_rows: int) -> list[Batch]:
    """Rows of the shards as a `Batch` of each `part_rows`, which divide them, with what a teacher said where stored."""
    tokens_NT, lengths = reader.rows(rows)
    batches = collate_parts(tokens_NT, lengths, reader.pad_id, part_rows, reader.learned(rows))
    if reader.preferences:
        _number(batches, np.asarray(rows, dtype=np.int64), lengths, pairs=reader.preferences == "pairs")
    if reader.stored is not None:
        whole = reader.stored.rows(rows)
        for number, batch in enumerate(batches):
            mine = slice(number * part_rows, (number + 1) * part_rows)
            batch.stored = whole.each(lambda tensor, mine=mine: tensor[mine])  # type: ignore[misc]
    return batches


def _number(batches: list[Batch], rows_N: Indices, lengths: Sequence[NDArray[np.int32]], *, pairs: bool) -> None:
    """Tell batches of preferences which rows they have, and how many pairs, or answers with a label."""
    counts_N = np.fromiter(map(len, lengths), dtype=np.int64, count=len(rows_N))
    if pairs:
        counts_N[1::2] = 0  # the other halves
    first = 0
    for batch in batches:
        mine = slice(first, first + len(batch.tokens_BT))
        batch.rows_B, batch.num_preferences = torch.from_numpy(rows_N[mine]), int(counts_N[mine].sum())
        first = mine.stop


def collate(tokens_BT: NDArray[Any], lengths: Sequence[NDArray[np.int32]], pad_id: int) -> Batch:
    """Rows as a `Batch`: documents numbered, positions restarting in each, next tokens as targets.

    The last token of a document or fragment has no target: what follows it in the row is another text.
    """
    return collate_parts(tokens_BT, lengths, pad_id, len(tokens_BT))[0]


def collate_parts(
    tokens_NT: NDArray[Any],
    lengths: Sequence[NDArray[np.int32]],
    pad_id: int,
    part_rows: int,
    learned_NT: NDArray[np.bool_] | None = None,
) -> list[Batch]:
    """`collate` of each `part_rows` rows, which divide N; parts are views of arrays that they share.

    Tokens that `learned_NT` does not name are no targets.
    """
    num_rows, seq_len = tokens_NT.shape
    counts_N = np.fromiter(map(len, lengths), dtype=np.int64, count=num_rows)
    ends_N = np.cumsum(counts_N + 1)  # one more piece a row: its padding, of length 0 in a full row
    pieces_P = np.zeros(int(ends_N[-1]), dtype=np.int64)
    is_text_P = np.ones(len(pieces_P), dtype=bool)
    is_text_P[ends_N - 1] = False
    pieces_P[is_text_P] = np.concatenate(lengths)
    used_N = np.add.reduceat(pieces_P, ends_N - counts_N - 1)
    pieces_P[ends_N - 1] = seq_len - used_N
    numbers_P = np.arange(len(pieces_P)) - np.repeat(ends_N - counts_N - 1, counts_N + 1)
    numbers_P[ends_N - 1] = -1
    starts_P = np.cumsum(pieces_P) - pieces_P
    padding = _spans((starts_P + pieces_P)[ends_N - 1], seq_len - used_N)

    positions = np.repeat(starts_P, pieces_P)
    np.subtract(np.arange(num_rows * seq_len), positions, out=positions)
    documents = np.repeat(numbers_P.astype(np.int32), pieces_P)
    tokens = tokens_NT.reshape(-1).astype(np.int64)
    tokens[padding] = pad_id
    targets = np.empty_like(tokens)
    targets[:-1] = tokens[1:]
    targets[(starts_P + pieces_P - 1)[pieces_P > 0]] = IGNORED
    targets[padding] = IGNORED
    targets_N = used_N - counts_N
    if learned_NT is not None:
        targets[:-1][~learned_NT.reshape(-1)[1:]] = IGNORED
        targets_N = (targets.reshape(num_rows, seq_len) != IGNORED).sum(1)
    num_targets = np.add.reduceat(targets_N, np.arange(0, num_rows, part_rows)).tolist()
    arrays = (tokens, targets, documents, positions)
    columns = [torch.split(torch.from_numpy(array.reshape(num_rows, seq_len)), part_rows) for array in arrays]
    return [Batch(*parts) for parts in zip(*columns, num_targets, strict=True)]


def _spans(ends_N: Indices, sizes_N: Indices) -> Indices:
    """The places `end - size`, ..., `end - 1` of all spans, one after the other."""
    before_N = np.cumsum(sizes_N)
    return np.arange(int(before_N[-1])) + np.repeat(ends_N - before_N, sizes_N)


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
        "mixture": artifact.section["mixture"],
        "seq_len": artifact.counts["seq_len"],
        "packing": artifact.section["packing"],
        "order_version": ORDER_VERSION,
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
