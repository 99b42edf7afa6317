"""Text to the ids that a model reads, and its ids back to text, whoever made the tokenizer.

In: a folder with our `tokenizer.model`, or any folder that transformers' AutoTokenizer opens. Out: a
`Vocabulary`: ids of a text with the start token as in training, ids of a conversation, a streaming
decoder, and the ids that end an answer.

Text never becomes a control token: `<|im_end|>` in a message is five characters more, not the end of the
turn. For foreign tokenizers this means that a template is rendered around place holders whenever a
message spells a special token, and that its parts and the contents are tokenized apart; then ids at the
seams may differ from those of the whole. Otherwise the ids are exactly transformers' own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from slm.core.errors import UserError
from slm.serve.stream import Utf8Stream
from slm.tokenizer.tokenizer import MODEL_FILE, Tokenizer

WINDOW_TOKENS = 8
Messages = Sequence[Mapping[str, str]]
END_PIECES = ("<|eos|>", "<|im_end|>")


class Decoder(Protocol):
    """One token after another to text; nothing is torn and nothing lost."""

    def push(self, token: int) -> str: ...

    def finish(self) -> str: ...


class Vocabulary(Protocol):
    """What an engine needs of a tokenizer."""

    end_ids: frozenset[int]
    has_template: bool

    def encode(self, text: str) -> list[int]: ...

    def encode_chat(self, messages: Messages) -> list[int]: ...

    def decoder(self) -> Decoder: ...


def open_vocabulary(folder: Path) -> Vocabulary:
    """The tokenizer in `folder`: ours if its `tokenizer.model` is of this project, else transformers'."""
    if is_ours(folder / MODEL_FILE):
        return OwnVocabulary(Tokenizer.load(folder))
    return ForeignVocabulary(folder)


def is_ours(path: Path) -> bool:
    """True if `path` is a SentencePiece model with this project's control tokens."""
    import sentencepiece

    if not path.is_file():
        return False
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.Load(str(path))
    except (RuntimeError, OSError):
        return False
    return all(not processor.IsUnknown(processor.PieceToId(piece)) for piece in ("<|bos|>", *END_PIECES))


class OwnVocabulary:
    """This project's tokenizer."""

    has_template = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        pieces = [piece for piece, *_ in tokenizer.pieces()]
        self.end_ids = frozenset(pieces.index(piece) for piece in END_PIECES)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, bos=True)

    def encode_chat(self, messages: Messages) -> list[int]:
        return self.tokenizer.render_chat([dict(message) for message in messages])

    def decoder(self) -> Decoder:
        return BytesDecoder(self.tokenizer.token_bytes)


class BytesDecoder:
    """Token bytes through one incremental UTF-8 decoder."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes, self._stream = token_bytes, Utf8Stream()

    def push(self, token: int) -> str:
        return self._stream.push(self._token_bytes(token))

    def finish(self) -> str:
        return self._stream.finish()


class ForeignVocabulary:
    """A fast tokenizer opened by transformers; needs no network."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        try:
            opened: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder} has no tokenizer that can be opened ({reason}); put the model's tokenizer.json there"
            ) from error
        if not isinstance(opened, PreTrainedTokenizerFast):
            raise UserError(
                f"{folder} has a {type(opened).__name__} without tokenizer.json, but a fast tokenizer is needed; "
                "open and save it once with transformers to make one"
            )
        self._tokenizer: Any = opened
        self._bytes = byte_table(opened.backend_tokenizer)
        self.has_template = bool(opened.chat_template)
        named = [opened.eos_token_id, opened.convert_tokens_to_ids("<|im_end|>")]
        self.end_ids = frozenset(token for token in named if token is not None and token != opened.unk_token_id)

    def encode(self, text: str) -> list[int]:
        return self._ids(text, split_special_tokens=True)

    def encode_chat(self, messages: Messages) -> list[int]:
        special = [*self._tokenizer.added_tokens_encoder, *self._tokenizer.all_special_tokens]
        if not any(text in message["content"] for message in messages for text in special):
            return self._ids(self._render(messages), add_special_tokens=False)
        marks = [f"\ue000{index}\ue001" for index in range(len(messages))]
        template = self._render([{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)])
        contents = dict(zip(marks, (message["content"] for message in messages), strict=True))
        ids: list[int] = []
        for part in re.split("(\ue000[0-9]+\ue001)", template):
            ids += self._ids(contents.get(part, part), add_special_tokens=False, split_special_tokens=part in contents)
        return ids

    def decoder(self) -> Decoder:
        if self._bytes is not None:
            return BytesDecoder(self._bytes.__getitem__)
        return WindowDecoder(lambda ids: str(self._tokenizer.decode(ids, skip_special_tokens=True)))

    def _ids(self, text: str, **options: bool) -> list[int]:
        return [int(token) for token in self._tokenizer(text, **options)["input_ids"]]

    def _render(self, messages: Messages) -> str:
        rendered = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
        )
        return str(rendered)


class WindowDecoder:
    """For tokenizers whose tokens are characters: decodes the last few tokens with and without the newest.

    The tokens before give the newest its context (a space before a word, none before a suffix).
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []

    def push(self, token: int) -> str:
        before = self._decode(self._ids)
        self._ids = [*self._ids, token][-WINDOW_TOKENS:]
        if len(self._ids) == WINDOW_TOKENS:
            before = self._decode(self._ids[:-1])
        return self._decode(self._ids)[len(before) :]

    def finish(self) -> str:
        return ""


def byte_table(tokenizer: Any) -> list[bytes] | None:
    """The bytes of every token of a fast tokenizer, by its decoder; None if its tokens are not bytes.

    The library's own DecodeStream is not used: it raises where bytes form no UTF-8 (tokenizers 0.23).
    """
    description = json.loads(tokenizer.to_str())
    kinds = _kinds(description["decoder"])
    if "ByteLevel" in kinds:
        values = {character: byte for byte, character in byte_characters().items()}
        plain = {piece: bytes(values[character] for character in piece if character in values)
                 for piece in tokenizer.get_vocab(with_added_tokens=False)}  # fmt: skip
    elif "ByteFallback" in kinds:
        plain = {
            piece: _fallback_bytes(piece, bool(kinds & {"Replace", "Metaspace"}))
            for piece in tokenizer.get_vocab(with_added_tokens=False)
        }
    else:
        return None
    table = [b""] * (1 + max(tokenizer.get_vocab().values()))
    for piece, token in tokenizer.get_vocab(with_added_tokens=False).items():
        table[token] = plain[piece]
    for token, added in tokenizer.get_added_tokens_decoder().items():
        table[token] = b"" if added.special else added.content.encode("utf-8")
    return table


def byte_characters() -> dict[int, str]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others for characters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte if byte in printable else 0x100 + others.index(byte)) for byte in range(256)}


def _fallback_bytes(piece: str, block_is_space: bool) -> bytes:
    found = re.fullmatch("<0x([0-9A-Fa-f]{2})>", piece)
    if found:
        return bytes([int(found[1], 16)])
    return (piece.replace("\u2581", " ") if block_is_space else piece).encode("utf-8")


def _kinds(decoder: Any) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    return {decoder["type"]}.union(*(_kinds(part) for part in decoder.get("decoders", [])))
