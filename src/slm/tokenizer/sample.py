"""Training text as the SentencePiece trainer must see it: short chunks that hide nothing from it.

In: documents. Out: chunks of at most `CHUNK_CHARACTERS`, in order, chosen so that they are spread over
the whole corpus, each source giving its share, and come to at most the bytes asked for. Four things are
done on the way:

- Lines stay together. Fed line by line, the trainer never sees a line end and each costs a byte token;
  fed chunks of many lines it learns `):\\n` and `\\n\\n`: 2.98 instead of 2.82 bytes per token on the
  standard library at vocabulary 2,048.
- SentencePiece allows spaces only at the front of a piece and never a tab. The indentation after a line
  end and every tab therefore travel as two private characters that `training.py` turns back, so that
  a line end with its indentation is one piece: 3.12 bytes per token.
- Literals such as `<|bos|>` and `<0x0A>` are cut apart, so that no piece holds `<|`, `|>` or `<0x`.
  llama.cpp looks every merged text up among all tokens, control tokens included; if no piece can hold
  either end of their names, no text can ever merge into one, in any engine.
- Characters that the trainer reserves (U+2581, U+2585, NUL, our two) are cut out, because it drops the
  whole chunk that holds one. They are encoded as bytes.

A chunk ends before a line end where it can, because the trainer strips line ends from a chunk's tail.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from slm.core.errors import UserError

CHUNK_CHARACTERS = 4096
"""Far below the trainer's own limits (max_sentence_length bytes, 65,535 symbols), and evenly sampled."""
SPACE_MARK = "\U0010fffd"
"""Stands for a space of indentation while the vocabulary is learned."""
TAB_MARK = "\U0010fffc"
"""Stands for a tab while the vocabulary is learned."""
META_SPACE = "\u2581"
"""SentencePiece's own sign for a space."""

_CUT = "\0"
_RESERVED = dict.fromkeys(map(ord, (META_SPACE, "\u2585", SPACE_MARK, TAB_MARK)), _CUT)
_RESERVED_PATTERN = re.compile("[" + "".join(map(chr, _RESERVED)) + "]")
_BYTE_NAME = re.compile(r"<(0x[0-9A-Fa-f]{2})>")
_INDENTATION = re.compile(r"(?<=\n)[ \t]+")


@dataclass(frozen=True, slots=True)
class Quota:
    """How much of a source is taken, and how much it holds, in bytes of UTF-8."""

    take_bytes: int
    total_bytes: int


def quotas(total_bytes: Mapping[str, int], weights: Mapping[str, float], sample_bytes: int) -> dict[str, Quota]:
    """What to take of each source so that the sample has the shares of `weights`, as far as the text goes.

    A source that holds less than its share is taken whole, and the others fill the rest by their weights; nothing is
    taken of one whose weight is 0.
    """
    taken = dict.fromkeys(weights, 0)
    open_names, left = {name: weight for name, weight in weights.items() if weight}, sample_bytes
    while open_names:
        whole = sum(open_names.values())
        small = [name for name, weight in open_names.items() if total_bytes[name] <= left * weight / whole]
        if not small:
            taken |= {name: int(left * weight / whole) for name, weight in open_names.items()}
            break
        for name in small:
            taken[name] = total_bytes[name]
            left -= total_bytes[name]
            del open_names[name]
    return {name: Quota(taken[name], total_bytes[name]) for name in weights}


def training_chunks(texts: Iterable[tuple[str, str]], wanted: Mapping[str, Quota], *, marks: bool) -> Iterator[str]:
    """Chunks of `texts`, which come as (source, text), of each source as many bytes as its quota says at most.

    A chunk is taken by a hash of its content and its number, so the choice is the same each time and
    favours neither the heads of documents nor short ones.
    """
    number, taken = 0, dict.fromkeys(wanted, 0)
    for source, text in texts:
        quota = wanted[source]
        threshold = min(1.0, quota.take_bytes / max(quota.total_bytes, 1)) * (1 << 32)
        for chunk in cut(text):
            content, number = chunk.encode(), number + 1
            if zlib.crc32(content, number) < threshold and taken[source] + len(content) <= quota.take_bytes:
                taken[source] += len(content)
                yield marked(chunk) if marks else chunk


def cut(text: str) -> Iterator[str]:
    """`text` as chunks; joined, they are the text without its reserved characters."""
    for segment in _guarded(text).split(_CUT):
        start = 0
        while len(segment) - start > CHUNK_CHARACTERS:
            end = _boundary(segment, start)
            yield segment[start:end]
            start = end
        if start < len(segment):
            yield segment[start:]


def marked(chunk: str) -> str:
    """`chunk` with indentation and tabs as marks, each a single character."""
    chunk = _INDENTATION.sub(lambda run: run.group().replace(" ", SPACE_MARK), chunk)
    return chunk.replace("\t", TAB_MARK)


def unmarked(piece: str) -> str:
    """The piece that a learned one stands for."""
    return piece.replace(SPACE_MARK, META_SPACE).replace(TAB_MARK, "\t")


def not_empty(chunks: Iterable[str], place: str) -> Iterator[str]:
    """`chunks`, or a refusal if there are none: the trainer's own message names no cause."""
    iterator = iter(chunks)
    first = next(iterator, None)
    if first is None:
        raise UserError(
            f"{place} holds no text to learn a vocabulary from (its train split is empty); "
            "add documents to corpus.sources and make the corpus again"
        )
    yield first
    yield from iterator


def _guarded(text: str) -> str:
    """`text` with a cut at every place that no piece may span."""
    if not text.isascii() and _RESERVED_PATTERN.search(text):
        text = text.translate(_RESERVED)
    if "<|" in text or "|>" in text:
        text = text.replace("<|", f"<{_CUT}|").replace("|>", f"|{_CUT}>")
    if "<0x" in text:
        text = _BYTE_NAME.sub(rf"<{_CUT}\1{_CUT}>", text)
    return text


def _boundary(text: str, start: int) -> int:
    """Where the chunk that begins at `start` ends: before a line end, else before a space, else at its limit."""
    limit = start + CHUNK_CHARACTERS
    for separator in ("\n", " "):
        end = text.rfind(separator, start + 1, limit)
        if end > start:
            return end
    return limit
