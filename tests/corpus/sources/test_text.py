from __future__ import annotations

import gzip
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Rejects
from slm.corpus.sources.text import signature
from tests.corpus.reading import read_all, source_of, units_of

DATA = Path(__file__).parents[4] / "shared" / "data"


def texts(path: Path, separator: str = "", rejects: Rejects | None = None) -> list[str]:
    config = SourceConfig(kind="text", path=str(path), licence="unknown", separator=separator)
    return [document.text for document in read_all(config, rejects)]


def test_without_a_separator_a_file_is_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\r\ntwo\x00\x07\x1b[1m\n")
    assert texts(tmp_path / "a.txt") == ["one\r\n\r\ntwo\x00\x07\x1b[1m\n"]


@given(st.text(alphabet="ab\n<|>é\x00 ", max_size=60), st.sampled_from([r"\n\s*\n", r"<\|>", r"(?m)^(?=a)", "é", "b*"]))
def test_pieces_and_separators_make_up_the_file(
    tmp_path_factory: pytest.TempPathFactory, text: str, separator: str
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    pieces = texts(path, separator)
    assert [piece for piece in pieces if piece] == [piece for piece in re.split(separator, text) if piece]


def test_ids_number_the_documents_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x<|endoftext|>y")
    config = SourceConfig(
        kind="text", path=str(tmp_path / "a.txt"), name="tiny", licence="MIT", separator=r"<\|endoftext\|>"
    )
    assert [(d.id, d.text) for d in read_all(config)] == [("tiny/a.txt:0", "x"), ("tiny/a.txt:1", "y")]
    assert list(signature(config)) == ["a.txt"]


def test_a_byte_order_mark_is_dropped_and_an_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx\xef\xbb\xbf")
    (tmp_path / "b.txt").write_bytes(b"")
    assert texts(tmp_path) == ["x\ufeff", ""]


def test_the_offset_of_a_bad_byte_is_that_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("grün\n\nfine\n\n".encode() + b"b\xe4d\n\nlast")
    with pytest.raises(UserError, match=r"a.txt: byte 0xe4 at offset 14 is not UTF-8"):
        texts(tmp_path / "a.txt", "\n\n")
    rejects = Rejects("skip")
    assert texts(tmp_path / "a.txt", "\n\n", rejects) == ["grün", "fine", "last"]
    assert rejects.counts == {"not UTF-8": 1}


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")
def test_wikitext_falls_into_articles_and_a_latin1_book_is_refused() -> None:
    articles = texts(DATA / "wikitext-2" / "valid.txt", r"(?m)^(?= = [^=\n]+ = $)")
    assert "".join(articles) == (DATA / "wikitext-2" / "valid.txt").read_text(encoding="utf-8")
    assert 55 <= len(articles) <= 65  # 60 articles; the text before the first heading is a document too
    assert all(article.startswith(" = ") for article in articles[1:])
    with pytest.raises(UserError, match=r"22367-8.txt: byte 0x.. at offset [\d,]+ is not UTF-8; convert"):
        texts(DATA / "gutenberg" / "22367-8.txt")


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_packed_files_are_split_as_plain_ones(tmp_path: Path, ending: str) -> None:
    content = "one\n\ntwo\n\n\u00fcmlaut".encode()
    packed = gzip.compress(content) if ending == "gz" else pa.compress(content, codec="zstd", asbytes=True)
    (tmp_path / f"a.txt.{ending}").write_bytes(packed)
    assert texts(tmp_path, "\n\n") == ["one", "two", "\u00fcmlaut"]
    (tmp_path / f"a.txt.{ending}").write_bytes(packed[:-6])
    with pytest.raises(DamagedError, match=rf"a.txt.{ending} is not whole as {ending}"):
        texts(tmp_path, "\n\n")


def test_a_piece_that_is_too_long_is_named_by_its_byte_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n" + "x" * 5_000 + "\n\ntwo")
    config = source_of("text", tmp_path, separator=r"\n\n")
    rejects = Rejects("skip", limit_bytes=1_000)
    assert [document.text for document in read_all(config, rejects)] == ["one", "two"]
    assert rejects.places == {"too long": [f"{tmp_path}/a.txt at byte 5"]}
    with pytest.raises(UserError, match=r"a.txt at byte 5: a document of 5,000 bytes.*falls into documents at its sep"):
        list(read_all(config, Rejects(limit_bytes=1_000)))


def test_small_files_share_a_unit_and_large_ones_have_one_each(tmp_path: Path) -> None:
    for number, size in enumerate([10, 10, 10, 500, 10, 10]):
        (tmp_path / f"{number}.txt").write_text("x" * size)
    units = units_of(source_of("text", tmp_path), 100)
    assert [[piece.name for piece in unit.pieces] for unit in units] == [
        ["0.txt", "1.txt", "2.txt"], ["3.txt"], ["4.txt", "5.txt"],
    ]  # fmt: skip
