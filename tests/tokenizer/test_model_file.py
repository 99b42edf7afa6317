"""The rewritten model file against SentencePiece and against protobuf's own parser."""

from __future__ import annotations

import pytest
import sentencepiece

from slm.core.errors import DamagedError
from slm.tokenizer import Tokenizer
from slm.tokenizer.model_file import CONTROL, NORMAL, Piece, replace_pieces


def test_replacing_pieces_by_themselves_keeps_the_vocabulary(tokenizer: Tokenizer) -> None:
    again = Tokenizer(replace_pieces(tokenizer.model, tokenizer.pieces()))
    assert again.pieces() == tokenizer.pieces()
    assert again.encode("def f(self):\n    pass") == tokenizer.encode("def f(self):\n    pass")


def test_sentencepiece_reads_the_new_pieces_with_scores_and_types(tokenizer: Tokenizer) -> None:
    kept = tokenizer.pieces()[:-3]
    pieces: list[Piece] = [*kept, ("x" * 300, -123456.0, NORMAL), ("<|more|>", 0.0, CONTROL)]
    processor = sentencepiece.SentencePieceProcessor(model_proto=replace_pieces(tokenizer.model, pieces))
    assert processor.vocab_size() == len(pieces)
    assert processor.id_to_piece(len(pieces) - 2) == "x" * 300
    assert processor.get_score(len(pieces) - 2) == -123456.0
    assert processor.is_control(len(pieces) - 1)


def test_official_protobuf_parser_reads_the_same(tokenizer: Tokenizer) -> None:
    pb = pytest.importorskip("sentencepiece.sentencepiece_model_pb2", reason="needs protobuf's newest runtime")
    model = pb.ModelProto.FromString(tokenizer.model)
    assert [(piece.piece, piece.score, piece.type) for piece in model.pieces] == tokenizer.pieces()
    assert model.trainer_spec.vocab_size == tokenizer.vocab_size
    assert model.trainer_spec.byte_fallback
    assert list(model.trainer_spec.control_symbols) == ["<|im_start|>", "<|im_end|>"]
    assert not model.normalizer_spec.add_dummy_prefix
    assert not model.normalizer_spec.remove_extra_whitespaces


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"\x0a\xff", "ends inside a number at byte 2"),
        (b"\x0a\x7fabc", "ends inside the field at byte 0"),
        (b"\x25\x00", "ends inside the field at byte 0"),
        (b"\x0b", "wire type 3 at byte 0"),
    ],
)
def test_bytes_that_are_not_protobuf_are_named(content: bytes, finding: str) -> None:
    with pytest.raises(DamagedError, match=finding):
        replace_pieces(content, [])


def test_fields_of_every_wire_type_are_kept() -> None:
    fields = b"\x78\x96\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x7a\x02ab"
    assert replace_pieces(fields, []).startswith(fields)
