"""A text as the steps look at it: its words and their runs, worked out once and only if a step asks.

Steps are functions of these views and of the notes that a document's metadata and the counts grow from. A step that
changes the text returns another text, and the steps after it get views of that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from slm.corpus.cleaning.words import split_words

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment, of the wall or of the processor."""


@dataclass(slots=True)
class Notes:
    """What steps write down: for the document's metadata, and to be counted over all documents that are kept."""

    metadata: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


def exceeds(value: float, most: float) -> bool:
    """Whether a value is above its limit; a limit of 0 is none."""
    return bool(most) and value > most


class TextViews:
    """A text and what is worked out from it; `seconds` is what splitting it took."""

    def __init__(self, text: str, clock: Clock = time.perf_counter) -> None:
        self.text, self._clock = text, clock
        self.seconds = 0.0

    @cached_property
    def words(self) -> list[str]:
        """Words and punctuation marks, in order."""
        began = self._clock()
        words = split_words(self.text)
        self.seconds += self._clock() - began
        return words

    @cached_property
    def word_counts(self) -> dict[str, int]:
        """How often each different word occurs, in order of first occurrence."""
        return Counter(self.words)

    @cached_property
    def runs(self) -> WordRuns:
        """The words as numbers, for comparing runs of them."""
        return WordRuns(self.words, self.word_counts)


BASE = 0x9E3779B97F4A7C13
"""Odd and 3 modulo 8, so that its powers modulo 2^64 repeat only after 2^62."""
POWERS = 1 << 16


class WordRuns:
    """Runs of n neighbouring words: which of them say the same.

    Most texts repeat little, and that is told from how often anything repeats: methods are given what they have to be
    above to matter, and answer 0 where it is sure that they are not, which takes a tenth of the time. Memory is a few
    numbers of 8 bytes for each word. Legend: W words, U different words, R runs.
    """

    def __init__(self, words: list[str], different: dict[str, int]) -> None:
        index = dict(zip(different, range(len(different)), strict=True))
        self.id_W: NDArray[np.int64] = np.fromiter(map(index.__getitem__, words), np.int64, len(words))
        self.different = len(index)
        self._spelt = list(index)
        self._length_U: NDArray[np.int64] = np.fromiter(map(len, index), np.int64, len(index))
        self._ends: NDArray[np.int64] = np.zeros(len(words) + 1, np.int64)
        np.cumsum(self._length_U[self.id_W], out=self._ends[1:])
        self._frequent = (0, len(words))  # no run of more words than the first occurs more often than the second
        self._keys_R: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._key_words = 0

    def top_characters(self, length: int, above: float = 0) -> int:
        """Characters in all occurrences of the most frequent run of `length` words, spaces between them included.

        Of several as frequent, the one that occurs first counts. 0 if it is surely no more than `above`.
        """
        if len(self.id_W) < length:
            return 0
        longest = int(self._characters(length).max()) + length - 1
        if self._frequent[0] < length and self._frequent[1] * longest <= above:
            return 0
        code_R = self._codes(length)
        sorted_R = np.sort(code_R)
        edges = np.flatnonzero(np.concatenate(([True], sorted_R[1:] != sorted_R[:-1], [True])))
        counts = np.diff(edges)
        count = int(counts.max())
        self._frequent = (length, count)
        if count * longest <= above:
            return 0
        first = int(np.isin(code_R, sorted_R[edges[:-1][counts == count]]).argmax())
        return (int(self._characters(length)[first]) + length - 1) * count

    def repeated_characters(self, length: int, above: float = 0) -> int:
        """Characters in runs of `length` words that were met before, walking on behind each of these.

        Two runs are the same if their letters are, wherever the words part. 0 if it is surely no more than `above`.
        """
        if len(self.id_W) < length:
            return 0
        key_R = self._keys(length)
        sorted_R = np.sort(key_R)
        repeats = int(np.count_nonzero(sorted_R[1:] == sorted_R[:-1]))
        if not repeats or repeats * int(self._characters(length).max()) <= above:
            return 0
        _, inverse_R, count_U = np.unique(key_R, return_inverse=True, return_counts=True)
        characters_R = self._characters(length)
        seen: set[int] = set()
        characters = behind = 0
        for place in np.flatnonzero(count_U[inverse_R] > 1).tolist():
            if place < behind:
                continue
            key = int(inverse_R[place])
            if key in seen:
                characters += int(characters_R[place])
                behind = place + length
            else:
                seen.add(key)
        return characters

    def _characters(self, length: int) -> NDArray[np.int64]:
        """Of each run, without spaces."""
        return self._ends[length:] - self._ends[:-length]

    def _codes(self, length: int) -> NDArray[np.int64]:
        """A number for each run, the same for the same words and for no others."""
        code_R, span = self.id_W, self.different
        for step in range(1, length):
            if span * self.different >= 1 << 63:
                code_R, span = np.unique(code_R, return_inverse=True)[1].astype(np.int64), len(code_R)
            code_R = code_R[:-1] * self.different + self.id_W[step:]
            span *= self.different
        return code_R

    def _keys(self, length: int) -> NDArray[np.uint64]:
        """A hash of the letters of each run: their bytes as digits of a number to `BASE`, modulo 2^64."""
        value_W, shift_W = self._values
        if not self._key_words or self._key_words > length:
            self._keys_R, self._key_words = value_W, 1
        for word in range(self._key_words, length):  # runs of one word more than those at hand
            self._keys_R = self._keys_R[:-1] * shift_W[word:] + value_W[word:]
        self._key_words = length
        return self._keys_R

    @cached_property
    def _values(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """For each word its letters as a number, and what the number of letters before it is multiplied by."""
        letters, length_U = "".join(self._spelt).encode(), self._length_U
        if len(letters) != length_U.sum():
            length_U = np.array([len(word.encode()) for word in self._spelt], np.int64)
        if length_U.max() >= POWERS:
            pairs = np.array([_value(word.encode()) for word in self._spelt], np.uint64)
            return pairs[self.id_W, 0], pairs[self.id_W, 1]
        ends_U = np.cumsum(length_U)
        power_L = _powers()[np.repeat(ends_U - 1, length_U) - np.arange(len(letters))]
        digit_L = np.frombuffer(letters, np.uint8)
        value_U = np.add.reduceat(digit_L * power_L, ends_U - length_U)
        return value_U[self.id_W], _powers()[length_U][self.id_W]


def _value(word: bytes) -> tuple[int, int]:
    """A word of any length as a number to `BASE`, and the power that stands before it."""
    value = 0
    for start in range(0, len(word), POWERS):
        part = np.frombuffer(word[start : start + POWERS], np.uint8)
        digits = int((part * _powers()[: len(part)][::-1]).sum(dtype=np.uint64))
        value = value * pow(BASE, len(part), 1 << 64) + digits
    return value % (1 << 64), pow(BASE, len(word), 1 << 64)


@cache
def _powers() -> NDArray[np.uint64]:
    factors = np.full(POWERS, BASE, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
