"""Rows out of Arrow files, without copies until they are asked for.

In: a shards artifact and a split. Out: token rows as one numpy array, with the lengths of the documents
in each and, asked for one row, their ids in the corpus. Files are memory-mapped; the numpy view of each
record batch's values is taken once at opening, after which a row of 512 or 2,048 tokens costs about 1 us
(through pyarrow row by row: about 29). What a file says of itself must agree with the manifest, and every id
read is checked against the vocabulary, so a damaged file ends in one sentence that names it and never in a
wrong embedding row.

Shapes: N rows, T tokens in a row, P documents or fragments in a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.errors import DamagedError, UserError
from slm.shards.store import StoreReader

Split = Literal["train", "validation"]
WAY_OUT = "delete the folder of the shards and make them again"


class ShardReader:
    """The rows of one split, numbered over its files; train rows lie source by source."""

    def __init__(self, artifact: Artifact, split: Split, store: Artifact | None = None) -> None:
        counts = artifact.counts
        self.stored = None if store is None else StoreReader(store)
        """What a teacher said of the rows, where a store of that is given."""
        self.seq_len = int(counts["seq_len"])
        self.vocab_size = int(counts["vocab_size"])
        self.pad_id = int(counts["pad_id"])
        self.tokenizer_hash = str(counts["tokenizer_hash"])
        self.preferences = str(counts.get("preferences", ""))
        """`pairs` or `labels` where neighbouring rows belong together (see `slm.shards.preferences`), or nothing."""
        self.ranges: dict[str, range] = {}
        """The rows of each source (train); the whole split under its own name (validation)."""
        self._paths: list[Path] = []
        self._views: list[tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32]]] = []
        self._documents: list[pa.ListArray | None] = []
        self._learned: list[NDArray[np.uint8] | None] = []
        starts = [0]
        for source, names in counts["files"][split].items():
            first = starts[-1]
            for name in names:
                path = artifact.file(name)
                for tokens_RT, offsets, lengths_P, documents, learned in _open(path, counts):
                    self._paths.append(path)
                    self._views.append((tokens_RT, offsets, lengths_P))
                    self._documents.append(documents)
                    self._learned.append(learned)
                    starts.append(starts[-1] + len(tokens_RT))
            self.ranges[source] = range(first, starts[-1])
        self._starts = np.array(starts, dtype=np.int64)
        self.num_rows = starts[-1]
        if self.num_rows != counts[split]["rows"]:
            raise DamagedError(
                f"{artifact.path} holds {self.num_rows:,} {split} rows, its manifest says {counts[split]['rows']:,}; "
                f"{WAY_OUT}"
            )

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[Any], list[NDArray[np.int32]]]:
        """Tokens [N, T] and the document lengths of each row, in the order asked for."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and not (indices.min() >= 0 and indices.max() < self.num_rows):
            raise IndexError(f"rows {indices.min()}..{indices.max()} asked for, there are {self.num_rows}")
        batches = np.searchsorted(self._starts, indices, side="right") - 1
        inside = indices - self._starts[batches]
        dtype = self._views[0][0].dtype if self._views else np.uint16
        tokens_NT = np.empty((len(indices), self.seq_len), dtype=dtype)
        lengths: list[NDArray[np.int32]] = []
        for place, (batch, row) in enumerate(zip(batches.tolist(), inside.tolist(), strict=True)):
            tokens_RT, offsets, lengths_P = self._views[batch]
            tokens_NT[place] = tokens_RT[row]
            lengths.append(lengths_P[offsets[row] : offsets[row + 1]])
        if lengths:
            self._check(tokens_NT, lengths, batches)
        return tokens_NT, lengths

    def learned(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which tokens of these rows are learned [N, T]; None where all are, since there are no conversations."""
        if all(bits is None for bits in self._learned):
            return None
        indices = np.asarray(indices, dtype=np.int64)
        batches = np.searchsorted(self._starts, indices, side="right") - 1
        learned_NT = np.ones((len(indices), self.seq_len), dtype=bool)
        for place, (batch, row) in enumerate(zip(batches, indices - self._starts[batches], strict=True)):
            bits = self._learned[batch]
            if bits is not None:
                learned_NT[place] = np.unpackbits(bits[row], count=self.seq_len)
        return learned_NT

    def documents(self, row: int) -> list[str]:
        """The corpus ids of a row's documents, one for each length; none where older shards do not tell."""
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        documents = self._documents[batch]
        found: list[str] = [] if documents is None else documents[row - int(self._starts[batch])].as_py()
        return found

    def _check(self, tokens_NT: NDArray[Any], lengths: list[NDArray[np.int32]], batches: NDArray[np.int64]) -> None:
        largest = int(tokens_NT.max())
        if largest >= self.vocab_size:
            place = int(tokens_NT.max(axis=1).argmax())
            raise DamagedError(
                f"{self._paths[batches[place]]} is damaged: it holds token {largest:,}, but the vocabulary ends at "
                f"{self.vocab_size - 1:,}; {WAY_OUT}"
            )
        pieces = np.concatenate(lengths)
        before = np.concatenate([[0], np.cumsum(pieces)])[np.cumsum([0, *map(len, lengths)])]
        used_N = np.diff(before)
        if int(used_N.max()) > self.seq_len or (len(pieces) and int(pieces.min()) < 1):
            wrong = [
                int(used) > self.seq_len or bool((own < 1).any()) for used, own in zip(used_N, lengths, strict=True)
            ]
            place = wrong.index(True)
            raise DamagedError(
                f"{self._paths[batches[place]]} is damaged: the documents of a row take {used_N[place]:,} of "
                f"{self.seq_len:,} tokens; {WAY_OUT}"
            )


def _open(
    path: Path, counts: dict[str, Any]
) -> list[tuple[NDArray[Any], NDArray[np.int32], NDArray[np.int32], pa.ListArray | None, NDArray[np.uint8] | None]]:
    """Per record batch: tokens [rows, T], offsets and values of the lengths, ids of documents, and eight flags a byte
    [rows, T / 8] of what is learned; views of the file."""
    seq_len = int(counts["seq_len"])
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        metadata = {key.decode(): value.decode() for key, value in (file.schema.metadata or {}).items()}
        batches = [file.get_batch(number) for number in range(file.num_record_batches)]
        views = [
            (
                batch.column("tokens").values.to_numpy(zero_copy_only=True).reshape(-1, seq_len),
                batch.column("lengths").offsets.to_numpy(zero_copy_only=True),
                batch.column("lengths").values.to_numpy(zero_copy_only=True),
                batch.column("documents") if "documents" in batch.schema.names else None,
                batch.column("learned").values.to_numpy(zero_copy_only=True).reshape(batch.num_rows, -1)
                if "learned" in batch.schema.names
                else None,
            )
            for batch in batches
        ]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DamagedError(f"{path} is not readable as an Arrow file ({reason}); {WAY_OUT}") from error
    for key in ("tokenizer_hash", "seq_len", "pad_id"):
        if metadata.get(key) != str(counts[key]):
            raise UserError(
                f"{path} was written with {key} {metadata.get(key)}, but its manifest says {counts[key]}; {WAY_OUT}"
            )
    return views
