"""The frozen tokenizer: text or bytes to ids and back, without loss.

In: a `tokenizer.model` that `training.py` made. Any Unicode text and any bytes survive the round trip:
SentencePiece handles valid UTF-8, and what it cannot hold (invalid bytes, lone surrogates, and U+2581,
which it takes for a space) is spelt in byte tokens here. No text produces a control token.

Cost: SentencePiece's batch rate is 6 MB/s a core for documents of 10 kB but falls to 3 MB/s at 200 kB
and 1 MB/s at 4 MB, so long texts are cut at spaces where provably no piece could span the cut; the ids
are the same. The model never changes: `hash` is the sha256 of its bytes, and what is made with it
carries that hash.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import sentencepiece
from numpy.typing import NDArray

from slm.core.errors import DamagedError, UserError
from slm.tokenizer import chat, gguf
from slm.tokenizer.model_file import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, Piece
from slm.tokenizer.sample import META_SPACE
from slm.tokenizer.training import CONTROL_TOKENS, NUM_FIXED

MODEL_FILE = "tokenizer.model"
TEMPLATE_FILE = "chat_template.jinja"
FIRST_BYTE = len(CONTROL_TOKENS)
LONG_CHARACTERS = 8192
"""Longer texts are cut before encoding."""

_UNSPELLABLE = re.compile(f"[{META_SPACE}\udc80-\udcff]+")
"""U+2581 and, as `surrogateescape` shows them, bytes that are not UTF-8."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """A vocabulary and its encoder; immutable, shared freely between threads."""

    unk_id, bos_id, eos_id, pad_id = range(4)

    def __init__(self, model: bytes, chat_template: str = chat.TEMPLATE, place: str = MODEL_FILE) -> None:
        """`model` is the content of a `tokenizer.model`; `place` names it in errors."""
        self.model = model
        self.chat_template = chat_template
        self.hash = hashlib.sha256(model).hexdigest()
        self._processor = _processor(model, place)
        self.vocab_size: int = self._processor.vocab_size()
        self._pieces = [self._piece(index) for index in range(self.vocab_size)]
        _check_layout(self._pieces, place)
        self._bytes = [_piece_bytes(piece) for piece in self._pieces]
        before_space = {
            text[i - 1] for text, _, _ in self._pieces for i in range(1, len(text)) if text[i] == META_SPACE
        }
        followers = "".join(map(re.escape, sorted(before_space | {META_SPACE}))).replace(META_SPACE, " ")
        self._safe_space = re.compile(f"(?<![{followers}]) ")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """The tokenizer in `folder`; `UserError` where there is none, `DamagedError` where it does not read."""
        path = folder / MODEL_FILE
        if not path.is_file():
            raise UserError(f"there is no tokenizer in {folder} (no {MODEL_FILE}); make it first, or correct the path")
        template = folder / TEMPLATE_FILE
        text = template.read_text(encoding="utf-8") if template.is_file() else chat.TEMPLATE
        return cls(path.read_bytes(), text, str(path))

    def encode(self, text: str | bytes, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of one text, with the document's ends if asked for."""
        ids: list[int] = [self.bos_id] if bos else []
        for part in self._parts(text):
            ids += _byte_ids(part) if isinstance(part, bytes) else self._processor.encode(part)
        if eos:
            ids.append(self.eos_id)
        return ids

    def encode_documents(self, texts: Sequence[str | bytes], threads: int = 1) -> list[NDArray[numpy.int32]]:
        """Ids of many texts, each without its ends; the fast way, several times that of one text at a time."""
        parts = [list(self._parts(text)) for text in texts]
        plain = [part for document in parts for part in document if isinstance(part, str)]
        encoded = iter(self._processor.encode(plain, out_type="numpy", num_threads=threads) if plain else [])
        return [
            _joined([numpy.array(_byte_ids(part), numpy.int32) if isinstance(part, bytes) else next(encoded)
                     for part in document])
            for document in parts
        ]  # fmt: skip

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes that `ids` stand for; control tokens stand for none."""
        return b"".join([self.token_bytes(index) for index in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text that `ids` stand for; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self, index: int) -> bytes:
        """The bytes of one token; of a control token, none."""
        if index < 0:
            raise IndexError(f"token id {index} is negative")
        return self._bytes[index]

    def is_control(self, index: int) -> bool:
        """Whether a token belongs to the program and never to the text."""
        return self._pieces[index][2] in (CONTROL, UNKNOWN)

    def pieces(self) -> list[Piece]:
        """Every token as (piece, score, type); in pieces U+2581 stands for a space."""
        return list(self._pieces)

    def render_chat(self, messages: chat.Messages, add_generation_prompt: bool = True) -> list[int]:
        """Ids of a conversation; only the template writes markers, whatever the messages hold."""
        return chat.render_ids(
            self.chat_template, messages, CONTROL_TOKENS, self.encode, add_generation_prompt=add_generation_prompt
        )

    def encode_chat(self, messages: chat.Messages) -> tuple[NDArray[numpy.int32], NDArray[numpy.bool_]]:
        """Ids [T] of a whole conversation, as `render_chat` has them, and which the assistant has to say [T]."""
        ids, learned = chat.render_learned(self.chat_template, messages, CONTROL_TOKENS, self.encode, self.token_bytes)
        return numpy.array(ids, dtype=numpy.int32), numpy.array(learned, dtype=bool)

    def gguf_vocabulary(self) -> gguf.GgufVocabulary:
        """The vocabulary as GGUF stores it."""
        return gguf.vocabulary(self)

    def _parts(self, text: str | bytes) -> Iterator[str | bytes]:
        """`text` as runs for SentencePiece and, as bytes, runs that it cannot hold."""
        text = _decoded(text)
        if text.isascii() and len(text) <= LONG_CHARACTERS:
            yield text
            return
        position = 0
        for found in () if text.isascii() else _UNSPELLABLE.finditer(text):
            yield from self._cut(text[position : found.start()])
            yield found.group().encode("utf-8", "surrogateescape")
            position = found.end()
        yield from self._cut(text[position:])

    def _cut(self, text: str) -> Iterator[str]:
        """`text` in shorter parts whose ids, joined, are those of the whole.

        A cut lies before a space that no piece has behind the character before it, so that no merge
        could ever have crossed it.
        """
        start = 0
        while len(text) - start > LONG_CHARACTERS:
            found = self._safe_space.search(text, start + LONG_CHARACTERS)
            if found is None:
                break
            yield text[start : found.start()]
            start = found.start()
        yield text[start:]

    def _piece(self, index: int) -> Piece:
        model = self._processor
        kinds = (
            (model.is_unknown, UNKNOWN),
            (model.is_control, CONTROL),
            (model.is_byte, BYTE),
            (model.is_unused, UNUSED),
        )
        kind = next((number for test, number in kinds if test(index)), NORMAL)
        return model.id_to_piece(index), model.get_score(index), kind


def _processor(model: bytes, place: str) -> Any:
    damaged = f"{place} is not a readable SentencePiece model ({len(model):,} bytes); make the tokenizer again"
    if not model:
        raise DamagedError(damaged)
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise DamagedError(damaged) from error


def _check_layout(pieces: list[Piece], place: str) -> None:
    """Refuse a SentencePiece model that was not made here: fixed ids are relied on everywhere."""
    expected = [*CONTROL_TOKENS, *(f"<0x{value:02X}>" for value in range(256))]
    for index, text in enumerate(expected):
        found = pieces[index][0] if index < len(pieces) else "nothing"
        if found != text:
            raise UserError(f"{place}: id {index} is {found!r} but must be {text!r}; use a tokenizer that slm made")
    if META_SPACE not in {text for text, _, _ in pieces[NUM_FIXED:]}:
        raise UserError(f"{place} has no piece for a space and would lose spaces; use a tokenizer that slm made")


def _piece_bytes(piece: Piece) -> bytes:
    text, _, kind = piece
    if kind == BYTE:
        return bytes([int(text[3:5], 16)])
    return text.replace(META_SPACE, " ").encode() if kind == NORMAL else b""


def _decoded(text: str | bytes) -> str:
    """As `surrogateescape` shows it: valid text unchanged, every other byte as a lone surrogate."""
    if isinstance(text, str):
        if text.isascii() or not _SURROGATE.search(text):
            return text
        text = text.encode("utf-8", "surrogatepass")
    return text.decode("utf-8", "surrogateescape")


def _byte_ids(run: bytes) -> list[int]:
    return [FIRST_BYTE + value for value in run]


def _joined(arrays: list[NDArray[numpy.int32]]) -> NDArray[numpy.int32]:
    return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)
