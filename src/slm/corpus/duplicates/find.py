"""Which documents of a whole corpus repeat another.

In: the folders of all units, in unit order, with their sketches. Out: for each unit in turn the rows to leave out,
with the reason and what stands for them. Which of several stays is said in `slm.corpus.duplicates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from slm.corpus.document import Cut, Drop, UnitFolder
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.search import Figures, UnitSketches, find_duplicates
from slm.corpus.duplicates.sketch import Scheme

if TYPE_CHECKING:
    import pyarrow.parquet as pq

VERSION = 1
"""To be raised when the same sketches would give another result."""
ROWS_AT_ONCE = 64


class Repeated(NamedTuple):
    """What to leave out of units: documents, and paragraphs, both by unit and row in ascending order."""

    drops: Iterator[Drop]
    cuts: Iterator[Cut]
    figures: Figures | None


Record = TypeVar("Record", Drop, Cut)


class InUnitOrder(Generic[Record]):
    """Records that come in unit order, handed out unit by unit."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._groups: Iterator[tuple[int, Iterator[Record]]] = groupby(records, key=lambda record: record.unit)
        self._ahead: tuple[int, Iterator[Record]] | None = next(self._groups, None)

    def of_unit(self, number: int) -> dict[int, Record]:
        """The unit's records by row; units are to be asked for in order."""
        if self._ahead is None or self._ahead[0] != number:
            return {}
        found = {record.row: record for record in self._ahead[1]}
        self._ahead = next(self._groups, None)
        return found


def find(units: Sequence[UnitFolder], config: DuplicatesConfig, folder: Path) -> Repeated:
    """All that repeats in the documents of `units`; works in `folder`."""
    if not config.exact:
        return Repeated(iter(()), iter(()), None)
    sketches = [UnitSketches(unit.path, unit.documents, unit.source) for unit in units]
    firsts = np.cumsum([0, *(unit.documents for unit in units)])
    found = find_duplicates(sketches, lambda numbers: read_texts(units, numbers), config, folder)
    return Repeated(_drops(found.documents, firsts), _cuts(found.paragraphs, firsts), found.figures)


def identity(config: DuplicatesConfig) -> dict[str, Any]:
    """What shapes the result beside the settings; asked at every start."""
    return {"version": VERSION, **Scheme.of(config).record()} if config.exact else {}


def read_texts(units: Sequence[UnitFolder], numbers: NDArray[np.int64]) -> Iterator[str]:
    """The texts of these documents (ascending numbers through all units); reads only row groups that hold one."""
    import pyarrow.parquet as pq

    first = 0
    for unit in units:
        begin, end = np.searchsorted(numbers, [first, first + unit.documents])
        wanted = numbers[begin:end] - first
        first += unit.documents
        for path in sorted(unit.path.glob("*.parquet")) if len(wanted) else ():
            with pq.ParquetFile(path) as file:
                yield from _texts_of_file(file, wanted)
                wanted = wanted - file.metadata.num_rows


def _texts_of_file(file: pq.ParquetFile, wanted: NDArray[np.int64]) -> Iterator[str]:
    """The texts of the rows `wanted`, as far as they lie in this file; negative ones lay in an earlier one."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        here = wanted[(wanted >= first) & (wanted < end)]
        row = first
        for batch in file.iter_batches(ROWS_AT_ONCE, [group], ["text"]) if len(here) else ():
            mine = here[(here >= row) & (here < row + len(batch))] - row
            yield from batch.column(0).take(mine).to_pylist()
            row += len(batch)
        first = end


def _drops(found: NDArray[Any], firsts: NDArray[np.int64]) -> Iterator[Drop]:
    for document, kept, jaccard, copy in found.tolist():
        unit, row = _place(document, firsts)
        other, other_row = _place(kept, firsts)
        alike = "of" if jaccard == 1 else f"{jaccard:.3f} like"
        note = f"{alike} row {other_row} in unit {other}"
        yield Drop(unit, row, "duplicate" if copy else "near duplicate", note)


def _cuts(found: NDArray[Any], firsts: NDArray[np.int64]) -> Iterator[Cut]:
    for document, records in groupby(found.tolist(), key=lambda record: record[0]):
        yield Cut(*_place(document, firsts), frozenset(paragraph for _, paragraph in records))


def _place(number: int, firsts: NDArray[np.int64]) -> tuple[int, int]:
    """Unit and row of a document's number."""
    unit = int(np.searchsorted(firsts, number, side="right")) - 1
    return unit, number - int(firsts[unit])
