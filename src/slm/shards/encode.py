"""Documents to ids: [bos] text [eos], or a conversation by the chat template, in blocks so that threads have work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slm.corpus.conversations import LABEL, REJECTED, WANTED, Message, messages_of, rejected_of

if TYPE_CHECKING:
    from slm.corpus.document import Document
    from slm.tokenizer.tokenizer import Tokenizer

BLOCK_DOCUMENTS = 1_024
BLOCK_CHARACTERS = 4_000_000


class Ids(NamedTuple):
    """A document in tokens."""

    ids_T: NDArray[np.int32]
    learned_T: NDArray[np.bool_] | None = None
    """Of a conversation: which tokens the assistant has to say; of a text, all after the first are learned."""

    @property
    def targets(self) -> int:
        """Tokens that are learned."""
        return len(self.ids_T) - 1 if self.learned_T is None else int(self.learned_T[1:].sum())


def encode(documents: Iterable[Document], tokenizer: Tokenizer, threads: int) -> Iterator[tuple[Document, Ids]]:
    """Each document with its ids, in order, as shards store it and as evaluation scores it."""
    bos, eos = (np.array([token], dtype=np.int32) for token in (tokenizer.bos_id, tokenizer.eos_id))
    for block in _blocks(documents):
        texts = [document.text for document in block if not messages_of(document)]
        encoded = iter(tokenizer.encode_documents(texts, threads))
        for document in block:
            messages = messages_of(document)
            if messages:
                yield document, _said(messages, tokenizer, last=bool({REJECTED, LABEL} & document.metadata.keys()))
            else:
                yield document, Ids(np.concatenate([bos, next(encoded), eos]))


def sides_of(document: Document, ids: Ids, tokenizer: Tokenizer) -> list[tuple[int, Ids]]:
    """What `encode` gave, and of a pair the ids with its rejected answer; before each 1 if its answer is not wanted."""
    sides = [(int(document.metadata.get(LABEL) == WANTED[False]), ids)]
    if rejected := rejected_of(document):
        sides.append((1, _said(rejected, tokenizer, last=True)))
    return sides


def _said(messages: list[Message], tokenizer: Tokenizer, *, last: bool) -> Ids:
    """A conversation's ids; with `last` only its last answer is learned, as preferences are about that alone."""
    ids_T, learned_T = tokenizer.encode_chat([message.row() for message in messages])
    if last and learned_T.any():
        learned_T[: int(np.flatnonzero(learned_T & ~np.roll(learned_T, 1))[-1])] = False
    return Ids(ids_T, learned_T)


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    block: list[Document] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += len(document.text)
        if len(block) >= BLOCK_DOCUMENTS or characters >= BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block
