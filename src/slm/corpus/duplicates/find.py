"""Which documents of a whole corpus repeat an earlier one.

In: the folders of all units, in unit order. Out: for each unit in turn the rows to leave out, with the reason.
The first document in unit order stays, so the choice does not depend on who made the units. Memory is bounded:
signatures go through buckets on disk (see `slm.corpus.buckets`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slm.corpus.buckets import read_digests, repeats
from slm.corpus.document import Drop, UnitFolder
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.signatures import FILE


def find(units: Sequence[UnitFolder], config: DuplicatesConfig, folder: Path) -> Iterator[Drop]:
    """The documents to leave out, by unit and row in ascending order; `folder` is empty and may be filled."""
    if not config.exact:
        return
    total = sum(unit.documents for unit in units)
    found = repeats((read_digests(unit.path / FILE, unit.documents) for unit in units), total, folder)
    for number in range(len(units)):
        for repeat in found.of_unit(number):
            yield Drop(number, repeat.row, "duplicate", f"of row {repeat.first_row} in unit {repeat.first_unit}")


def identity(config: DuplicatesConfig) -> dict[str, Any]:
    """What shapes the result beside the settings, such as a version raised with the code; asked at every start."""
    del config
    return {}
