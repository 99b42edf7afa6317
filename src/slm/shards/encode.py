"""Documents to ids: [bos] text [eos], encoded in blocks so that threads have work and memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from slm.corpus.document import Document
    from slm.tokenizer.tokenizer import Tokenizer

BLOCK_DOCUMENTS = 1_024
BLOCK_CHARACTERS = 4_000_000


def encode(
    documents: Iterable[Document], tokenizer: Tokenizer, threads: int
) -> Iterator[tuple[Document, NDArray[np.int32]]]:
    """Each document with its ids, in order, as shards store it and as evaluation scores it."""
    bos, eos = (np.array([token], dtype=np.int32) for token in (tokenizer.bos_id, tokenizer.eos_id))
    for block in _blocks(documents):
        encoded = tokenizer.encode_documents([document.text for document in block], threads)
        for document, ids in zip(block, encoded, strict=True):
            yield document, np.concatenate([bos, ids, eos])


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
