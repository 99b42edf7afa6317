"""The encoder: lossless, exact against SentencePiece, and closed to control tokens."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from slm.core.artifact import Artifact
from slm.core.errors import DamagedError, UserError
from slm.tokenizer import Tokenizer
from slm.tokenizer.model_file import replace_pieces
from slm.tokenizer.tokenizer import LONG_CHARACTERS
from slm.tokenizer.training import CONTROL_TOKENS, NUM_FIXED

SHARED: list[Tokenizer] = []


@pytest.fixture(autouse=True)
def _shared(tokenizer: Tokenizer) -> None:
    """hypothesis runs a test's body many times and takes no fixtures of function scope."""
    SHARED[:] = [tokenizer]


@given(st.text())
@example("▁ ▁▁a▁")
@example("\0")
@example("<|bos|><s><0x41>")
def test_any_text_comes_back_exactly(text: str) -> None:
    ids = SHARED[0].encode(text)
    assert SHARED[0].decode(ids) == text
    assert SHARED[0].decode_bytes(ids) == text.encode()


@given(st.binary())
@example(b"\xff\xfe abc \xe2\x96\x81 \xed\xa0\x80 \xf0\x9f\x98")
@example(b"\xc0\x80")
def test_any_bytes_come_back_exactly(content: bytes) -> None:
    assert SHARED[0].decode_bytes(SHARED[0].encode(content)) == content


@given(st.text(st.characters(categories=["Cs", "Lu", "Zs"])))
@example("\udc80\ud800 x\udfff")
def test_lone_surrogates_are_kept_as_bytes(text: str) -> None:
    assert SHARED[0].decode_bytes(SHARED[0].encode(text)) == text.encode("utf-8", "surrogatepass")


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=5))
def test_many_documents_encode_like_each_alone(texts: list[str | bytes]) -> None:
    encoded = SHARED[0].encode_documents(texts, threads=2)
    assert [ids.tolist() for ids in encoded] == [SHARED[0].encode(text) for text in texts]
    assert {ids.dtype for ids in encoded} <= {numpy.dtype(numpy.int32)}


@given(st.text(st.sampled_from("<|>_imstarendbounkp"), max_size=60))
@example("<|im_start|>")
@example("<|<|bos|>|>")
def test_no_text_gives_a_control_token(text: str) -> None:
    assert not any(SHARED[0].is_control(index) for index in SHARED[0].encode(text))


def test_control_names_stay_text(tokenizer: Tokenizer, control_texts: tuple[str, ...]) -> None:
    for text in control_texts:
        ids = tokenizer.encode(text)
        assert min(ids) >= len(CONTROL_TOKENS)
        assert tokenizer.decode(ids) == text


def test_adversarial_texts_come_back(tokenizer: Tokenizer, adversarial: tuple[str, ...]) -> None:
    for text in adversarial:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_those_of_sentencepiece(tokenizer: Tokenizer, adversarial: tuple[str, ...], texts: list[str]) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    for text in (*adversarial, *texts[:5]):
        assert tokenizer.encode(text) == processor.encode(text)


def test_long_texts_are_cut_without_changing_an_id(tokenizer: Tokenizer, texts: list[str]) -> None:
    long = "\n".join(texts[:6]) + "  " * LONG_CHARACTERS + "é x" * LONG_CHARACTERS
    assert len(list(tokenizer._parts(long))) > 10
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    assert tokenizer.encode(long) == processor.encode(long)


def test_a_long_text_without_a_safe_cut_stays_whole(tokenizer: Tokenizer) -> None:
    assert list(tokenizer._parts("x" * 3 * LONG_CHARACTERS)) == ["x" * 3 * LONG_CHARACTERS]


def test_meta_space_is_spelt_in_bytes(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(index) for index in tokenizer.encode("▁")] == [b"\xe2", b"\x96", b"\x81"]


def test_document_ends_are_added_on_request(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("text")
    assert tokenizer.encode("text", bos=True, eos=True) == [1, *ids, 2]
    assert tokenizer.decode([1, *ids, 3, 4, 5, 0, 2]) == "text"
    assert (tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2, 3)


def test_torn_characters_decode_to_replacement_characters(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(b"a\xf0\x9f")) == "a\ufffd"


def test_tokens_know_what_they_stand_for(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(index) for index in (0, 5, 6, 261)] == [b"", b"", b"\0", b"\xff"]
    assert [tokenizer.is_control(index) for index in (0, 1, 5, 6, 261, 262)] == [True] * 3 + [False] * 3
    space = next(index for index, (text, _, _) in enumerate(tokenizer.pieces()) if text == "▁")
    assert tokenizer.token_bytes(space) == b" "
    with pytest.raises(IndexError, match="-1 is negative"):
        tokenizer.token_bytes(-1)
    with pytest.raises(IndexError):
        tokenizer.decode([tokenizer.vocab_size])


def test_hash_is_that_of_the_file(tokenizer: Tokenizer, artifact: Artifact) -> None:
    content = (artifact.path / "tokenizer.model").read_bytes()
    assert tokenizer.hash == hashlib.sha256(content).hexdigest() == artifact.counts["hash"]


def test_missing_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no tokenizer in .* make it first, or correct the path"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("length", [0, 1000, -7])
def test_truncated_model_is_refused_in_a_sentence(tokenizer: Tokenizer, tmp_path: Path, length: int) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model[:length])
    with pytest.raises(DamagedError, match=r"tokenizer\.model is not a readable SentencePiece model .* make the"):
        Tokenizer.load(tmp_path)


def test_foreign_model_is_refused(tokenizer: Tokenizer) -> None:
    pieces = tokenizer.pieces()
    swapped = [("<s>", *pieces[1][1:]) if index == 1 else piece for index, piece in enumerate(pieces)]
    with pytest.raises(UserError, match=r"id 1 is '<s>' but must be '<\|bos\|>'; use a tokenizer that slm made"):
        Tokenizer(replace_pieces(tokenizer.model, swapped))
    with pytest.raises(UserError, match="has no piece for a space and would lose spaces"):
        Tokenizer(replace_pieces(tokenizer.model, [*pieces[:NUM_FIXED], ("x", 0.0, 1)]))


def test_template_beside_the_model_is_used(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model)
    assert Tokenizer.load(tmp_path).chat_template == tokenizer.chat_template
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert Tokenizer.load(tmp_path).render_chat([{"role": "user", "content": "hi"}]) == tokenizer.encode("hi")


def test_gguf_vocabulary_is_complete(tokenizer: Tokenizer) -> None:
    vocabulary = dataclasses.asdict(tokenizer.gguf_vocabulary())
    assert list(zip(vocabulary["tokens"], vocabulary["scores"], vocabulary["types"], strict=True)) == tokenizer.pieces()
    assert vocabulary["types"][:7] == [2, 3, 3, 3, 3, 3, 6]
    assert [vocabulary[f"{name}_id"] for name in ("unk", "bos", "eos", "pad")] == [0, 1, 2, 3]


def test_importing_the_tokenizer_imports_no_torch() -> None:
    program = "import sys; from slm.tokenizer import Tokenizer; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
