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
from slm.corpus.config import PREFERENCES, Preferences
from slm.corpus.document import SPLITS, Split
from slm.corpus.tables import read_groups, text_of_groups
from slm.shards.config import ShardsConfig
from slm.shards.encode import encode, sides_of
from slm.tokenizer.tokenizer import TEMPLATE_FILE, Tokenizer

UNIT_VERSION = 1
"""Raised when the same unit would be made into something else than before."""
TOKENS, LEARNED, SIDE = "tokens.arrow", "learned", "side"
BATCH_DOCUMENTS, BATCH_TOKENS = 1_024, 1 << 20
NARROW_VOCABULARY = 1 << 16
OTHERS = {
    "num_bytes": pa.int64(), "id": pa.string(), "source": pa.string(), "licence": pa.string(), "language": pa.string(),
}  # fmt: skip
"""The columns beside `tokens`, in the order of `Encoded`."""


class Encoded(NamedTuple):
    """A document as packing needs it."""

    ids_T: NDArray[np.int32]
    """[bos] ids [eos], or a conversation by the chat template."""
    num_bytes: int
    """Of what is learned: the text, or the assistant's words."""
    id: str
    source: str
    licence: str
    language: str
    """Empty where cleaning did not tell it."""
    learned_T: NDArray[np.bool_] | None = None
    """Of a conversation: which tokens the assistant has to say."""
    side: int = 0
    """1 where the answer is the rejected one of a pair, which follows the chosen one, or an unwanted one."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Row groups `first` up to but not including `last` of a corpus file."""

    split: Split
    path: Path
    first: int
    last: int
    bytes: int
    key: str
    talks: bool = False
    """Whether conversations may be among its documents."""
    prefers: bool = False
    """Whether its documents are pairs of answers, or answers with a label."""


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


def has_conversations(corpus: Artifact) -> bool:
    """Whether any source of a corpus holds conversations."""
    return any(source.get("conversations") for source in corpus.section["sources"])


def preferences_of(corpus: Artifact) -> Preferences:
    """Whether a corpus holds pairs of answers, answers with a label, or neither."""
    return PREFERENCES.get(corpus.section["sources"][0].get("conversations", ""), "")


def plan(corpus: Artifact, tokenizer: Artifact, unit_bytes: int) -> list[Unit]:
    """All units, those of training first, in the order of the corpus."""
    made_by = [tokenizer.counts["hash"]]
    if has_conversations(corpus):  # the template is in their ids too
        made_by.append(hashlib.sha256(tokenizer.file(TEMPLATE_FILE).read_bytes()).hexdigest())
    units: list[Unit] = []
    prefers = bool(preferences_of(corpus))
    for split in SPLITS:
        for name in files_of(corpus, split):
            path, sha256 = corpus.file(name), corpus.manifest["files"][name]["sha256"]
            for first, last, size in _ranges(text_of_groups(path), unit_bytes):
                ingredients = [UNIT_VERSION, *made_by, sha256, first, last]
                key = hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:32]
                units.append(Unit(split, path, first, last, size, key, len(made_by) > 1, prefers))
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
                ids_T = values[offsets[row] : offsets[row + 1]].astype(np.int32)
                bits = batch.column(LEARNED)[row].as_py() if LEARNED in batch.schema.names else None
                learned_T = None if bits is None else unpacked(np.frombuffer(bits, np.uint8), len(ids_T))
                side = batch.column(SIDE)[row].as_py() if SIDE in batch.schema.names else 0
                yield Encoded(ids_T, *facts)._replace(learned_T=learned_T, side=side)


def unpacked(bits: NDArray[np.uint8], length: int) -> NDArray[np.bool_]:
    """`length` flags from bytes of eight, along the last axis."""
    return np.unpackbits(bits, axis=-1, count=length).astype(bool)


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
    learned = {LEARNED: pa.binary()} if unit.talks else {}
    sides = {SIDE: pa.int8()} if unit.prefers else {}
    schema = pa.schema({"tokens": pa.list_(token), **OTHERS, **learned, **sides})
    documents = num_bytes = num_tokens = 0
    pending: list[Encoded] = []
    pending_tokens = 0
    with pa.ipc.new_file(str(path), schema) as file:
        for document, ids in encode(read_groups(unit.path, unit.first, unit.last), tokenizer, threads):
            facts = (document.id, document.source, document.licence, document.metadata.get("language", ""))
            for side, (ids_T, learned_T) in sides_of(document, ids, tokenizer):
                size = len(document.text.encode()) if learned_T is None else said_bytes(tokenizer, ids_T, learned_T)
                pending.append(Encoded(ids_T, size, *facts, learned_T, side))
                num_bytes += size
                pending_tokens += len(ids_T)
            documents += 1
            if len(pending) >= BATCH_DOCUMENTS or pending_tokens >= BATCH_TOKENS:
                file.write_batch(_batch(pending, schema))
                num_tokens += pending_tokens
                pending, pending_tokens = [], 0
                tick(documents, num_bytes)
        if pending:
            file.write_batch(_batch(pending, schema))
    return {"documents": documents, "bytes": num_bytes, "tokens": num_tokens + pending_tokens}


def said_bytes(tokenizer: Tokenizer, ids_T: NDArray[np.int32], learned_T: NDArray[np.bool_]) -> int:
    """UTF-8 bytes of what the assistant says."""
    return len(tokenizer.decode_bytes(ids_T[learned_T].tolist()))


def _batch(pending: Sequence[Encoded], schema: pa.Schema) -> pa.RecordBatch:
    narrow: NDArray[Any] = np.concatenate([encoded.ids_T for encoded in pending]).astype(
        schema.field("tokens").type.value_type.to_pandas_dtype()
    )
    offsets = np.cumsum([0, *(len(encoded.ids_T) for encoded in pending)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(pa.array(offsets), pa.array(narrow))
    others = [pa.array([getattr(encoded, name) for encoded in pending], kind) for name, kind in OTHERS.items()]
    if LEARNED in schema.names:
        flags = (None if encoded.learned_T is None else np.packbits(encoded.learned_T).tobytes() for encoded in pending)
        others.append(pa.array(flags, pa.binary()))
    if SIDE in schema.names:
        others.append(pa.array([encoded.side for encoded in pending], pa.int8()))
    return pa.record_batch([tokens, *others], schema=schema)
