"""Vocabularies of every kind are read, counted alike, and put into one table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from slm.core.artifact import Artifact
from slm.core.errors import ProblemsError, UserError
from slm.tokenizer import Tokenizer, compare
from slm.tokenizer.compare import LEVEL_BYTES, open_vocabulary, read_texts, tabulate
from slm.tokenizer.probes import PROBES

TEXT = "The tide comes in twice a day; die Flut kommt zweimal am Tag.\n" * 40


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level vocabulary of 280 ids, as GPT-2 and its kin have it."""
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    fast.train_from_iterator([TEXT], trainer)
    path = tmp_path_factory.mktemp("byte_level") / "tokenizer.json"
    fast.save(str(path))
    return path


def test_ours_is_the_same_from_its_model_and_from_its_hugging_face_form(artifact: Artifact) -> None:
    tokenizer = Tokenizer.load(artifact.path)
    places = [f"a={artifact.path}", f"b={artifact.file('tokenizer.model')}", f"c={artifact.file('tokenizer.json')}"]
    found = [open_vocabulary(place) for place in places]
    assert [vocabulary.name for vocabulary in found] == ["a", "b", "c"]
    assert {vocabulary.num_ids for vocabulary in found} == {tokenizer.vocab_size}
    assert {vocabulary.fragments for vocabulary in found} == {frozenset(range(6, 262))}
    for text in PROBES.values():
        ids = tokenizer.encode(text)
        expected = (len(ids), sum(6 <= token < 262 for token in ids))
        assert [vocabulary.measure([text]) for vocabulary in found] == [expected] * 3


def test_a_byte_level_piece_is_a_fragment_where_it_is_not_utf8(byte_level: Path) -> None:
    vocabulary = open_vocabulary(str(byte_level))
    assert vocabulary.name == byte_level.parent.name
    fast = FastTokenizer.from_file(str(byte_level))
    broken = {token for token in range(280) if "\ufffd" in fast.decode([token], skip_special_tokens=False)}
    assert vocabulary.fragments == broken
    assert vocabulary.measure(["€"]) == (3, 3)
    assert vocabulary.measure(["The tide"])[1] == 0


def test_bytes_are_spelt_as_the_library_spells_them() -> None:
    assert set(LEVEL_BYTES) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(LEVEL_BYTES.values()) == list(range(256))
    spelt = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str("é\n ")
    assert bytes(LEVEL_BYTES[character] for part, _ in spelt for character in part) == "é\n ".encode()


def test_another_sentencepiece_model_is_read_as_it_is(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_prefix=str(tmp_path / "other"), vocab_size=340,
        model_type="bpe", byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "other.model"))
    vocabulary = open_vocabulary(str(tmp_path / "other.model"))
    assert (vocabulary.name, vocabulary.num_ids) == ("other", model.vocab_size())
    assert vocabulary.measure([TEXT, "☃"]) == (len(model.encode(TEXT)) + len(model.encode("☃")), 3)


def test_the_table_holds_what_plain_counting_gives(artifact: Artifact, byte_level: Path) -> None:
    ours, other = open_vocabulary(str(artifact.path)), open_vocabulary(f"bytes={byte_level}")
    texts = {"one": [TEXT, "½"], "two": ["Flut"]}
    ((_, columns, rows),) = tabulate([ours, other], texts)
    assert columns[2:] == [
        "r\n1,024 ids", "bytes\n280 ids", "r:\nno characters", "bytes:\nno characters", "tokens of\nbytes"
    ]  # fmt: skip
    tokenizer, fast = Tokenizer.load(artifact.path), FastTokenizer.from_file(str(byte_level))
    for row, parts in zip(rows, texts.values(), strict=True):
        size = sum(len(part.encode()) for part in parts)
        mine = sum(len(tokenizer.encode(part)) for part in parts)
        theirs = sum(len(fast.encode(part).ids) for part in parts)
        assert row[1:4] == [size, f"{size / mine:.3f}", f"{size / theirs:.3f}"]
        assert row[-1] == f"{100 * (theirs / mine - 1):+.1f} %"
    lengths, shares = tabulate([ours, other, other], texts)
    assert [row[:4] for row in lengths[2]] == [row[:4] for row in rows]
    assert [row[:3] for row in shares[2]] == [[row[0], *row[4:6]] for row in rows]


def test_a_corpus_gives_its_held_out_documents_by_source_and_files_give_themselves(
    corpus_of: Callable[..., Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = corpus_of([("seen", "")], [("held", ""), ("out", "")])
    assert read_texts(str(corpus.path)) == {"held out: source": ["held", "out"]}
    (tmp_path / "a.txt").write_text("abcdefgh", encoding="utf-8")
    (tmp_path / "b.txt").write_text("xyz", encoding="utf-8")
    monkeypatch.setattr(compare, "TEXT_BYTES", 5)
    assert read_texts(str(tmp_path / "*.txt")) == {"a.txt": ["abcde"], "b.txt": ["xyz"]}


def test_the_command_prints_one_table(
    artifact: Artifact, byte_level: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.txt").write_text(TEXT, encoding="utf-8")
    compare.compare([f"ours={artifact.path}", f"other={byte_level}", f"text={tmp_path / 'own.txt'}"])
    printed = capsys.readouterr().out
    for word in ("1,024 ids", "280 ids", "ours", "probe: Japanese", "own.txt", "tokens of"):
        assert word in printed


@pytest.mark.parametrize("words", [[], ["text=x"], ["--help", "a"]])
def test_without_a_tokenizer_the_usage_is_shown(words: list[str]) -> None:
    with pytest.raises(ProblemsError, match="usage: slm tokenizer compare"):
        compare.compare(words)


def test_what_cannot_be_read_is_a_sentence(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"a": 1}), encoding="utf-8")
    (tmp_path / "bad.model").write_bytes(b"nothing")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    for word, message in (
        (str(tmp_path), r"no tokenizer in .* \(no tokenizer\.model, no tokenizer\.json\)"),
        (str(tmp_path / "missing.model"), r"missing\.model does not exist; usage"),
        (str(tmp_path / "bad.json"), r"bad\.json is not a tokenizer\.json"),
        (str(tmp_path / "bad.model"), r"bad\.model is not a SentencePiece model"),
    ):
        with pytest.raises(UserError, match=message):
            open_vocabulary(word)
    with pytest.raises(UserError, match=r"text=.*\.md matches no file and is no corpus"):
        read_texts(str(tmp_path / "*.md"))
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8"):
        read_texts(str(tmp_path / "latin.txt"))
    with pytest.raises(ProblemsError, match="two tokenizers are named r; name them, as in first="):
        compare.compare([str(artifact.path), str(artifact.path)])
