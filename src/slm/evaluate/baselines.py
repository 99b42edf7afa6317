"""What the model must beat, on the same held-out documents in the same unit: bits per UTF-8 byte.

- unigram: token frequencies of the train shards, one added to each of the vocabulary; what the tokenizer
  and word counts alone are worth. The end of text counts, as it does for the model.
- gzip: `gzip -9` of each document alone, header included: what a compressor learns from one document.
- xz: `xz -9` of all documents in one stream, in file order: a compressor that may look back over all of
  them, which no model here may. Memory up to 700 MB, about 3 MB/s.
"""

from __future__ import annotations

import gzip
import lzma
import math

import numpy as np
from numpy.typing import NDArray

from slm.shards.reader import ShardReader

ROWS_AT_ONCE = 4_096


def count_targets(reader: ShardReader) -> NDArray[np.int64]:
    """How often each token is a target in the shards: all tokens but the first of each piece."""
    counts_V = np.zeros(reader.vocab_size, dtype=np.int64)
    for first in range(0, reader.num_rows, ROWS_AT_ONCE):
        rows = range(first, min(first + ROWS_AT_ONCE, reader.num_rows))
        tokens_NT, lengths = reader.rows(rows)
        learned_NT = reader.learned(rows)
        if learned_NT is not None:
            counts_V += np.bincount(tokens_NT[learned_NT], minlength=reader.vocab_size)
            continue
        used_N = np.array([pieces.sum() for pieces in lengths])
        counts_V += np.bincount(tokens_NT[np.arange(tokens_NT.shape[1]) < used_N[:, None]], minlength=reader.vocab_size)
        rows_P = np.repeat(np.arange(len(lengths)), [len(pieces) for pieces in lengths])
        firsts_P = np.concatenate([np.cumsum(pieces) - pieces for pieces in lengths])
        counts_V -= np.bincount(tokens_NT[rows_P, firsts_P], minlength=reader.vocab_size)
    return counts_V


def unigram_nats(train_V: NDArray[np.int64], held_out_V: NDArray[np.int64]) -> float:
    """Nats of held-out token counts under train frequencies with add-one smoothing."""
    total = int(train_V.sum()) + len(train_V)
    return float((held_out_V * (math.log(total) - np.log(train_V + 1.0))).sum())


def gzip_bytes(text: bytes) -> int:
    """Size of `gzip -9` of one document; the time in its header is zero."""
    return len(gzip.compress(text, compresslevel=9, mtime=0))


class XzMeter:
    """Size of `xz -9` over everything fed to it."""

    def __init__(self) -> None:
        self._compressor = lzma.LZMACompressor(preset=9)
        self._bytes = 0

    def feed(self, text: bytes) -> None:
        self._bytes += len(self._compressor.compress(text))

    def finish(self) -> int:
        """The size of the whole stream; nothing may be fed after it."""
        self._bytes += len(self._compressor.flush())
        return self._bytes
