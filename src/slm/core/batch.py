"""The record that flows from the loader into objectives and the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Target id of a position without a target (end of a document, padding), as in torch's cross_entropy."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """What a forward in training leaves out at random, as a function of these numbers alone."""

    rate: float
    """Share of the entries of what each attention and each feed-forward adds to the stream."""
    embedding_rate: float
    """Share of the entries of the embeddings."""
    path_rates: tuple[float, ...]
    """For each layer the chance that its attention is left out for a row, and that its feed-forward is."""
    seeds: tuple[int, ...]
    """One for each row of the batch."""
    embedding_noise: float = 0.0
    """What uniform noise on a document's embeddings is at most, times the square root of their number of entries."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a teacher was written down to say of the next token at each position, [B, T, ...].

    `sampled`: `ids_BTK` int32 are its likeliest token and then draws of the others, and `values_BTF` float32 its
    entropy in nats and the share of the others, [B, T, 2]. Else they are its likeliest tokens in order, and the share
    of all others with the probability of each but the first, [B, T, K].
    """

    ids_BTK: Tensor
    values_BTF: Tensor
    sampled: bool

    def each(self, change: Callable[[Tensor], Tensor]) -> Stored:
        """The same of changed tensors."""
        return replace(self, ids_BTK=change(self.ids_BTK), values_BTF=change(self.values_BTF))


@dataclass(slots=True)
class Batch:
    """Packed rows. B rows of T tokens; several documents may share a row.

    `tokens_BT` int64 ids; `targets_BT` int64, the next token of the same document or `IGNORED`;
    `documents_BT` int32, the document's number inside its row, -1 on padding; `positions_BT` int64,
    restarting at 0 in each document. `num_targets` counts targets that are not ignored. `dropout` is there
    in training only, and only in steps in which something is left out.
    `sources_B` int64, the number of each row's source, where there are two or more.
    `own` where the targets are what the model that is trained has written itself.
    `stored` is what a teacher says of the rows, where a store of that is read.
    In batches of preferences rows 2k and 2k + 1 belong together, `num_preferences` counts the pairs of answers (or the
    answers with a label), and `rows_B` int64 says which row of its split each row is.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    positions_BT: Tensor
    num_targets: int
    dropout: Dropout | None = None
    sources_B: Tensor | None = None
    own: bool = False
    stored: Stored | None = None
    num_preferences: int = 0
    rows_B: Tensor | None = None

    @property
    def divisor(self) -> int:
        """What a sum of losses over the batch is divided by: preferences where there are some, else targets."""
        return self.num_preferences or self.num_targets

    def to(self, device: str) -> Batch:
        """The same batch on `device`."""
        there: dict[str, Any] = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("tokens_BT", "targets_BT", "documents_BT", "positions_BT", "sources_B", "rows_B")
            if getattr(self, name) is not None
        }
        if self.stored is not None:
            there["stored"] = self.stored.each(lambda tensor: tensor.to(device, non_blocking=True))
        return replace(self, **there)
