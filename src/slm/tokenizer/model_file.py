"""The bytes of a `tokenizer.model`: replace its pieces, keep everything else.

SentencePiece learns pieces but cannot change a model it has written. Its generated protobuf module
could, but demands the very newest protobuf runtime (7.36.1 for 0.2.3), which other libraries exclude;
the format is public and small, so the one list that changes is rewritten here.

Format: sentencepiece_model.proto (google/sentencepiece) in protobuf's wire format. `ModelProto` holds
`repeated SentencePiece pieces = 1` (string piece = 1, float score = 2, enum type = 3) and
`TrainerSpec trainer_spec = 2` (int32 vocab_size = 4). A parser merges messages that appear twice and
takes the last value of a scalar, so the new vocabulary size is appended rather than patched.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from slm.core.errors import DamagedError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Piece types, the same numbers in sentencepiece_model.proto and in GGUF's token_type."""

Piece = tuple[str, float, int]

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_PIECES, _TRAINER_SPEC, _VOCAB_SIZE = 1, 2, 4


def replace_pieces(model: bytes, pieces: Iterable[Piece]) -> bytes:
    """`model` with `pieces` (text, score, type) as its whole vocabulary."""
    kept = b"".join(raw for number, raw in _fields(model) if number != _PIECES)
    encoded = [_delimited(_PIECES, _encode_piece(piece)) for piece in pieces]
    size = _tag(_VOCAB_SIZE, _VARINT) + _varint(len(encoded))
    return b"".join([*encoded, kept, _delimited(_TRAINER_SPEC, size)])


def _encode_piece(piece: Piece) -> bytes:
    text, score, kind = piece
    return (
        _delimited(1, text.encode()) + _tag(2, _FIXED32) + struct.pack("<f", score) + _tag(3, _VARINT) + _varint(kind)
    )


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Each top-level field as (number, its bytes with tag)."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, position = _read_varint(message, position)
        elif wire == _DELIMITED:
            length, position = _read_varint(message, position)
            position += length
        elif wire in (_FIXED64, _FIXED32):
            position += 8 if wire == _FIXED64 else 4
        else:
            raise DamagedError(f"tokenizer.model: wire type {wire} at byte {start:,} is not protobuf; make it again")
        if position > len(message):
            raise DamagedError(f"tokenizer.model: ends inside the field at byte {start:,}; make it again")
        yield number, message[start:position]


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= len(message):
            raise DamagedError(f"tokenizer.model: ends inside a number at byte {position:,}; make it again")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _delimited(number: int, content: bytes) -> bytes:
    return _tag(number, _DELIMITED) + _varint(len(content)) + content
