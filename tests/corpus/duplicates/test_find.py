from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from slm.corpus import tables
from slm.corpus.document import Cut, Document, Drop, UnitFolder
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.find import InUnitOrder, find, identity, read_texts
from slm.corpus.duplicates.signatures import Signer
from slm.corpus.tables import DocumentWriter
from tests.corpus.duplicates.planted import planted_pair

CONFIG = DuplicatesConfig(paragraphs=True, min_paragraph_words=3)


def unit(folder: Path, *texts: str, documents: int | None = None, source: int = 0) -> UnitFolder:
    folder.mkdir()
    signer = Signer(CONFIG)
    with DocumentWriter(folder, "documents") as writer:
        for number, text in enumerate(texts):
            document = Document(text, f"{folder.name}/{number}", "s", "MIT", "o")
            writer.write(document)
            signer.add(document)
    signer.write(folder)
    return UnitFolder(folder, len(texts) if documents is None else documents, source)


def test_copies_and_near_duplicates_are_named_by_unit_and_row(tmp_path: Path) -> None:
    one, other = planted_pair(Fraction(9, 10), 100, random.Random(1))
    units = [unit(tmp_path / "a", "x", one), unit(tmp_path / "b"), unit(tmp_path / "c", "z", other, "X ", source=1)]
    found = find(units, CONFIG, tmp_path / "scratch")
    assert list(found.drops) == [
        Drop(2, 1, "near duplicate", "0.900 like row 1 in unit 0"),
        Drop(2, 2, "duplicate", "of row 0 in unit 0"),
    ]
    assert list(found.cuts) == []
    assert found.figures is not None
    assert (found.figures.copies, found.figures.near, found.figures.similarities) == (1, 1, {"0.90": 1})


def test_rows_beyond_those_that_count_take_no_part(tmp_path: Path) -> None:
    units = [unit(tmp_path / "a", "x", "y", documents=1), unit(tmp_path / "b", "y", "x", source=1)]
    found = find(units, CONFIG, tmp_path / "scratch")
    assert list(found.drops) == [Drop(1, 1, "duplicate", "of row 0 in unit 0")]


def test_paragraphs_are_named_by_unit_and_row(tmp_path: Path) -> None:
    texts = [f"{name} begins like this\n\nthe same in both\n\n{name} ends like that" for name in ("one", "two")]
    units = [unit(tmp_path / "a", "nothing"), unit(tmp_path / "b", texts[0]), unit(tmp_path / "c", texts[1], source=1)]
    found = find(units, CONFIG, tmp_path / "scratch")
    assert list(found.cuts) == [Cut(2, 0, frozenset({1}))]


def test_nothing_is_looked_for_where_all_is_to_be_kept(tmp_path: Path) -> None:
    config = DuplicatesConfig(exact=False, near=False)
    found = find([unit(tmp_path / "a", "x", "x")], config, tmp_path / "scratch")
    assert (list(found.drops), list(found.cuts), found.figures) == ([], [], None)
    assert identity(config) == {} != identity(CONFIG)


def test_texts_come_back_by_number_from_any_file_and_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FILE_BYTES", 1500)
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 200)
    texts = [f"text number {number} " + "x" * (number % 50) for number in range(400)]
    units = [unit(tmp_path / f"{n}", *texts[n * 100 : n * 100 + 100]) for n in range(4)]
    assert len(list((tmp_path / "0").glob("*.parquet"))) > 2
    for step in (1, 7, 399):
        numbers = np.arange(0, 400, step)
        assert list(read_texts(units, numbers)) == [texts[number] for number in numbers]
    assert list(read_texts(units, np.empty(0, np.int64))) == []
    fewer = [units[0]._replace(documents=10), units[1]]
    assert list(read_texts(fewer, np.array([9, 10, 109]))) == [texts[9], texts[100], texts[199]]


def test_records_are_handed_out_unit_by_unit() -> None:
    records = [Drop(1, 5, "a"), Drop(1, 7, "b"), Drop(3, 0, "c")]
    by_unit = InUnitOrder(records)
    assert [by_unit.of_unit(number) for number in range(5)] == [
        {}, {5: records[0], 7: records[1]}, {}, {0: records[2]}, {},
    ]  # fmt: skip
