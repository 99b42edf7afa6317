from __future__ import annotations

import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects


def test_a_document_carries_its_sources_name_licence_and_origin() -> None:
    config = SourceConfig(kind="text", name="notes", path="notes.txt", licence="CC0-1.0")
    document = Document.of(config, "notes.txt:3", "text", file="notes.txt")
    assert document == Document("text", "notes/notes.txt:3", "notes", "CC0-1.0", "notes.txt", {"file": "notes.txt"})


def test_bytes_that_are_not_utf8_are_named_by_their_offset_in_the_file() -> None:
    with pytest.raises(UserError, match=r"a.txt: byte 0xff at offset 1,002 is not UTF-8; .*on_bad_text=skip"):
        Rejects("refuse").decode(b"ab\xffcd", "a.txt", 1_000)


def test_skipped_text_is_counted() -> None:
    rejects = Rejects("skip")
    assert rejects.decode(b"\xff", "a.txt") is None
    assert not rejects.usable("half \ud83d", "b.jsonl:1")
    assert rejects.decode(b"good\x00\x1b[0m", "a.txt") == "good\x00\x1b[0m"
    assert rejects.counts == {"not UTF-8": 2}


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(UserError, match=r"b.jsonl:1: \\ud83d at character 5 is half a surrogate pair"):
        Rejects("refuse").usable("half \ud83d", "b.jsonl:1")


def test_the_first_places_of_what_is_left_out_are_kept() -> None:
    rejects = Rejects("skip", limit_bytes=3)
    assert rejects.usable("\u00fc1", "b:0")
    assert not any(rejects.usable("\u00fc\u00fc", f"b:{number}") for number in range(50))
    rejects.damaged("c.gz", "is not whole")
    assert rejects.counts == {"too long": 50, "damaged file": 1}
    assert rejects.places["too long"] == [f"b:{number}" for number in range(10)]


def test_what_is_too_long_or_damaged_is_refused_with_a_way_out() -> None:
    with pytest.raises(UserError, match=r"b:7: a document of 4 bytes, over corpus.max_document_bytes \(3\); .*=skip"):
        Rejects(limit_bytes=3).usable("\u00fc\u00fc", "b:7")
    with pytest.raises(DamagedError, match=r"c.gz is not whole; fetch or write the file again, or go on .*=skip"):
        Rejects().damaged("c.gz", "is not whole")
