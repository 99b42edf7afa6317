"""The runs of words of all evaluation items as sorted arrays, and which of them a document holds.

In: items. Out: an `Index`. Every run of `ngram_words` words of a text is an entry; a text of fewer words, down to
`min_words`, is one entry as a whole, found by its first `min_words` words and then compared in full.

Memory: 12 bytes an entry (a sorted uint64 and the item's number) and 1 to 2 bytes of a bit table in front, which
spares nine searches of ten; 50,000 items of 100 words take 60 MB. A document costs 9 bytes a word.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slm.corpus.decontamination.benchmarks import Item
from slm.corpus.words import Hashes, WordHasher, joined_words, run_hash, window_hashes

VERSION = 1
"""To be raised when the same items would give other entries."""


class Hit(NamedTuple):
    """An item's text in a document: words `first` to `first + words` of document `document` of those asked about."""

    document: int
    item: int
    first: int
    words: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """An evaluation in the index: its items are numbers `first` to `first + len(ids)`."""

    name: str
    first: int
    ids: tuple[str, ...]
    unchecked: frozenset[int]
    """Items, counted from 0, none of whose texts is long enough to look for."""


class Index:
    """What must not be in the corpus. Immutable once made; safe to share between threads but for `hits`."""

    def __init__(self, benchmarks: Iterable[tuple[str, Iterable[Item]]], ngram_words: int, min_words: int) -> None:
        self.ngram_words, self.min_words = ngram_words, min_words
        self._words = WordHasher(joined_words)
        self.benchmarks: list[Benchmark] = []
        runs: list[tuple[Hashes, int]] = []
        short: list[tuple[int, int, int, int]] = []
        number = 0
        for name, items in benchmarks:
            first, ids, unchecked = number, [], set()
            for item in items:
                ids.append(item.id)
                hashes = [self._words.hashes(text) for text in item.texts]
                runs += [(window_hashes(words, ngram_words), number) for words in hashes if len(words) >= ngram_words]
                whole = [words for words in hashes if min_words <= len(words) < ngram_words]
                short += [(run_hash(w[:min_words]), run_hash(w), len(w), number) for w in whole]
                if not whole and all(len(words) < min_words for words in hashes):
                    unchecked.add(number - first)
                number += 1
            self.benchmarks.append(Benchmark(name, first, tuple(ids), frozenset(unchecked)))
        lengths = np.array([len(windows) for windows, _ in runs], np.int64)
        items_E = np.repeat(np.array([item for _, item in runs], np.int32), lengths)
        self._runs = _Table(np.concatenate([windows for windows, _ in runs] or [np.empty(0, np.uint64)]), items_E)
        self._starts = _Table(
            np.array([start for start, *_ in short], np.uint64), np.arange(len(short), dtype=np.int32)
        )
        self._short = short

    def __len__(self) -> int:
        """The number of entries."""
        return len(self._runs.keys) + len(self._short)

    @property
    def memory_bytes(self) -> int:
        """Memory that the entries take."""
        return self._runs.memory_bytes + self._starts.memory_bytes

    def digest(self) -> str:
        """An identity of everything that would be found: equal indexes decontaminate alike."""
        state = hashlib.sha256(repr((VERSION, self.ngram_words, self.min_words, sorted(self._short))).encode())
        for benchmark in self.benchmarks:
            state.update(repr((benchmark.name, benchmark.ids)).encode())
        state.update(self._runs.keys.tobytes())
        state.update(self._runs.items.tobytes())
        return state.hexdigest()

    def hits(self, texts: Sequence[str]) -> list[Hit]:
        """Every entry in every text, in order of document and place; overlapping runs of one item are one hit."""
        if not len(self):
            return []
        words_W, borders_D1 = self._words.all_hashes(texts)
        found = [
            (int(place), self.ngram_words, int(item))
            for place, item in self._runs.find(window_hashes(words_W, self.ngram_words))
        ]
        if self._short:
            for place, entry in self._starts.find(window_hashes(words_W, self.min_words)):
                _, whole, length, item = self._short[entry]
                run = words_W[place : place + length]
                if len(run) == length and run_hash(run) == whole:
                    found.append((int(place), length, item))
        hits: list[Hit] = []
        latest: dict[tuple[int, int], int] = {}
        for place, length, item in sorted(found):
            document = int(np.searchsorted(borders_D1, place, side="right")) - 1
            if place + length > borders_D1[document + 1]:
                continue  # a run across the border of two documents
            hit = Hit(document, item, place - int(borders_D1[document]), length)
            before = latest.get((document, item))
            if before is not None and hit.first <= hits[before].first + hits[before].words:
                begin = hits[before].first
                end = max(begin + hits[before].words, hit.first + length)
                hits[before] = Hit(document, item, begin, end - begin)
            else:
                latest[document, item] = len(hits)
                hits.append(hit)
        return sorted(hits, key=lambda hit: (hit.document, hit.first, hit.item))

    def name_of(self, item: int) -> tuple[str, str]:
        """The evaluation and the id of an item by its number."""
        benchmark = next(one for one in reversed(self.benchmarks) if one.first <= item)
        return benchmark.name, benchmark.ids[item - benchmark.first]


class _Table:
    """Keys that may repeat, each with an item, and a table of bits that says of most keys that they are not here."""

    def __init__(self, keys: Hashes, items: NDArray[np.int32]) -> None:
        order = np.lexsort((items, keys))
        keys, items = keys[order], items[order]
        new = np.ones(len(keys), np.bool_)
        new[1:] = (keys[1:] != keys[:-1]) | (items[1:] != items[:-1])
        self.keys, self.items = keys[new], items[new]
        bits = max(10, int(np.ceil(np.log2(8 * max(1, len(keys))))))
        self._shift = np.uint64(64 - bits)
        self._bits = np.zeros(1 << (bits - 3), np.uint8)
        slots = self.keys >> self._shift
        np.bitwise_or.at(self._bits, slots >> np.uint64(3), np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8))

    @property
    def memory_bytes(self) -> int:
        return self.keys.nbytes + self.items.nbytes + self._bits.nbytes

    def find(self, windows_N: Hashes) -> list[tuple[int, int]]:
        """(place in `windows_N`, item) of every window that is a key."""
        slots = windows_N >> self._shift
        maybe = np.flatnonzero(self._bits[slots >> np.uint64(3)] >> (slots & np.uint64(7)).astype(np.uint8) & 1)
        begin = np.searchsorted(self.keys, windows_N[maybe], side="left")
        end = np.searchsorted(self.keys, windows_N[maybe], side="right")
        here = np.flatnonzero(end > begin)
        triples = zip(maybe[here].tolist(), begin[here].tolist(), end[here].tolist(), strict=True)
        return [(place, int(item)) for place, one, after in triples for item in self.items[one:after]]
