r"""Words of a text as 64-bit hashes, and hashes of their runs of n: what near duplicates and decontamination compare.

In: text. Out: one xxh64 per word, and one hash per window of n words, by a polynomial that costs four numpy
operations whatever n is. Equal words give equal hashes everywhere; different windows agree by chance once in
2**59 or rarer. Two ways to find words:

- `plain_words`: NFC, lower case, `\w+`. Punctuation separates (near duplicates).
- `joined_words`: NFC, lower case, punctuation and symbols deleted, split at white space, so that `don't` is `dont`
  (decontamination, as published: GPT-3, arXiv 2005.14165 appendix C; lm-eval's Janitor).

Scripts written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give one word per character in
both: their windows are character n-grams. `\w+` alone would make one word of each clause, and a changed
character would hide the clause. Hindi and other scripts with combining vowels fall into pieces at these, which
shortens windows but loses nothing.

Memory: about 9 bytes per word of the longest document, a segment of a million characters split into words, and
up to 25 MB of remembered words.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Split = Callable[[str], list[str]]

BORDERLESS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai and Lao, Burmese, Khmer, kana, Han: characters that are words of their own."""
SEGMENT_CHARACTERS = 1 << 20
REMEMBERED_WORDS = 1 << 17
BLOCK_WORDS = 1 << 16
MOST_WORDS = 1 << 10
MULTIPLIER = 0xD6E8FEB86659FD93
"""Odd, so that it has an inverse modulo 2**64, and 3 modulo 8, so that exchanged words still differ in 59 bits."""

_borderless = re.compile(f"[{BORDERLESS}]")
_plain = re.compile(r"\w+")
_plain_or_borderless = re.compile(rf"[{BORDERLESS}]|[^\W{BORDERLESS}]+")
_deleted = re.compile(r"[^\w\s]+|_+")
_seam = re.compile(rf"\s|[{BORDERLESS}]")
_ascii = {
    code: chr(code).lower() if chr(code).isalnum() or chr(code).isspace() else None for code in range(128)
}  # fmt: skip


def normal_form(text: str) -> str:
    """NFC and lower case."""
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).lower()


def plain_words(text: str) -> list[str]:
    r"""Lower-case `\w+` of the NFC form; each character of a borderless script alone."""
    text = normal_form(text)
    mixed = not text.isascii() and _borderless.search(text)
    return (_plain_or_borderless if mixed else _plain).findall(text)


def joined_words(text: str) -> list[str]:
    """Lower-case words of the NFC form between white space, without punctuation; borderless characters alone."""
    if text.isascii():
        return text.translate(_ascii).split()
    text = _deleted.sub("", normal_form(text))
    return _borderless.sub(r" \g<0> ", text).split()


class WordHasher:
    """Hashes the words that `split` finds; remembers the first `REMEMBERED_WORDS` of them."""

    def __init__(self, split: Split) -> None:
        self._split, self._known = split, _Known()

    def hashes(self, text: str) -> Hashes:
        """One hash per word of `text`, in order."""
        parts = [self._of(self._split(segment)) for segment in _segments(text)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def all_hashes(self, texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
        """The hashes of many texts in one array, and where each text begins in it (D + 1 borders)."""
        parts = [self.hashes(text) for text in texts]
        borders_D1 = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=borders_D1[1:])
        return (np.concatenate(parts) if parts else np.empty(0, np.uint64)), borders_D1

    def _of(self, words: list[str]) -> Hashes:
        return np.fromiter(map(self._known.__getitem__, words), np.uint64, len(words))


class _Known(dict[str, int]):
    def __missing__(self, word: str) -> int:
        value: int = xxhash.xxh64_intdigest(word.encode())
        if len(self) < REMEMBERED_WORDS:
            self[word] = value
        return value


def _segments(text: str) -> Iterator[str]:
    """`text` cut after white space or a borderless character, so that no word is cut and memory stays small."""
    begin = 0
    while len(text) - begin > SEGMENT_CHARACTERS:
        seam = _seam.search(text, begin + SEGMENT_CHARACTERS)
        if seam is None:
            break
        yield text[begin : seam.end()]
        begin = seam.end()
    yield text[begin:] if begin else text


def window_hashes(hashes_W: Hashes, n: int) -> Hashes:
    """The hash of every run of `n` words (1 to `MOST_WORDS`): W - n + 1 of them, none if there are fewer words."""
    count = max(0, len(hashes_W) - n + 1)
    windows = np.empty(count, np.uint64)
    for begin in range(0, count, BLOCK_WORDS):
        end = min(begin + BLOCK_WORDS, count)
        windows[begin:end] = _block(hashes_W[begin : end + n - 1], n)
    return windows


def run_hash(hashes_W: Hashes) -> int:
    """The hash of all these words as one run; the same that `window_hashes` gives for it."""
    return int(window_hashes(hashes_W, len(hashes_W))[0])


def _block(hashes_W: Hashes, n: int) -> Hashes:
    """sum(h[i + k] * M**k) for each i, from running sums of h[i] * M**i; then mixed, since low bits are weak."""
    powers, inverses = _powers()
    sums = np.zeros(len(hashes_W) + 1, np.uint64)
    np.cumsum(hashes_W * powers[: len(hashes_W)], out=sums[1:])
    mixed = (sums[n:] - sums[: len(sums) - n]) * inverses[: len(sums) - n]
    return mix(mixed + np.uint64(n))


def mix(values: Hashes) -> Hashes:
    """Every bit of the result depends on every bit given (the finaliser of MurmurHash3, which is one to one)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


@functools.cache
def _powers() -> tuple[Hashes, Hashes]:
    length = BLOCK_WORDS + MOST_WORDS
    return _accumulate(MULTIPLIER, length), _accumulate(pow(MULTIPLIER, -1, 1 << 64), length)


def _accumulate(factor: int, length: int) -> Hashes:
    """factor**0, factor**1, ... modulo 2**64."""
    factors = np.full(length, factor, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
