"""Packed rows into Arrow files.

In: documents as arrays of ids, a window at a time. Out: Arrow IPC files, uncompressed so that they can be
mapped: column `tokens` (fixed_size_list of uint16 or uint32), column `lengths` (list of int32, the
documents or fragments of the row; what they leave is padding), column `documents` (list of string, the id
of each in the corpus, which takes 12 % on top at rows of 128 tokens and is never read in training), where there are
conversations column `learned` (a bit a token: whether it is learned), and the tokenizer's hash, the row length and the
padding id in the schema's metadata. Rows of a window are written in a shuffled order, so that the first rows of a file
are a fair sample of the window: best fit would put the longest pieces first.

Memory: one window per source (16 million tokens at most, 64 MB, up to row lengths of 16,384) and one
record batch (16 MB), whatever the corpus. A window's last row is rarely full, so a window is at least
1,024 rows wide, which bounds that waste to 0.1 %.

Shapes: D documents, P pieces, R rows of a record batch, T tokens in a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slm.core.seeds import derive
from slm.shards.order import permute_many
from slm.shards.pack import Method, Packing, pack
from slm.shards.preferences import interleave, pack_sides

if TYPE_CHECKING:
    from slm.corpus.config import Preferences
    from slm.shards.units import Encoded

WINDOW_TOKENS = 1 << 24
WINDOW_ROWS = 1_024
BATCH_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Layout:
    """What all files of a shards artifact have in common."""

    seq_len: int
    packing: Method
    window_documents: int
    rows_per_file: int
    vocab_size: int
    pad_id: int
    tokenizer_hash: str
    talks: bool = False
    """Whether conversations are among the documents: rows then say which tokens are learned."""
    preferences: Preferences = ""
    """Whether neighbouring rows hold pairs of answers, or wanted and unwanted ones (see `slm.shards.preferences`)."""

    @property
    def dtype(self) -> str:
        """The narrowest id that Arrow and numpy share and the vocabulary fits into."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def schema(self) -> pa.Schema:
        token = pa.uint16() if self.dtype == "uint16" else pa.uint32()
        facts = {"tokenizer_hash": self.tokenizer_hash, "seq_len": str(self.seq_len), "pad_id": str(self.pad_id)}
        columns = {"tokens": pa.list_(token, self.seq_len), "lengths": pa.list_(pa.int32())}
        learned = {"learned": pa.list_(pa.uint8(), -(-self.seq_len // 8))} if self.talks else {}
        return pa.schema({**columns, "documents": pa.list_(pa.string()), **learned}, metadata=facts)


@dataclass(slots=True)
class Tally:
    """What went in and what came out. `tokens` are the documents' own; overlaps and padding come on top."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    targets: int = 0
    rows: int = 0
    padding: int = 0
    fragments: int = 0
    split_documents: int = 0
    files: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        for name in Tally.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def counts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in Tally.__dataclass_fields__ if name != "files"}


class ShardWriter:
    """Packs the documents of one source or split into files `STEM-00000.arrow`; use as a context manager."""

    def __init__(self, folder: Path, stem: str, layout: Layout) -> None:
        self.tally = Tally()
        self._folder, self._stem, self._layout = folder, stem, layout
        self._window: list[NDArray[np.int32]] = []
        self._learned: list[NDArray[np.bool_]] = []
        self._window_names: list[str] = []
        self._sides: list[int] = []
        self._window_tokens = self._windows = self._rows_in_file = 0
        self._talk_waits = False
        self._file: Any = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._close()

    def add(self, document: Encoded) -> None:
        """Take one document."""
        ids_T, learned_T = document.ids_T, document.learned_T
        self.tally.documents += 1
        self.tally.bytes += document.num_bytes
        self.tally.tokens += len(ids_T)
        self.tally.targets += len(ids_T) - 1 if learned_T is None else int(learned_T[1:].sum())
        self._window.append(ids_T)
        self._talk_waits = self._talk_waits or learned_T is not None
        if self._layout.talks:
            self._learned.append(np.arange(len(ids_T)) > 0 if learned_T is None else learned_T)
        self._window_names.append(document.id)
        self._sides.append(document.side)
        self._window_tokens += len(ids_T)
        if self._layout.preferences == "pairs" and not document.side:
            return  # the other half of the pair comes next
        if self._window_tokens >= WINDOW_ROWS * self._layout.seq_len and (
            len(self._window) >= self._layout.window_documents or self._window_tokens >= WINDOW_TOKENS
        ):
            self._flush()

    def _flush(self) -> None:
        if not self._window:
            return
        lengths_D = np.array([len(ids) for ids in self._window], dtype=np.int64)
        packing = self._pack(lengths_D)
        flat = np.concatenate(self._window)
        learned = np.concatenate(self._learned).astype(np.int32) if self._layout.talks else None
        starts_D = np.cumsum(lengths_D) - lengths_D
        names_P = pa.array(self._window_names, pa.string()).take(pa.array(packing.document_P))
        batch_rows = max(1, BATCH_BYTES // (self._layout.seq_len * np.dtype(self._layout.dtype).itemsize))
        done = 0
        while done < packing.num_rows:
            room = self._layout.rows_per_file - self._rows_in_file
            rows = range(done, min(done + min(batch_rows, room), packing.num_rows))
            tokens_RT, lengths_P, offsets = assemble(packing, rows, flat, starts_D, self._layout)
            first = int(np.searchsorted(packing.row_P, rows.start))
            bits_R = None
            if learned is not None:
                flags_RT, *_ = assemble(packing, rows, learned, starts_D, replace(self._layout, pad_id=0))
                bits_R = np.packbits(flags_RT.astype(bool), axis=1)
            self._write(tokens_RT, lengths_P, offsets, names_P.slice(first, len(lengths_P)), bits_R)
            done = rows.stop
        self.tally.rows += packing.num_rows
        self.tally.padding += packing.num_rows * self._layout.seq_len - int(packing.length_P.sum())
        fragments = packing.document_P[packing.start_P > 0]
        self.tally.fragments += len(fragments)
        self.tally.split_documents += len(np.unique(fragments))
        self._window, self._learned, self._window_names, self._sides, self._window_tokens = [], [], [], [], 0
        self._windows, self._talk_waits = self._windows + 1, False

    def _pack(self, lengths_D: NDArray[np.int64]) -> Packing:
        layout = self._layout
        if layout.preferences:
            sides = pack_sides(lengths_D, np.array(self._sides, np.int8), layout.seq_len, layout.preferences)
            return interleave([_shuffled(side, self._windows) if side.num_rows else side for side in sides])
        method: Method = "whole" if self._talk_waits else layout.packing
        return _shuffled(pack(lengths_D, layout.seq_len, method), self._windows)

    def _write(
        self,
        tokens_RT: NDArray[Any],
        lengths_P: NDArray[np.int32],
        offsets: NDArray[np.int32],
        names_P: pa.Array,
        bits_R: NDArray[np.uint8] | None,
    ) -> None:
        if self._file is None:
            name = f"{self._stem}-{len(self.tally.files):05d}.arrow"
            self.tally.files.append(name)
            self._file = pa.ipc.new_file(str(self._folder / name), self._layout.schema())
        tokens = pa.FixedSizeListArray.from_arrays(pa.array(tokens_RT.reshape(-1)), self._layout.seq_len)
        lengths = pa.ListArray.from_arrays(pa.array(offsets), pa.array(lengths_P))
        names = pa.ListArray.from_arrays(pa.array(offsets), names_P)
        columns = [tokens, lengths, names]
        if bits_R is not None:
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(bits_R.reshape(-1)), bits_R.shape[1]))
        self._file.write_batch(pa.record_batch(columns, schema=self._layout.schema()))
        self._rows_in_file += len(tokens_RT)
        if self._rows_in_file >= self._layout.rows_per_file:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._rows_in_file = None, 0


def assemble(
    packing: Packing, rows: range, flat: NDArray[np.int32], starts_D: NDArray[np.int64], layout: Layout
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]:
    """The tokens of `rows` [R, T], the lengths of their pieces, and where each row's lengths begin."""
    low, high = np.searchsorted(packing.row_P, [rows.start, rows.stop])
    length_P, row_P = packing.length_P[low:high], packing.row_P[low:high] - rows.start
    before_P = np.cumsum(length_P) - length_P
    within = np.arange(int(length_P.sum())) - np.repeat(before_P, length_P)
    offsets = np.searchsorted(row_P, np.arange(len(rows) + 1)).astype(np.int32)
    used_R = np.bincount(row_P, weights=length_P, minlength=len(rows)).astype(np.int64)  # 0 where a row is empty
    column_P = before_P - np.repeat(np.cumsum(used_R) - used_R, np.diff(offsets))
    tokens_RT = np.full((len(rows), layout.seq_len), layout.pad_id, dtype=layout.dtype)
    target = np.repeat(row_P * layout.seq_len + column_P, length_P) + within
    source = np.repeat(starts_D[packing.document_P[low:high]] + packing.start_P[low:high], length_P) + within
    tokens_RT.reshape(-1)[target] = flat[source]
    return tokens_RT, length_P.astype(np.int32), offsets


def file_stems(sources: Iterable[str]) -> dict[str, str]:
    """A file name's beginning for each source; names that differ only in odd characters get a number."""
    stems: dict[str, str] = {}
    for source in sources:
        stem = f"train-{re.sub(r'[^A-Za-z0-9._]+', '-', source).strip('-.') or 'source'}"
        taken, candidate, number = set(stems.values()), stem, 1
        while candidate in taken:
            number += 1
            candidate = f"{stem}-{number}"
        stems[source] = candidate
    return stems


def _shuffled(packing: Packing, window: int) -> Packing:
    seeds = np.full(packing.num_rows, derive(0, "window", window), dtype=np.uint64)
    new_rows = permute_many(np.arange(packing.num_rows, dtype=np.int64), packing.num_rows, seeds)
    row_P = new_rows[packing.row_P]
    order = np.argsort(row_P, kind="stable")
    columns = (column[order] for column in (packing.document_P, packing.start_P, packing.length_P, row_P))
    document_P, start_P, length_P, row_P = columns
    return Packing(document_P, start_P, length_P, row_P, packing.num_rows)
