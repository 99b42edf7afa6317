"""Which part of a document each forward pass sees and which of its tokens it scores: pure functions.

A document of n + 1 tokens has n targets. Windows of `context` inputs begin every `stride` tokens; the
first scores all it predicts, each further one only what no earlier one did, so every target is scored
exactly once and, after the first window, with at least context - stride + 1 tokens in sight. A smaller
stride gives each token more context and costs context / stride times the forward passes.

Shapes: D documents, W windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Inputs `begin`..`begin + length` of `document`; targets of inputs from `scored` on (an offset) count."""

    document_W: Integers
    begin_W: Integers
    length_W: Integers
    scored_W: Integers

    def take(self, chosen: Integers) -> Windows:
        """Some of the windows, in the order of `chosen`."""
        return Windows(
            self.document_W[chosen], self.begin_W[chosen], self.length_W[chosen], self.scored_W[chosen]
        )  # fmt: skip


def lay_windows(targets_D: Integers, context: int, stride: int) -> Windows:
    """The windows of documents with these many targets; 1 <= stride <= context."""
    counts_D = 1 + np.maximum(0, -(-(targets_D - context) // stride))
    document_W = np.repeat(np.arange(len(targets_D), dtype=np.int64), counts_D)
    number_W = np.arange(len(document_W)) - np.repeat(np.cumsum(counts_D) - counts_D, counts_D)
    begin_W = number_W * stride
    length_W = np.minimum(context, targets_D[document_W] - begin_W)
    scored_W = np.where(number_W > 0, context - stride, 0)
    return Windows(document_W, begin_W, length_W, scored_W)


def batches(windows: Windows, batch_tokens: int) -> Iterator[Windows]:
    """Windows of similar length together, longest first, of at most `batch_tokens` positions (or one window)."""
    order = np.argsort(-windows.length_W, kind="stable")
    first = 0
    while first < len(order):
        rows = max(1, batch_tokens // max(1, int(windows.length_W[order[first]])))
        yield windows.take(order[first : first + rows])
        first += rows
