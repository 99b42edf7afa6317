"""The rows of tokens over which activations are observed: fixed by settings and seed, and known by their hash.

In: training shards, or a text file. Out: `Rows`. Rows of the shards are taken by the keyed permutation that training
takes its own from, under a key of their own, so they come from all over the corpus; a text is cut from its beginning.
Calibration text is training text: never the held-out documents over which the cost is measured.

Shapes: N rows, T tokens of a row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from slm.compress.config import Calibration
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.shards.loader import collate
from slm.shards.order import permute
from slm.shards.reader import ShardReader

if TYPE_CHECKING:
    from slm.core.artifact import Artifact
    from slm.recipe import Recipe
    from slm.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Rows:
    """Calibration text as the model reads it."""

    tokens_NT: Tensor
    documents_NT: Tensor
    """The document's number inside its row, -1 on padding."""
    positions_NT: Tensor
    hash: str
    """sha256 of ids and documents."""

    @property
    def tokens(self) -> int:
        """Tokens that count: padding left out."""
        return int((self.documents_NT >= 0).sum())


def calibration_rows(recipe: Recipe, shards: Artifact, tokenizer: Artifact, max_seq_len: int) -> Rows:
    """What `compress.calibration` names, for a model of `max_seq_len`."""
    config = recipe.compress.calibration
    if not config.text:
        return from_shards(shards, config, recipe.seed)
    from slm.tokenizer.tokenizer import Tokenizer

    length = config.row_tokens or int(shards.counts["seq_len"])
    if length > max_seq_len:
        raise UserError(
            f"compress.calibration.row_tokens ({length:,}) must not exceed model.max_seq_len ({max_seq_len:,}); lower "
            "it"
        )
    return from_text(Path(config.text), Tokenizer.load(tokenizer.path), config, length)


def from_shards(shards: Artifact, config: Calibration, seed: int) -> Rows:
    """Rows of the training split, as many as hold `config.tokens`."""
    reader = ShardReader(shards, "train")
    wanted = -(-config.tokens // reader.seq_len)
    if wanted > reader.num_rows:
        raise UserError(
            f"compress.calibration.tokens ({config.tokens:,}) asks for {wanted:,} rows, but {shards.path} has "
            f"{reader.num_rows:,} training rows of {reader.seq_len:,} tokens; lower it"
        )
    key = derive(seed, "calibration")
    tokens_NT, lengths = reader.rows([permute(number, reader.num_rows, key) for number in range(wanted)])
    batch = collate(tokens_NT, lengths, reader.pad_id)
    return _rows(batch.tokens_BT, batch.documents_BT, batch.positions_BT)


def from_text(path: Path, tokenizer: Tokenizer, config: Calibration, row_tokens: int) -> Rows:
    """Rows of a text file, each beginning with the start token."""
    length = config.row_tokens or row_tokens
    rows = max(1, config.tokens // length)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"compress.calibration.text ({path}) is not UTF-8 (byte at offset {error.start:,}); convert it to UTF-8"
        ) from error
    except OSError as error:
        raise UserError(
            f"compress.calibration.text ({path}) cannot be read ({error.strerror}); correct the path, or leave it "
            "empty to take training rows"
        ) from error
    ids = np.array(tokenizer.encode(text), dtype=np.int64)
    inner = length - 1
    if len(ids) < inner:
        raise UserError(
            f"compress.calibration.text ({path}) holds {len(ids):,} tokens, less than one row of {length:,}; give a "
            "longer text, or lower compress.calibration.row_tokens"
        )
    rows = min(rows, len(ids) // inner)
    tokens_NT = torch.from_numpy(ids[: rows * inner].reshape(rows, inner))
    tokens_NT = torch.cat([torch.full((rows, 1), tokenizer.bos_id), tokens_NT], dim=1)
    positions_NT = torch.arange(length).expand(rows, length)
    return _rows(tokens_NT, torch.zeros_like(tokens_NT), positions_NT)


def _rows(tokens_NT: Tensor, documents_NT: Tensor, positions_NT: Tensor) -> Rows:
    digest = hashlib.sha256()
    for tensor in (tokens_NT, documents_NT):
        digest.update(tensor.to(torch.int64).contiguous().numpy().tobytes())
    return Rows(tokens_NT, documents_NT.to(torch.int64), positions_NT, digest.hexdigest())
