"""What a teacher said of each row, as columns of Arrow files beside the shards: the same row number finds it.

In: a store, made by `slm.distill` from a teacher and these shards. Out: for rows of the train split the ids that were
kept of the teacher's distribution at each position, and a value or more beside them (see `Stored`). Files hold equal
numbers of rows in one record batch each, so a row is found by division; they are mapped, and nothing is copied until it
is asked for. What a file says of itself (teacher, tokenizer, template, rows, settings) must agree with the manifest.

Shapes: N rows, T tokens in a row, K ids of a position, F values of a position.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.batch import Stored
from slm.core.errors import DamagedError

STORE_VERSION = 3
"""Raised when a store is laid out otherwise, or the same settings draw other tokens."""
IDS, VALUES = "teacher_ids", "teacher_values"
FACTS = ("store_version", "teacher", "tokenizer_hash", "template", "shards", "method", "kept", "temperature", "seed")
"""What every file of a store repeats of its manifest's counts."""
WAY_OUT = "delete the folder of the store and make it again by slm distill"

Pair = tuple[NDArray[Any], NDArray[np.float16]]


class StoreReader:
    """The columns of a store, by the row of the shards."""

    def __init__(self, artifact: Artifact) -> None:
        counts = artifact.counts
        self.sampled = counts["method"] == "samples"
        self._rows_per_file, self._vocab_size = int(counts["rows_per_file"]), int(counts["vocab_size"])
        self._paths = [artifact.file(name) for name in counts["files"]]
        self._views = [_open(path, counts) for path in self._paths]
        held = sum(len(ids) for ids, _ in self._views)
        if held != counts["rows"]:
            raise DamagedError(f"{artifact.path} holds {held:,} rows, its manifest says {counts['rows']:,}; {WAY_OUT}")

    def rows(self, indices: Sequence[int] | NDArray[np.int64]) -> Stored:
        """What the teacher says of these rows, [N, T, K] and [N, T, F], in the order asked for."""
        ids_NTK, values_NTF = (
            np.stack(parts) for parts in zip(*(self._row(int(index)) for index in indices), strict=True)
        )
        return Stored(
            torch.from_numpy(ids_NTK.astype(np.int32)), torch.from_numpy(values_NTF.astype(np.float32)), self.sampled
        )

    def _row(self, index: int) -> Pair:
        number, inside = divmod(index, self._rows_per_file)
        ids_TK, values_TF = (column[inside] for column in self._views[number])
        if int(ids_TK.max()) >= self._vocab_size:
            raise DamagedError(
                f"{self._paths[number]} is damaged: it holds token {int(ids_TK.max()):,}, but the vocabulary ends at "
                f"{self._vocab_size - 1:,}; {WAY_OUT}"
            )
        return ids_TK, values_TF


def write_rows(path: Path, ids_NTK: NDArray[Any], values_NTF: NDArray[np.float16], facts: dict[str, Any]) -> None:
    """A file of a store."""
    columns = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array[0].size)
        for name, array in ((IDS, ids_NTK), (VALUES, values_NTF))
    }
    metadata = {**{name: str(facts[name]) for name in FACTS}, "seq_len": str(ids_NTK.shape[1])}
    table = pa.table(columns).replace_schema_metadata(metadata)
    with pa.ipc.new_file(str(path), table.schema) as file:
        for batch in table.to_batches():
            file.write_batch(batch)


def _open(path: Path, counts: dict[str, Any]) -> Pair:
    """Ids [N, T, K] and values [N, T, F] of a file, as views of it."""
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        found = {key.decode(): value.decode() for key, value in (file.schema.metadata or {}).items()}
        batch = file.get_batch(0)
        shape = (batch.num_rows, int(counts["seq_len"]), -1)
        ids, values = (batch.column(name).values.to_numpy(zero_copy_only=True).reshape(shape) for name in (IDS, VALUES))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DamagedError(f"{path} is not readable as an Arrow file ({reason}); {WAY_OUT}") from error
    for key in (*FACTS, "seq_len"):
        if found.get(key) != str(counts[key]):
            raise DamagedError(
                f"{path} was written with {key} {found.get(key)}, but its manifest says {counts[key]}; {WAY_OUT}"
            )
    return ids, values
