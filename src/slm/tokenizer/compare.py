"""Vocabularies side by side: `slm tokenizer compare A B ...`.

In: tokenizers as they lie on disk, ours or others' (a folder of ours or of Hugging Face, a `tokenizer.json`, a
SentencePiece `.model`), and texts: the probes, and on demand a corpus's held-out documents or text files. Out: one
table of bytes per token, the larger the better, and of the share of tokens that are no whole characters.

All count the text alone, without beginning and end marks. A token is no whole character where it is a byte of
byte fallback, or in a byte-level vocabulary a piece that is not UTF-8 by itself. Vocabularies are of different
sizes, which the table says: a larger one needs fewer tokens and more parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slm.core.artifact import MANIFEST, open_artifact
from slm.core.console import table
from slm.core.errors import ProblemsError, UserError
from slm.corpus import read_documents
from slm.tokenizer.model_file import BYTE
from slm.tokenizer.probes import PROBES
from slm.tokenizer.tokenizer import MODEL_FILE, Tokenizer

TEXT_BYTES = 2_000_000
"""Read of each source or file at most."""
USAGE = (
    "usage: slm tokenizer compare [NAME=]A [NAME=]B ... [text=PATH ...], where A and B are tokenizer folders, "
    "tokenizer.json or SentencePiece .model files, and PATH is a corpus, such as runs/quickstart/corpus, or text files"
)
BYTE_NAME = re.compile(r"<0x[0-9A-Fa-f]{2}>")

Encode = Callable[[list[str]], list[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer of any kind: its ids, which of them are no whole characters, and how it encodes."""

    name: str
    num_ids: int
    fragments: frozenset[int]
    encode: Encode

    def measure(self, texts: Iterable[str]) -> tuple[int, int]:
        """Tokens of `texts`, and how many of them are no whole characters."""
        tokens = fragments = 0
        for ids in self.encode(list(texts)):
            tokens += len(ids)
            fragments += sum(index in self.fragments for index in ids)
        return tokens, fragments


def compare(words: Sequence[str]) -> None:
    """Print the table that the words of a command line ask for."""
    places = [word for word in words if not word.startswith("text=")]
    if not places or any(word.startswith("-") for word in words):
        raise ProblemsError([USAGE])
    vocabularies = [open_vocabulary(place) for place in places]
    names = [vocabulary.name for vocabulary in vocabularies]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ProblemsError([f"two tokenizers are named {', '.join(twice)}; name them, as in first={places[0]}"])
    texts = {f"probe: {name}": [text] for name, text in PROBES.items()}
    for word in words:
        if word.startswith("text="):
            texts |= read_texts(word.removeprefix("text="))
    for title, columns, rows in tabulate(vocabularies, texts):
        table(title, columns, rows)


Grid = tuple[str, list[str], list[list[object]]]
"""Title, columns and rows."""


def tabulate(vocabularies: Sequence[Vocabulary], texts: dict[str, list[str]]) -> list[Grid]:
    """Two vocabularies in one table, also by how many tokens the second differs from the first; more of them in two."""
    names = [f"{vocabulary.name}\n{vocabulary.num_ids:,} ids" for vocabulary in vocabularies]
    lengths: list[list[object]] = []
    shares: list[list[object]] = []
    changes: list[list[object]] = []
    for name, parts in texts.items():
        num_bytes = sum(len(part.encode()) for part in parts)
        found = [vocabulary.measure(parts) for vocabulary in vocabularies]
        lengths.append([name, num_bytes, *(f"{num_bytes / max(tokens, 1):.3f}" for tokens, _ in found)])
        shares.append([f"{100 * fragments / max(tokens, 1):.2f} %" for tokens, fragments in found])
        changes.append([f"{100 * (found[-1][0] / max(found[0][0], 1) - 1):+.1f} %"])
    length, share = "Bytes per token", "share of tokens that are no whole characters"
    if len(vocabularies) > 2:
        named = [[row[0], *cells] for row, cells in zip(lengths, shares, strict=True)]
        return [(length, ["text", "bytes", *names], lengths), (share.capitalize(), ["text", *names], named)]
    columns = ["text", "bytes", *names, *(f"{vocabulary.name}:\nno characters" for vocabulary in vocabularies)]
    rows = [[*row, *cells] for row, cells in zip(lengths, shares, strict=True)]
    if len(vocabularies) == 2:
        columns.append(f"tokens of\n{vocabularies[1].name}")
        rows = [[*row, *cells] for row, cells in zip(rows, changes, strict=True)]
    return [(f"{length}, and the {share}", columns, rows)]


def open_vocabulary(word: str) -> Vocabulary:
    """The tokenizer at `PATH`, named after its place, or at `NAME=PATH`."""
    name, equals, place = word.partition("=")
    path = Path(place if equals else word)
    if not equals:
        name = path.parent.name if path.name in ("tokenizer", "tokenizer.json", MODEL_FILE) else path.stem
    if path.is_dir():
        inside = [path / file for file in (MODEL_FILE, "tokenizer.json") if (path / file).is_file()]
        if not inside:
            raise UserError(f"there is no tokenizer in {path} (no {MODEL_FILE}, no tokenizer.json); correct the path")
        path = inside[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist; {USAGE}")
    return _hugging_face(name, path) if path.suffix == ".json" else _sentencepiece(name, path)


def read_texts(place: str) -> dict[str, list[str]]:
    """Texts by name: a corpus's held-out documents by source, or the files that match; `TEXT_BYTES` of each."""
    if (Path(place) / MANIFEST).is_file():
        corpus = open_artifact(Path(place), "corpus")
        documents = ((document.source, document.text) for document in read_documents(corpus, "validation"))
        return _cut_short((f"held out: {source}", text) for source, text in documents)
    path = Path(place)
    folder, pattern = (Path(path.anchor), place[len(path.anchor) :]) if path.is_absolute() else (Path(), place)
    files = [found for found in sorted(folder.glob(pattern)) if found.is_file()]
    if not files:
        raise UserError(f"text={place} matches no file and is no corpus; {USAGE}")
    return _cut_short((path.name, _read(path)) for path in files)


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(TEXT_BYTES)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}); convert it (iconv -f ENCODING -t UTF-8)") from error


def _cut_short(texts: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name, text in texts:
        if sizes.setdefault(name, 0) < TEXT_BYTES:
            found.setdefault(name, []).append(text[: TEXT_BYTES - sizes[name]])
            sizes[name] += len(found[name][-1].encode())
    return found


def _sentencepiece(name: str, path: Path) -> Vocabulary:
    """Ours, encoded our way where its layout says so; else as SentencePiece itself encodes."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{path} is not a SentencePiece model; {USAGE}") from error
    fragments = frozenset(index for index in range(model.vocab_size()) if model.is_byte(index))
    encode: Encode = model.encode
    try:
        ours = Tokenizer(path.read_bytes(), place=str(path))
    except UserError:
        return Vocabulary(name, model.vocab_size(), fragments, encode)
    fragments = frozenset(index for index, (_, _, kind) in enumerate(ours.pieces()) if kind == BYTE)
    return Vocabulary(name, ours.vocab_size, fragments, lambda texts: [ours.encode(text) for text in texts])


def _hugging_face(name: str, path: Path) -> Vocabulary:
    from tokenizers import Tokenizer as FastTokenizer

    try:
        fast: Any = FastTokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower for content that it cannot read
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a tokenizer.json ({reason}); {USAGE}") from error
    vocabulary: dict[str, int] = fast.get_vocab()
    byte_level = "ByteLevel" in path.read_text(encoding="utf-8")
    special = set(fast.get_added_tokens_decoder())
    fragments = frozenset(
        index
        for piece, index in vocabulary.items()
        if index not in special and (_is_broken(piece) if byte_level else BYTE_NAME.fullmatch(piece))
    )

    def encode(texts: list[str]) -> list[Sequence[int]]:
        return [found.ids for found in fast.encode_batch_fast(texts, add_special_tokens=False)]

    return Vocabulary(name, fast.get_vocab_size(), fragments, encode)


def _is_broken(piece: str) -> bool:
    """Whether a piece of a byte-level vocabulary stands for bytes that are no UTF-8 by themselves."""
    try:
        bytes(LEVEL_BYTES[character] for character in piece).decode()
    except UnicodeDecodeError:
        return True
    except KeyError:
        return False  # an added piece, spelt as it is
    return False


def _level_bytes() -> Iterator[tuple[str, int]]:
    """How byte-level vocabularies spell bytes: printable ones of Latin-1 as themselves, the others from U+0100 on
    (openai/gpt-2, encoder.py)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = 0
    for value in range(256):
        yield chr(value if value in printable else 0x100 + moved), value
        moved += value not in printable


LEVEL_BYTES = dict(_level_bytes())
