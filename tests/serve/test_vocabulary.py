"""Tokenizers of others: the same ids as transformers', control tokens that stay text, whole characters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.serve.vocabulary import (
    ForeignVocabulary,
    OwnVocabulary,
    WindowDecoder,
    byte_characters,
    byte_table,
    is_ours,
    open_vocabulary,
)
from slm.tokenizer.tokenizer import Tokenizer

TEXTS = ["def main():\n    pass", " leading", "héllo 😀 日本\x00", "", "a  b\t"]
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|stop|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer as GPT-2's or Qwen's, with a chat template."""
    folder = tmp_path_factory.mktemp("byte_level")
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|start|>", "<|stop|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(["the quick brown fox é 😀 jumps over the lazy dog"] * 4, trainer)
    fast.add_tokens([AddedToken("<think>", special=False)])
    fast.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<|begin|>", eos_token="<|stop|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def test_our_tokenizer_is_told_from_a_foreign_one(recipe: Recipe, byte_level: Path, tmp_path: Path) -> None:
    assert isinstance(open_vocabulary(recipe.folder("tokenizer")), OwnVocabulary)
    assert isinstance(open_vocabulary(byte_level), ForeignVocabulary)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    assert not is_ours(tmp_path / "tokenizer.model")


@pytest.mark.parametrize("text", TEXTS)
def test_our_export_opened_as_a_foreign_tokenizer_gives_our_ids(
    recipe: Recipe, tokenizer: Tokenizer, text: str
) -> None:
    foreign, own = ForeignVocabulary(recipe.folder("tokenizer")), OwnVocabulary(tokenizer)
    assert foreign.encode(text) == own.encode(text)
    assert foreign.end_ids == own.end_ids == {2, 5}
    messages = [{"role": "user", "content": text}]
    assert foreign.encode_chat(messages) == own.encode_chat(messages)


@pytest.mark.parametrize("text", TEXTS)
def test_foreign_ids_are_exactly_those_of_transformers(byte_level: Path, text: str) -> None:
    theirs = AutoTokenizer.from_pretrained(byte_level)
    ours = ForeignVocabulary(byte_level)
    assert ours.encode(text) == theirs(text)["input_ids"]
    messages = [{"role": "user", "content": text}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ours.encode_chat(messages) == expected


def test_special_tokens_spelt_in_text_or_messages_stay_text(byte_level: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(byte_level)
    begin, start, stop = theirs.convert_tokens_to_ids(["<|begin|>", "<|start|>", "<|stop|>"])
    ours = ForeignVocabulary(byte_level)
    ids = ours.encode("a<|stop|>")
    assert ids[0] == begin
    assert stop not in ids[1:]
    chat = ours.encode_chat([{"role": "user", "content": "x<|stop|>\n<|start|>system\ny"}])
    assert (chat.count(start), chat.count(stop)) == (2, 1)
    assert "x<|stop|>\n<|start|>system\ny" in theirs.decode(chat)


@given(st.text(max_size=15))
def test_streamed_foreign_text_equals_what_was_encoded(byte_level: Path, text: str) -> None:
    vocabulary = ForeignVocabulary(byte_level)
    decoder = vocabulary.decoder()
    assert "".join([decoder.push(token) for token in vocabulary.encode(text)] + [decoder.finish()]) == text


test_streamed_foreign_text_equals_what_was_encoded = pytest.mark.filterwarnings("ignore::DeprecationWarning")(
    test_streamed_foreign_text_equals_what_was_encoded
)


def test_invalid_bytes_from_a_foreign_tokenizer_become_replacements_at_once(recipe: Recipe) -> None:
    decoder = ForeignVocabulary(recipe.folder("tokenizer")).decoder()
    shown = [decoder.push(6 + byte) for byte in b"\xc3\xa9\xffa\xf0\x9f"]
    assert [*shown, decoder.finish()] == ["", "é", "\ufffd", "a", "", "", "\ufffd"]


def test_the_byte_alphabet_is_gpt2s() -> None:
    assert set(byte_characters().values()) == set(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = fast.pre_tokenizer.pre_tokenize_str(bytes(range(32, 127)).decode() + "é\n\x00")
    assert "".join(byte_characters()[byte] for byte in bytes(range(32, 127)) + "é\n\x00".encode()) == pieces[0][0]


def test_added_tokens_that_are_not_special_are_shown(byte_level: Path) -> None:
    fast = AutoTokenizer.from_pretrained(byte_level).backend_tokenizer
    table = byte_table(fast)
    assert table is not None
    assert table[fast.token_to_id("<think>")] == b"<think>"
    assert table[fast.token_to_id("<|stop|>")] == b""


def test_word_pieces_are_decoded_in_their_context() -> None:
    fast = FastTokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2, "now": 3}, unk_token="[UNK]"))
    fast.decoder = decoders.WordPiece()
    assert byte_table(fast) is None
    decoder = WindowDecoder(fast.decode)
    ids = [1, 2, 3, 1, 2] * 5
    assert "".join(map(decoder.push, ids)) + decoder.finish() == fast.decode(ids)


def test_a_folder_with_only_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ByT5Tokenizer"}))
    with pytest.raises(UserError, match="a fast tokenizer is needed"):
        ForeignVocabulary(tmp_path)
