"""A text as the steps look at it: its words and their runs, worked out once and only if a step asks.

Steps are functions of these views and of the notes that a document's metadata and the counts grow from. A step that
changes the text returns another text, and the steps after it get views of that.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slm.corpus.cleaning.words import split_words


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

    def __init__(self, text: str) -> None:
        self.text = text
        self.seconds = 0.0

    @cached_property
    def words(self) -> list[str]:
        """Words and punctuation marks, in order."""
        began = time.perf_counter()
        words = split_words(self.text)
        self.seconds += time.perf_counter() - began
        return words

    @cached_property
    def word_counts(self) -> dict[str, int]:
        """How often each different word occurs, in order of first occurrence."""
        return Counter(self.words)

    @cached_property
    def runs(self) -> WordRuns:
        """The words as numbers, for comparing runs of them."""
        return WordRuns(self.words, self.word_counts)


PRIMES = (4_294_967_291, 4_294_967_279)
"""The two largest below 2^32, so that a product of two remainders fits into 64 bits."""


class WordRuns:
    """Runs of n neighbouring words: which of them say the same.

    Memory is a few numbers of 8 bytes for each word. Legend: W words, U different words.
    """

    def __init__(self, words: list[str], different: dict[str, int]) -> None:
        index = {word: number for number, word in enumerate(different)}
        self.id_W: NDArray[np.int64] = np.fromiter(map(index.__getitem__, words), np.int64, len(words))
        self.length_W = np.fromiter(map(len, index), np.int64, len(index))[self.id_W]
        self.different = len(index)
        self._spelt = list(index)
        self._rests: list[NDArray[np.uint64]] = []
        self._rest_words = 0

    def top_characters(self, length: int) -> int:
        """Characters in all occurrences of the most frequent run of `length` words, spaces between them included.

        Of several as frequent, the one that occurs first counts.
        """
        code_W = self.id_W
        for step in range(1, length):
            if len(code_W) < 2:
                return 0
            _, rank_W = np.unique(code_W[:-1] * self.different + self.id_W[step:], return_inverse=True)
            code_W = rank_W.astype(np.int64)
        if not len(code_W):
            return 0
        _, first_U, count_U = np.unique(code_W, return_index=True, return_counts=True)
        count = int(count_U.max())
        first = int(first_U[count_U == count].min())
        return (int(self.length_W[first : first + length].sum()) + length - 1) * count

    def repeated_characters(self, length: int) -> int:
        """Characters in runs of `length` words that were met before, walking on behind each of these.

        Two runs are the same if their letters are, wherever the words part.
        """
        key_W = self._keys(length)
        if len(set(key_W.tolist())) == len(key_W):  # most texts repeat no run, and sorting takes longer
            return 0
        _, inverse_W, count_U = np.unique(key_W, return_inverse=True, return_counts=True)
        ends = np.concatenate(([0], np.cumsum(self.length_W)))
        seen: set[int] = set()
        characters = behind = 0
        for place in np.flatnonzero(count_U[inverse_W] > 1).tolist():
            if place < behind:
                continue
            key = int(inverse_W[place])
            if key in seen:
                characters += int(ends[place + length] - ends[place])
                behind = place + length
            else:
                seen.add(key)
        return characters

    def _keys(self, length: int) -> NDArray[np.uint64]:
        """A hash of 64 bits of the letters of each run: two remainders of the bytes as one large number."""
        if len(self.id_W) < length:
            return np.zeros(0, np.uint64)
        if not self._rests or self._rest_words > length:
            self._rests, self._rest_words = [value_W for value_W, _ in self._remainders], 1
        for word in range(self._rest_words, length):  # runs of one word more than those at hand
            self._rests = [
                (rest_W[: len(value_W) - word] * shift_W[word:] % prime + value_W[word:]) % prime
                for prime, rest_W, (value_W, shift_W) in zip(PRIMES, self._rests, self._remainders, strict=True)
            ]
        self._rest_words = length
        high_W, low_W = self._rests
        return (high_W << np.uint64(32)) | low_W

    @cached_property
    def _remainders(self) -> list[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
        """For each prime and word: its bytes as a number, and what a number before it is multiplied by."""
        numbers = [word.encode() for word in self._spelt]
        pairs = []
        for prime in PRIMES:
            value_U = np.array([int.from_bytes(number, "big") % prime for number in numbers], np.uint64)
            shift_U = np.array([pow(256, len(number), prime) for number in numbers], np.uint64)
            pairs.append((value_U[self.id_W], shift_U[self.id_W]))
        return pairs
