"""One token after another: what is read when, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from slm.serve.config import ServeConfig
from slm.serve.decoding import continued
from slm.serve.vocabulary import OwnVocabulary
from slm.tokenizer.tokenizer import Tokenizer


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_the_prompt_is_read_once_and_the_last_token_never(tokenizer: Tokenizer, max_tokens: int) -> None:
    read: list[list[int]] = []

    def next_letter(ids: Sequence[int]) -> torch.Tensor:
        read.append(list(ids))
        logits_V = torch.zeros(tokenizer.vocab_size)
        logits_V[ids[-1] + 1] = 1.0
        return logits_V

    vocabulary = OwnVocabulary(tokenizer)
    prompt = [1, *tokenizer.encode("x"), 6 + ord("A")]
    ends = []

    def pieces() -> Iterator[str]:
        ends.append((yield from continued(next_letter, vocabulary, prompt, max_tokens, ServeConfig(temperature=0))))

    said = "".join(pieces())
    letters = [6 + ord("B") + index for index in range(max_tokens)]
    assert ends == [("length", max_tokens)]
    assert said == "".join(chr(letter - 6) for letter in letters)
    assert read == [prompt, *([letter] for letter in letters[:-1])]
