"""Chunks of text to the bytes of a SentencePiece model, the same bytes for the same text.

SentencePiece's BPE trainer learns the merges; its output is then rewritten once: the marks for
indentation and tabs become spaces and tabs, pieces that thereby appear twice are dropped, and the list
is cut to the size asked for. Encoders of all engines need nothing but pieces and scores, so the edited
model behaves alike in SentencePiece, Hugging Face and llama.cpp.

What it is worth, on the standard library at vocabulary 2,048 (0.5 MB held out), and the bits per byte of
a 1M-parameter model after 1.2M training tokens, two seeds differing by 0.003:

    lines alone                       2.82 bytes per token    2.000 bits per byte
    chunks of lines                   2.98                    1.995
    and indentation (as it is here)   3.12                    1.999
    and across scripts                3.27                    2.032

So longer pieces save tokens at equal quality up to the point where they join words with punctuation;
`split_scripts` stops there. Cost: 2 s for 9 MB, 4 s for 17 MB at vocabulary 32,768, on one core. The
trainer holds the sample in memory; `peak_bytes` bounds what that takes, for any text. It learns no pieces
across a space, and it normalises nothing.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from slm.core.errors import UserError
from slm.tokenizer.config import TokenizerConfig
from slm.tokenizer.model_file import BYTE, CONTROL, NORMAL, UNKNOWN, Piece, replace_pieces
from slm.tokenizer.sample import META_SPACE, Quota, not_empty, training_chunks, unmarked

CONTROL_TOKENS = ("<|unk|>", "<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
"""Control tokens by id. None can come out of text."""
NUM_FIXED = len(CONTROL_TOKENS) + 256
"""Ids before the first learned piece: control tokens, then the 256 bytes."""
MAX_PIECE_CHARACTERS = 24
"""Long enough for a line end with 20 columns of indentation; SentencePiece's default is 16."""
CHARACTER_COVERAGE = 0.9995
"""Share of the text whose characters become pieces of their own; rarer ones are spelt in bytes."""
SPARE_PIECES = 128
"""Learned beyond the size asked for, since some become duplicates (about 20 of 2,048 on Python code)."""
BASE_MEMORY_BYTES = 300_000_000
"""What the process takes without a text: Python, Arrow, SentencePiece, a row group of the corpus."""
MEMORY_PER_BYTE = 55
"""Of words that never repeat, which took 50 at 8 MB; Python code takes 21, prose with a word list of 50,000 six."""
ERRORS_ONLY = 2
MAX_SENTENCE_BYTES = 1 << 20
"""The trainer drops longer sentences without a word; a chunk has at most 16 KiB."""


def train_model(
    read: Callable[[], Iterable[tuple[str, str]]], wanted: Mapping[str, Quota], config: TokenizerConfig, place: str
) -> bytes:
    """The model learned from the texts of `read()`, which come with their sources; `place` names them in errors.

    The edit drops a few pieces (runs of indentation equal runs of spaces), so somewhat more are asked
    for than are needed; should that not do, the text is read and learned from once more.
    """
    spare = SPARE_PIECES
    while True:
        chunks = training_chunks(read(), wanted, marks=config.whitespace_pieces)
        asked = config.vocab_size + spare
        model = _learn(not_empty(chunks, place), config, asked, place)
        vocabulary, num_learned = _edited(model, config.vocab_size, place)
        if len(vocabulary) == config.vocab_size:
            return replace_pieces(model, vocabulary)
        if num_learned < asked:
            raise UserError(
                f"tokenizer.vocab_size ({config.vocab_size:,}) is larger than the text in {place} allows, which is "
                f"{len(vocabulary):,}; lower it and model.vocab_size to that or less, or add text"
            )
        spare = 4 * spare + 64


def peak_bytes(sample_bytes: int) -> int:
    """Memory that the process takes at most while it learns from so much text."""
    return BASE_MEMORY_BYTES + MEMORY_PER_BYTE * sample_bytes


def largest_sample(memory_bytes: int) -> int:
    """The bytes of text that can be learned from within so much memory."""
    return (memory_bytes - BASE_MEMORY_BYTES) // MEMORY_PER_BYTE


def _learn(chunks: Iterable[str], config: TokenizerConfig, size: int, place: str) -> bytes:
    import sentencepiece

    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=written,
            model_type="bpe",
            vocab_size=size,
            hard_vocab_limit=False,
            character_coverage=CHARACTER_COVERAGE,
            max_sentence_length=MAX_SENTENCE_BYTES,
            max_sentencepiece_length=MAX_PIECE_CHARACTERS,
            byte_fallback=True,
            split_digits=config.split_digits,
            split_by_unicode_script=config.split_scripts,
            allow_whitespace_only_pieces=config.whitespace_pieces,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            num_threads=1,  # BPE gains nothing from more, and the number would be written into the model
            minloglevel=ERRORS_ONLY,
            **_control_settings(),
        )
    except RuntimeError as error:
        explained = _explained(error, config, place)
        if explained is None:
            raise
        raise explained from error
    return written.getvalue()


def _control_settings() -> dict[str, Any]:
    unknown, bos, eos, pad, *markers = CONTROL_TOKENS
    return {
        "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": 3, "control_symbols": markers,
        "unk_piece": unknown, "bos_piece": bos, "eos_piece": eos, "pad_piece": pad,
    }  # fmt: skip


def _explained(error: RuntimeError, config: TokenizerConfig, place: str) -> UserError | None:
    """The trainer's complaint about too many characters as a sentence; None for anything else."""
    found = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
    if not found:
        return None
    return _too_small(config.vocab_size, int(found.group(1)) + 1, place)  # one for a space, should the text have none


def _too_small(size: int, needed: int, place: str) -> UserError:
    return UserError(
        f"tokenizer.vocab_size ({size:,}) is too small for the text in {place}: control tokens, bytes and the "
        f"characters that make up {CHARACTER_COVERAGE:.2%} of it need {needed:,}; set it and model.vocab_size to "
        "that or more"
    )


def _edited(model: bytes, size: int, place: str) -> tuple[list[Piece], int]:
    """The vocabulary without marks and duplicates, at most `size` long; and how many pieces were learned."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    learned = [processor.id_to_piece(index) for index in range(NUM_FIXED, processor.vocab_size())]
    texts = dict.fromkeys(map(unmarked, learned))
    texts.setdefault(META_SPACE)  # without it a text's spaces would be spelt as the bytes of U+2581
    merges = [text for text in texts if len(text) > 1]
    characters = [text for text in texts if len(text) == 1]
    if NUM_FIXED + len(characters) > size:
        raise _too_small(size, NUM_FIXED + len(characters), place)
    merges = merges[: size - NUM_FIXED - len(characters)]
    fixed: list[Piece] = [(text, 0.0, UNKNOWN if index == 0 else CONTROL) for index, text in enumerate(CONTROL_TOKENS)]
    fixed += [(f"<0x{value:02X}>", 0.0, BYTE) for value in range(256)]
    ranked: list[Piece] = [
        (text, -float(rank), NORMAL) for rank, text in enumerate(itertools.chain(merges, characters))
    ]
    return fixed + ranked, processor.vocab_size()
