"""The record that flows from the loader into objectives and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Target id of a position without a target (end of a document, padding), as in torch's cross_entropy."""


@dataclass(slots=True)
class Batch:
    """Packed rows. B rows of T tokens; several documents may share a row.

    `tokens_BT` int64 ids; `targets_BT` int64, the next token of the same document or `IGNORED`;
    `documents_BT` int32, the document's number inside its row, -1 on padding; `positions_BT` int64,
    restarting at 0 in each document. `num_targets` counts targets that are not ignored.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    positions_BT: Tensor
    num_targets: int

    def to(self, device: str) -> Batch:
        """The same batch on `device`."""
        moved = (t.to(device, non_blocking=True) for t in (self.tokens_BT, self.targets_BT, self.documents_BT))
        tokens, targets, documents = moved
        return Batch(tokens, targets, documents, self.positions_BT.to(device, non_blocking=True), self.num_targets)
