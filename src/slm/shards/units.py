"""Tokenizing as units of work, the same whoever does it.

In: the files of a corpus. Out: units of about `unit_bytes` of text, in the order of the corpus: row groups of one file
each. Made, a unit is a folder (see `slm.core.units`) with `tokens.arrow`: a row for each document, with its ids as
shards store them, the bytes of its text, its id, source, licence and language. Packing then reads units in order, so
shards are the same bytes however the corpus was divided. A unit takes 2 bytes of disk a token (4 above 65,536 ids),
about half of its text, and is read a record batch at a time.

A unit's key follows the corpus file and the tokenizer, not the packing: rows of another length find it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.units import Tick, publish, verified
from slm.corpus.build import files_of
from slm.corpus.document import SPLITS, Split
from slm.corpus.tables import read_groups, text_of_groups
from slm.shards.config import ShardsConfig
from slm.shards.encode import encode
from slm.tokenizer.tokenizer import Tokenizer

UNIT_VERSION = 1
"""Raised when the same unit would be made into something else than before."""
TOKENS = "tokens.arrow"
BATCH_DOCUMENTS, BATCH_TOKENS = 1_024, 1 << 20
NARROW_VOCABULARY = 1 << 16
OTHERS = {
    "num_bytes": pa.int64(), "id": pa.string(), "source": pa.string(), "licence": pa.string(), "language": pa.string(),
}  # fmt: skip
"""The columns beside `tokens`, in the order of `Encoded`."""


class Encoded(NamedTuple):
    """A document as packing needs it."""

    ids_T: NDArray[np.int32]
    """[bos] ids [eos]."""
    num_bytes: int
    id: str
    source: str
    licence: str
    language: str
    """Empty where cleaning did not tell it."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Row groups `first` up to but not including `last` of a corpus file."""

    split: Split
    path: Path
    first: int
    last: int
    bytes: int
    key: str


class ShardsWork(NamedTuple):
    """The units of a corpus, the tokenizer, and where tokenized units are put."""

    config: ShardsConfig
    units: Sequence[Unit]
    root: Path
    tokenizer: Path
    stage: str = "shards"

    @property
    def workers(self) -> int:
        return self.config.workers

    @property
    def executor(self) -> str:
        return self.config.executor

    def make(self, unit: Unit, tick: Tick) -> int:
        """Tokenize one unit; returns how many documents it has."""
        tokenizer, threads = Tokenizer.load(self.tokenizer), self.config.threads
        facts = publish(self.root, unit, lambda folder: _write(unit, folder / TOKENS, tokenizer, threads, tick))
        return int(facts["documents"])

    def needed(self) -> Callable[[Unit], bool]:
        """Every unit is."""
        return lambda _: True


def plan(corpus: Artifact, tokenizer_hash: str, unit_bytes: int) -> list[Unit]:
    """All units, those of training first, in the order of the corpus."""
    units: list[Unit] = []
    for split in SPLITS:
        for name in files_of(corpus, split):
            path, sha256 = corpus.file(name), corpus.manifest["files"][name]["sha256"]
            for first, last, size in _ranges(text_of_groups(path), unit_bytes):
                ingredients = [UNIT_VERSION, tokenizer_hash, sha256, first, last]
                key = hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:32]
                units.append(Unit(split, path, first, last, size, key))
    return units


def read_unit(root: Path, unit: Unit) -> Iterator[Encoded]:
    """The documents of a tokenized unit; `DamagedError` where its file is not what was written."""
    with pa.memory_map(str(verified(root, unit) / TOKENS)) as source:
        file = pa.ipc.open_file(source)
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            tokens = batch.column("tokens")
            values, offsets = tokens.values.to_numpy(), tokens.offsets.to_numpy().tolist()
            others = zip(*(batch.column(name).to_pylist() for name in OTHERS), strict=True)
            for row, facts in enumerate(others):
                # Copied, so that a document that waits in a window does not keep its whole batch in memory.
                yield Encoded(values[offsets[row] : offsets[row + 1]].astype(np.int32), *facts)


def _ranges(sizes: Sequence[int], unit_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Consecutive row groups together until they come to `unit_bytes`: first, last, bytes."""
    first = total = 0
    for number, size in enumerate(sizes):
        if number > first and total + size > unit_bytes:
            yield first, number, total
            first, total = number, 0
        total += size
    if first < len(sizes):
        yield first, len(sizes), total


def _write(unit: Unit, path: Path, tokenizer: Tokenizer, threads: int, tick: Tick) -> dict[str, Any]:
    """Write the file of a unit; returns its facts."""
    token = pa.uint16() if tokenizer.vocab_size <= NARROW_VOCABULARY else pa.uint32()
    schema = pa.schema({"tokens": pa.list_(token), **OTHERS})
    documents = num_bytes = num_tokens = 0
    pending: list[Encoded] = []
    pending_tokens = 0
    with pa.ipc.new_file(str(path), schema) as file:
        for document, ids_T in encode(read_groups(unit.path, unit.first, unit.last), tokenizer, threads):
            size, language = len(document.text.encode()), document.metadata.get("language", "")
            pending.append(Encoded(ids_T, size, document.id, document.source, document.licence, language))
            documents += 1
            num_bytes += size
            pending_tokens += len(ids_T)
            if len(pending) >= BATCH_DOCUMENTS or pending_tokens >= BATCH_TOKENS:
                file.write_batch(_batch(pending, schema))
                num_tokens += pending_tokens
                pending, pending_tokens = [], 0
                tick(documents, num_bytes)
        if pending:
            file.write_batch(_batch(pending, schema))
    return {"documents": documents, "bytes": num_bytes, "tokens": num_tokens + pending_tokens}


def _batch(pending: Sequence[Encoded], schema: pa.Schema) -> pa.RecordBatch:
    narrow: NDArray[Any] = np.concatenate([encoded.ids_T for encoded in pending]).astype(
        schema.field("tokens").type.value_type.to_pandas_dtype()
    )
    offsets = np.cumsum([0, *(len(encoded.ids_T) for encoded in pending)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(narrow))
    others = [pa.array([getattr(encoded, name) for encoded in pending], kind) for name, kind in OTHERS.items()]
    return pa.record_batch([tokens, *others], schema=schema)
