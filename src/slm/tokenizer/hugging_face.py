"""The tokenizer as Hugging Face opens it: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`.

Built with the `tokenizers` library from pieces and scores: BPE with byte fallback, where every way to
split a piece into two pieces is a merge and the piece's score its rank. Spaces stay spaces: instead of
the usual rewriting of " " to U+2581, the vocabulary itself holds " ", so that U+2581 in a text is an
unknown character and falls back to bytes, as it does in our own encoder.

Ids equal ours for every text without control names. A control name in a text is taken for the control
token, because chat templates are rendered to a string there and need it; call the tokenizer with
`split_special_tokens=True` for text that is not trusted, which gives our ids for every text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slm.tokenizer.model_file import NORMAL
from slm.tokenizer.sample import META_SPACE
from slm.tokenizer.training import CONTROL_TOKENS

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

    from slm.tokenizer.tokenizer import Tokenizer


def write_hugging_face(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files from which `AutoTokenizer.from_pretrained(folder)` opens the same tokenizer."""
    fast_tokenizer(tokenizer).save(str(folder / "tokenizer.json"))
    content = json.dumps(tokenizer_config(), indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(f"{content}\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")


def fast_tokenizer(tokenizer: Tokenizer) -> FastTokenizer:
    """The same tokenizer in the `tokenizers` library; adds the bos token unless told not to."""
    from tokenizers import AddedToken, decoders, models, processors
    from tokenizers import Tokenizer as FastTokenizer

    vocabulary = {
        text.replace(META_SPACE, " ") if kind == NORMAL else text: index
        for index, (text, _, kind) in enumerate(tokenizer.pieces())
    }
    unknown, bos, *_ = CONTROL_TOKENS
    fast = FastTokenizer(
        models.BPE(vocab=vocabulary, merges=merges(tokenizer), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in CONTROL_TOKENS])
    fast.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, tokenizer.bos_id)]
    )
    return fast


def merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Every pair of pieces that make a piece, the best score first.

    SentencePiece and llama.cpp merge whatever two neighbours spell a piece; a list of merges must
    therefore hold all ways to split each piece, not only the one that training happened to take.
    """
    pieces = [(text, score) for text, score, kind in tokenizer.pieces() if kind == NORMAL]
    ids = {text: index for index, (text, _) in enumerate(pieces)}
    found = []
    for text, _ in sorted(pieces, key=lambda piece: -piece[1]):
        splits = [(text[:middle], text[middle:]) for middle in range(1, len(text))]
        known = [pair for pair in splits if pair[0] in ids and pair[1] in ids]
        found += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
    return [(left.replace(META_SPACE, " "), right.replace(META_SPACE, " ")) for left, right in found]


def tokenizer_config() -> dict[str, Any]:
    """The content of `tokenizer_config.json`."""
    unknown, bos, eos, pad, *markers = CONTROL_TOKENS
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unknown,
        "pad_token": pad,
        "additional_special_tokens": markers,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "right",
    }
