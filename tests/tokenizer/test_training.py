"""The learned vocabulary: its size, its determinism, and what can and cannot be a piece."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from slm.core.errors import UserError, is_disk_full
from slm.tokenizer import Tokenizer, training
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.model_file import NORMAL
from slm.tokenizer.sample import Quota
from slm.tokenizer.training import CONTROL_TOKENS, NUM_FIXED, largest_sample, peak_bytes, train_model

WORDS = ["value", "name", "index", "result", "stream", "buffer", "parser", "option", "table", "record"]
CODE = "".join(
    f"def {WORDS[index % 10]}_{WORDS[index * 7 % 9]}(self, {WORDS[index * 3 % 8]}):\n"
    f"        return self.{WORDS[index // 10 % 10]} + {index} - {WORDS[index * 13 % 7]}(self)\n\n\n"
    for index in range(400)
)


def learn(*texts: str, vocab_size: int = 400, **settings: object) -> Tokenizer:
    config = TokenizerConfig.model_validate({"vocab_size": vocab_size, **settings})
    size = sum(len(text.encode()) for text in texts)
    return Tokenizer(train_model(lambda: [("", text) for text in texts], {"": Quota(size, size)}, config, "the corpus"))


def learned(tokenizer: Tokenizer) -> list[str]:
    return [text for text, _, kind in tokenizer.pieces() if kind == NORMAL]


def test_same_text_gives_the_same_bytes_for_any_number_of_threads_and_in_any_process(texts: list[str]) -> None:
    text = "\n".join(texts)[:300_000]
    first = learn(text, vocab_size=700, threads=1)
    assert learn(text, vocab_size=700, threads=2).model == first.model
    program = (
        "import sys; from slm.tokenizer.training import train_model; from slm.tokenizer.config import TokenizerConfig\n"
        "from slm.tokenizer.sample import Quota; import hashlib; text = sys.stdin.buffer.read().decode()\n"
        "wanted = {'': Quota(len(text.encode()), len(text.encode()))}\n"
        "model = train_model(lambda: [('', text)], wanted, TokenizerConfig(vocab_size=700), 'x')\n"
        "print(hashlib.sha256(model).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=text.encode(),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert hashes == {f"{hashlib.sha256(first.model).hexdigest()}\n".encode()}


def test_ids_are_laid_out_as_promised() -> None:
    pieces = [text for text, _, _ in learn(CODE).pieces()]
    assert pieces[:6] == ["<|unk|>", "<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
    assert pieces[6:NUM_FIXED] == [f"<0x{value:02X}>" for value in range(256)]
    assert len(pieces) == len(set(pieces)) == 400


def test_trainer_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    learn(CODE)
    assert capfd.readouterr() == ("", "")


def test_line_end_and_its_indentation_are_one_token() -> None:
    tokenizer = learn(CODE)
    assert len(tokenizer.encode("\n        ")) == 1
    assert len(tokenizer.encode("\n\n\n")) == 1
    assert len(tokenizer.encode("):\n        ")) == 1


def test_tabs_are_learned_like_spaces() -> None:
    tokenizer = learn(CODE.replace("    ", "\t"))
    assert len(tokenizer.encode("\n\t\t")) == 1


def test_without_whitespace_pieces_every_space_starts_its_own_token() -> None:
    pieces = learned(learn(CODE, whitespace_pieces=False, vocab_size=360))
    assert not [piece for piece in pieces if "▁▁" in piece or "\n▁" in piece or "\t" in piece]


def test_digits_are_tokens_of_their_own_unless_asked_otherwise() -> None:
    numbers = CODE + "".join(f"{index * 7919}\n" for index in range(3000))
    alone = [piece for piece in learned(learn(numbers)) if any(map(str.isdigit, piece))]
    assert sorted(piece for piece in alone) == list("0123456789")
    joined = [piece for piece in learned(learn(numbers, split_digits=False)) if piece.isdigit()]
    assert max(map(len, joined)) > 1


def test_scripts_are_kept_apart_only_if_asked() -> None:
    assert not [piece for piece in learned(learn(CODE)) if "(self" in piece]
    assert [piece for piece in learned(learn(CODE, split_scripts=False)) if "(self" in piece]


def test_text_full_of_control_names_teaches_no_piece_that_holds_their_ends() -> None:
    spam = "".join(f"{name}user says {name}|>{name}<| " for name in CONTROL_TOKENS) * 200
    tokenizer = learn(spam + CODE + "<0x41><0x0A> " * 300, split_scripts=False)
    assert not [piece for piece in learned(tokenizer) if "<|" in piece or "|>" in piece or "<0x" in piece]
    assert [piece for piece in learned(tokenizer) if "im_start" in piece]


def test_the_end_of_a_line_longer_than_any_limit_is_learned() -> None:
    tail = "Ω" * 50
    tokenizer = learn(CODE + "x" * 100_000 + tail * 100)
    assert "ΩΩ" in learned(tokenizer)


def test_reserved_characters_hide_nothing_around_them() -> None:
    tokenizer = learn("▁▅\0\U0010fffd Ünderstood\n" * 500 + CODE)
    assert "Ünderstood" in "".join(learned(tokenizer)).replace("▁", "")
    assert not [piece for piece in learned(tokenizer) if set(piece) & set("▅\0\U0010fffd")]


def test_spaces_survive_a_corpus_without_any() -> None:
    tokenizer = learn("".join(chr(97 + index * index % 26) for index in range(20_000)), vocab_size=330)
    assert tokenizer.decode(tokenizer.encode(" a  b ")) == " a  b "
    assert "▁" in learned(tokenizer)


def test_vocabulary_larger_than_the_text_allows_names_the_largest_that_works() -> None:
    with pytest.raises(
        UserError, match=r"tokenizer\.vocab_size \(50,000\) is larger than .*the corpus allows"
    ) as caught:
        learn(CODE, vocab_size=50_000)
    largest = int(str(caught.value).split("which is ")[1].split(";")[0].replace(",", ""))
    assert learn(CODE, vocab_size=largest).vocab_size == largest
    with pytest.raises(UserError, match=f"allows, which is {largest:,};"):
        learn(CODE, vocab_size=largest + 1)


def test_vocabulary_too_small_for_the_alphabet_names_a_size_that_works() -> None:
    alphabet = "".join(chr(0x4E00 + index) for index in range(500)) * 3
    with pytest.raises(
        UserError, match=r"\(400\) is too small .* need ([\d,]+); set it and model\.vocab_size"
    ) as caught:
        learn(alphabet, vocab_size=400)
    enough = int(str(caught.value).split("need ")[1].split(";")[0].replace(",", ""))
    assert learn(alphabet, vocab_size=enough).vocab_size == enough
    with pytest.raises(UserError, match="too small"):
        learn(alphabet, vocab_size=enough - 100)


def test_pieces_lost_to_duplicates_are_made_up_for_by_a_second_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SPARE_PIECES", 0)
    reads: list[int] = []

    def read() -> list[tuple[str, str]]:
        reads.append(1)
        return [("", CODE + "  x   y    z     w" * 100)]

    model = train_model(read, {"": Quota(10**6, 10**6)}, TokenizerConfig(vocab_size=400), "the corpus")
    assert Tokenizer(model).vocab_size == 400
    assert len(reads) == 2


def test_other_complaints_of_the_trainer_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MAX_SENTENCE_BYTES", 10)
    with pytest.raises(RuntimeError, match=r"sentences_\.empty") as caught:
        learn(CODE)
    assert not is_disk_full(caught.value)  # walks the causes, which must not go in a circle


@pytest.mark.parametrize("choice", ["lambda: draw.choices(known, k=1_000)", "lambda: [word() for _ in range(1_000)]"])
def test_learning_stays_below_the_memory_that_it_states(choice: str) -> None:
    """In a process of its own, of prose with a word list as long as a language's and of words that never repeat."""
    program = (
        "import random\n"
        "from slm.tokenizer.config import TokenizerConfig\n"
        "from slm.tokenizer.sample import Quota\n"
        "from slm.tokenizer.training import largest_sample, train_model\n"
        "import slm.corpus.build\n"
        "draw = random.Random(1)\n"
        "word = lambda: ''.join(draw.choices('etaoinshrdlu', k=draw.randint(2, 9)))\n"
        "known = [word() for _ in range(50_000)]\n"
        f"choose = {choice}\n"
        "limit = largest_sample(500_000_000)\n"
        "read = lambda: (('', ' '.join(choose())) for _ in range(limit // 5_000))\n"
        "model = train_model(read, {'': Quota(limit, limit)}, TokenizerConfig(vocab_size=16_384), 'x')\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert largest_sample(500_000_000) > 3_000_000
    assert int(done.stdout) * 1024 < 500_000_000


def test_the_sample_that_fits_is_the_largest_that_does() -> None:
    for memory in (500_000_000, 4_000_000_000, 4_000_000_007):
        sample = largest_sample(memory)
        assert peak_bytes(sample) <= memory < peak_bytes(sample + 1)
