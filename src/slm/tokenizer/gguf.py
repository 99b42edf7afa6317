"""The vocabulary as a GGUF file holds it, so that llama.cpp tokenizes as we do.

llama.cpp's `llama` tokenizer is SentencePiece's BPE: neighbours that spell a token merge, the best score
first, and what is no token falls back to bytes. Its ids equal ours with one exception: U+2581 in a text
is taken for a space, because there spaces travel as U+2581 (we spell it in bytes). Control tokens carry
type CONTROL and are parsed from text only on request; no piece holds `<|` or `|>`, so no merge can
spell one either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slm.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """What goes under `tokenizer.` in a GGUF file; `types` are its token_type numbers."""

    tokens: list[str]
    scores: list[float]
    types: list[int]
    unk_id: int
    bos_id: int
    eos_id: int
    pad_id: int
    chat_template: str
    model: str = "llama"
    add_bos: bool = True
    add_eos: bool = False
    add_space_prefix: bool = False
    remove_extra_whitespaces: bool = False


def vocabulary(tokenizer: Tokenizer) -> GgufVocabulary:
    """The record for `tokenizer`."""
    pieces = tokenizer.pieces()
    return GgufVocabulary(
        tokens=[text for text, _, _ in pieces],
        scores=[score for _, score, _ in pieces],
        types=[kind for _, _, kind in pieces],
        unk_id=tokenizer.unk_id,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        chat_template=tokenizer.chat_template,
    )
