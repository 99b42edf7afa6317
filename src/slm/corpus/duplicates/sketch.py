"""Texts to digests and MinHash band keys, and the files that carry them from where documents are read.

In: documents. Out: of each a place in the order, a digest, and one uint64 per band. Documents with one digest are
copies; documents that share a band's key are candidates. A signature is rensa's R-MinHash of the hashes of all
runs of five words (Fast Similarity Sketching, arXiv 1704.04370), a band's key a hash of `rows` of its values and
of the band's number.

Signatures of another algorithm, version or shape say nothing about each other: a file names its `Scheme`, and
only files of the scheme in hand are read.

Shapes: D documents, S shingles, B bands, R rows, V = B x R values.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from rensa import RMinHash

from slm.core.errors import DamagedError, UserError
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.words import Hashes, WordHasher, mix, normal_form, plain_words, run_hash, window_hashes

if TYPE_CHECKING:
    import pyarrow as pa

SEED = 42
HASHING_VERSION = 1
"""To be raised when `slm.corpus.words` or `band_keys` would give other values."""
_row_factors = mix(np.arange(1, 65, dtype=np.uint64)) | np.uint64(1)


@dataclass(frozen=True, slots=True)
class Scheme:
    """All that band keys depend on beside the text."""

    algorithm: str
    algorithm_version: int
    hashing_version: int
    shingle_words: int
    bands: int
    rows: int
    seed: int

    @staticmethod
    def of(config: DuplicatesConfig) -> Scheme:
        """The scheme of these settings with the library that is installed."""
        bands, rows = config.shape
        version = int(RMinHash.ALGORITHM_VERSION)
        return Scheme("rensa R-MinHash", version, HASHING_VERSION, config.shingle_words, bands, rows, SEED)

    def record(self) -> dict[str, str | int]:
        """The scheme as plain JSON values, for manifests."""
        return asdict(self)


class Sketches(NamedTuple):
    """What is kept of documents to compare them: a place in the order, 128 bits of the text, the keys."""

    order_D: Hashes
    digest_D2: Hashes
    keys_DB: Hashes


def order_key(document_id: str, digest: bytes) -> int:
    """Where a document stands in its source: a hash of its id and digest."""
    return int(xxhash.xxh3_64_intdigest(b"%s\0%s" % (document_id.encode(), digest)))


def text_digest(text: str) -> bytes:
    """128 bits of the text in NFC and lower case, white space made equal."""
    return xxhash.xxh3_128_digest(" ".join(normal_form(text).split()).encode())


def signatures(shingles_S: Hashes, borders_D1: NDArray[np.int64], num_values: int) -> NDArray[np.uint32]:
    """MinHash signatures (D, num_values) of sets of hashes; set d is shingles_S[borders[d]:borders[d + 1]].

    Repeated hashes change nothing. Half of the time goes into rensa's lists of Python numbers, which is the only
    form in which it gives the values away.
    """
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.ascontiguousarray(shingles_S), borders_D1.astype(np.uint64), num_values, SEED
    )
    content = b"".join(array("I", row) for row in matrix.to_rows())  # three times as fast as through np.array
    return np.frombuffer(content, np.uint32).reshape(len(borders_D1) - 1, num_values)


def band_keys(signatures_DV: NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    """One key per document and band (D, B): a hash of the band's values and number."""
    values_DBR = signatures_DV.reshape(len(signatures_DV), bands, rows).astype(np.uint64)
    sums_DB = (mix(values_DBR + np.uint64(1)) * _row_factors[:rows]).sum(axis=2, dtype=np.uint64)
    return mix(sums_DB + mix(np.arange(1, bands + 1, dtype=np.uint64)))


class Sketcher:
    """Makes sketches; one of these a process, since it remembers words."""

    def __init__(self, scheme: Scheme) -> None:
        self.scheme, self._words = scheme, WordHasher(plain_words)

    def keys(self, texts: Sequence[str]) -> Hashes:
        """Band keys (D, B) of `texts`."""
        bands, rows = self.scheme.bands, self.scheme.rows
        if not bands:
            return np.empty((len(texts), 0), np.uint64)
        shingles_S, borders_D1 = self.shingles(texts)
        return band_keys(signatures(shingles_S, borders_D1, bands * rows), bands, rows)

    def sketch(self, ids: Sequence[str], texts: Sequence[str], alone: Sequence[bool] = ()) -> Sketches:
        """The sketches of documents; one that is to be left `alone` shares keys with its copies only."""
        digests = [text_digest(text) for text in texts]
        order = [order_key(*pair) for pair in zip(ids, digests, strict=True)]
        digest_D2 = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
        keys_DB = self.keys(texts)
        if alone:
            numbers_B = mix(np.arange(1, self.scheme.bands + 1, dtype=np.uint64))
            keys_DB = np.where(np.array(alone)[:, None], mix(digest_D2[:, :1] + numbers_B), keys_DB)
        return Sketches(np.array(order, np.uint64), digest_D2, keys_DB)

    def shingles(self, texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
        """Hashes of the runs of words of each text, repeats included, and their D + 1 borders; none is empty.

        A text of fewer words is one run; one without words (punctuation, emoji) is the hash of its characters.
        """
        n = self.scheme.shingle_words
        words_W, borders_D1 = self._words.all_hashes(texts)
        counts_D = np.diff(borders_D1)
        runs_D = np.maximum(counts_D - n + 1, 1)
        runs_D1 = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(runs_D, out=runs_D1[1:])
        windows = window_hashes(words_W, n)
        within = np.ones(len(windows), np.bool_)
        crossing = (borders_D1[1:, None] - np.arange(1, n)).ravel()
        within[crossing[(crossing >= 0) & (crossing < len(windows))]] = False
        shingles_S = np.empty(runs_D1[-1], np.uint64)
        short_D = np.flatnonzero(counts_D < n)
        whole_S = np.ones(len(shingles_S), np.bool_)
        whole_S[runs_D1[short_D]] = False
        shingles_S[whole_S] = windows[within]
        for number in short_D.tolist():
            words = words_W[borders_D1[number] : borders_D1[number + 1]]
            content = texts[number].strip().encode()
            shingles_S[runs_D1[number]] = run_hash(words) if len(words) else xxhash.xxh64_intdigest(content)
        return shingles_S, runs_D1

    def shingle_set(self, text: str) -> Hashes:
        """The sorted set of a text's runs of words."""
        return np.unique(self.shingles([text])[0])


def write_sketches(path: Path, scheme: Scheme, batches: Iterable[Sketches]) -> None:
    """A file of sketches, in document order; whole only once this returns."""
    import pyarrow as pa

    keys = pa.list_(pa.uint64(), scheme.bands)
    fields = [pa.field("order", pa.uint64()), pa.field("digest", pa.list_(pa.uint64(), 2)), pa.field("keys", keys)]
    schema = pa.schema(fields, metadata={"scheme": json.dumps(scheme.record())})
    with pa.ipc.new_file(str(path), schema) as writer:
        for batch in batches:
            digests = pa.FixedSizeListArray.from_arrays(pa.array(batch.digest_D2.ravel()), 2)
            columns = [pa.array(batch.order_D), digests, _lists(batch.keys_DB)]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def read_sketches(path: Path, scheme: Scheme, documents: int) -> Iterator[Sketches]:
    """The first so many sketches of a file, a batch at a time; `UserError` if the file is of another scheme."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as stream, pa.ipc.open_file(stream) as file:
            found = json.loads((file.schema.metadata or {}).get(b"scheme", b"{}"))
            if found != scheme.record():
                raise UserError(
                    f"{path} holds sketches of another scheme ({_differences(found, scheme.record())}), which "
                    "cannot be compared with those made here; delete the file and run the same command again"
                )
            left = documents
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)[:left]
                left -= len(batch)
                digest, keys = (batch.column(name).flatten().to_numpy() for name in ("digest", "keys"))
                order = batch.column("order").to_numpy()
                yield Sketches(order, digest.reshape(-1, 2), keys.reshape(len(batch), scheme.bands))
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedError(
            f"{path} is not a whole file of sketches ({error}); delete it and run the same command again"
        ) from error
    if left:
        raise DamagedError(
            f"{path} holds {documents - left:,} sketches, {documents:,} are needed; delete it and run the same command "
            "again"
        )


def _lists(keys_DB: Hashes) -> pa.Array:
    import pyarrow as pa

    documents, bands = keys_DB.shape
    kind = pa.list_(pa.uint64(), bands)
    return pa.Array.from_buffers(kind, documents, [None], children=[pa.array(keys_DB.ravel(), pa.uint64())])


def _differences(found: dict[str, str | int], expected: dict[str, str | int]) -> str:
    changed = [name for name in expected if found.get(name) != expected[name]]
    return ", ".join(f"{name} {found.get(name, 'missing')}, here {expected[name]}" for name in changed)
