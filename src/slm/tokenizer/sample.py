"""Training text as the SentencePiece trainer must see it: short chunks that hide nothing from it.

In: documents. Out: chunks of at most `CHUNK_CHARACTERS`, in order, chosen so that they are spread over
the whole corpus and come to at most the bytes asked for. Four things are done on the way:

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
from collections.abc import Iterable, Iterator

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


def training_chunks(texts: Iterable[str], total_bytes: int, sample_bytes: int, *, marks: bool) -> Iterator[str]:
    """Chunks of `texts`, at most `sample_bytes` of the `total_bytes` that they hold in all.

    A chunk is taken by a hash of its content and its number, so the choice is the same each time and
    favours neither the heads of documents nor short ones.
    """
    taken, number, threshold = 0, 0, min(1.0, sample_bytes / max(total_bytes, 1)) * (1 << 32)
    for text in texts:
        for chunk in cut(text):
            content, number = chunk.encode(), number + 1
            if zlib.crc32(content, number) < threshold and taken + len(content) <= sample_bytes:
                taken += len(content)
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
