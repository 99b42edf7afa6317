from __future__ import annotations

from pathlib import Path

from slm.corpus.document import Document, Drop, UnitFolder
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.find import find, identity
from slm.corpus.duplicates.signatures import Signer


def unit(folder: Path, *texts: str, documents: int | None = None) -> UnitFolder:
    folder.mkdir()
    signer = Signer(DuplicatesConfig())
    for number, text in enumerate(texts):
        signer.add(Document(text, f"s/{number}", "s", "MIT", "o"))
    signer.write(folder)
    return UnitFolder(folder, len(texts) if documents is None else documents)


def test_the_first_of_equal_texts_stays(tmp_path: Path) -> None:
    units = [unit(tmp_path / "a", "x", "y", "x"), unit(tmp_path / "b"), unit(tmp_path / "c", "z", "y", "x")]
    assert list(find(units, DuplicatesConfig(), tmp_path / "scratch")) == [
        Drop(0, 2, "duplicate", "of row 0 in unit 0"),
        Drop(2, 1, "duplicate", "of row 1 in unit 0"),
        Drop(2, 2, "duplicate", "of row 0 in unit 0"),
    ]
    assert list(find(units, DuplicatesConfig(exact=False), tmp_path / "none")) == []


def test_rows_beyond_those_that_count_take_no_part(tmp_path: Path) -> None:
    units = [unit(tmp_path / "a", "x", "y", documents=1), unit(tmp_path / "b", "y", "x")]
    assert list(find(units, DuplicatesConfig(), tmp_path / "scratch")) == [
        Drop(1, 1, "duplicate", "of row 0 in unit 0")
    ]
    assert identity(DuplicatesConfig()) == {}
