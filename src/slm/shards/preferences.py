"""Preferences in rows: what two neighbours hold, and which answers fit.

Row 2k holds chosen (or wanted) answers, row 2k + 1 rejected (or unwanted) ones, each with its prompt. The same pairs
lie in both, in the same order, so that document n of one row and document n of the other are a pair; pairs are packed
by the longer of their sides, best fit. Answers with a label have no partner: each kind is packed by itself, and where
one needs fewer rows the last of them are empty.

Answers that run over the row's end are cut there. A pair is left out, and counted, where the prompt leaves no room for
an answer or where both sides are equal once they are cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.shards.pack import Integers, Packing, pack

if TYPE_CHECKING:
    from slm.corpus import Split
    from slm.corpus.config import Preferences
    from slm.shards.units import Encoded, ShardsWork
    from slm.tokenizer.tokenizer import Tokenizer

TOGETHER = 2
"""Rows that go together."""


def rows_together(shards: Artifact) -> int:
    """How many neighbouring rows of these shards belong together: two where there are preferences."""
    return TOGETHER if shards.counts.get("preferences") else 1


def rows_of(samples: Integers, together: int) -> Integers:
    """The rows of samples of so many neighbours each, in order."""
    return (samples[:, None] * together + np.arange(together)).reshape(-1) if together > 1 else samples


class FittedAnswers:
    """The answers of a split, in the order of the corpus, both of a pair one after the other, cut to rows."""

    def __init__(self, work: ShardsWork, tokenizer: Tokenizer, seq_len: int, kind: Preferences) -> None:
        self._work, self._tokenizer, self._seq_len, self._kind = work, tokenizer, seq_len, kind
        self.counts = {"whole": 0, "cut": 0, "prompt longer than the row": 0, "equal when cut": 0}
        self.left_out: set[str] = set()
        """Sources of the train split that something was left out of."""

    def __call__(self, split: Split) -> Iterator[Encoded]:
        from slm.shards.units import read_unit

        for unit in self._work.units:
            if unit.split == split:
                chosen: list[Encoded] = []
                for document in read_unit(self._work.root, unit):
                    if self._kind == "pairs" and not document.side:
                        chosen = [document]
                    else:
                        fitting = self._fit([*chosen, document] if self._kind == "pairs" else [document])
                        yield from fitting
                        if not fitting and split == "train":
                            self.left_out.add(document.source)

    def _fit(self, sides: Sequence[Encoded]) -> list[Encoded]:
        cut = [self._cut(side) for side in sides]
        reason = "whole" if all(len(side.ids_T) <= self._seq_len for side in sides) else "cut"
        if not all(side.learned_T is not None and side.learned_T.any() for side in cut):
            reason, cut = "prompt longer than the row", []
        elif len(cut) > 1 and np.array_equal(cut[0].ids_T, cut[1].ids_T):
            reason, cut = "equal when cut", []
        self.counts[reason] += 1
        return cut

    def _cut(self, side: Encoded) -> Encoded:
        if len(side.ids_T) <= self._seq_len or side.learned_T is None:
            return side
        from slm.shards.units import said_bytes

        ids_T, learned_T = side.ids_T[: self._seq_len], side.learned_T[: self._seq_len]
        return side._replace(ids_T=ids_T, learned_T=learned_T, num_bytes=said_bytes(self._tokenizer, ids_T, learned_T))


def require_some(counts: dict[str, int], what: str, rows: int, seq_len: int) -> None:
    """Refuse shards in which nothing is left of a split or of a source."""
    if not rows:
        found = ", ".join(f"{number:,} {reason}" for reason, number in counts.items() if number) or "none"
        raise UserError(
            f"no {what} preference fits into rows of {seq_len:,} tokens ({found}, over all); raise "
            "shards.seq_len, shorten the prompts, or give more rows"
        )


def pack_sides(lengths_D: Integers, sides_D: NDArray[np.int8], seq_len: int, kind: Preferences) -> list[Packing]:
    """Where chosen and rejected answers go, each as if it had rows of its own: row k of both are neighbours.

    Documents are numbered as in `lengths_D`; of pairs the even ones are chosen, the odd ones rejected.
    """
    if kind == "pairs":
        both = pack(lengths_D.reshape(-1, 2).max(1), seq_len, "whole")
        numbers = (2 * both.document_P, 2 * both.document_P + 1)
        return [Packing(n_P, both.start_P, lengths_D[n_P], both.row_P, both.num_rows) for n_P in numbers]
    found = []
    for side in (0, 1):
        mine = np.flatnonzero(sides_D == side)
        own = pack(lengths_D[mine], seq_len, "whole") if len(mine) else _nothing()
        found.append(Packing(mine[own.document_P], own.start_P, own.length_P, own.row_P, own.num_rows))
    return found


def interleave(sides: Sequence[Packing]) -> Packing:
    """The rows of both sides as neighbours: row k of the first is row 2k, of the second row 2k + 1."""
    row_P = np.concatenate([TOGETHER * side.row_P + number for number, side in enumerate(sides)])
    order = np.argsort(row_P, kind="stable")
    document_P, start_P, length_P = (
        np.concatenate([getattr(side, name) for side in sides])[order] for name in ("document_P", "start_P", "length_P")
    )
    return Packing(document_P, start_P, length_P, row_P[order], TOGETHER * max(side.num_rows for side in sides))


def _nothing() -> Packing:
    none = np.zeros(0, dtype=np.int64)
    return Packing(none, none, none, none, 0)
