from __future__ import annotations

import gzip
import random
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Rejects
from slm.corpus.sources import text as text_module
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


def test_ids_are_the_bytes_at_which_documents_begin(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x<|endoftext|>y")
    config = SourceConfig(
        kind="text", path=str(tmp_path / "a.txt"), name="tiny", licence="MIT", separator=r"<\|endoftext\|>"
    )
    assert [(d.id, d.text) for d in read_all(config)] == [("tiny/a.txt:@0", "x"), ("tiny/a.txt:@14", "y")]
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
    articles = texts(DATA / "wikitext-2" / "valid.txt", r"(?m)(?<=^ \n)(?= = [^=\n]+ = \n \n)")
    assert "".join(articles) == (DATA / "wikitext-2" / "valid.txt").read_text(encoding="utf-8")
    assert len(articles) == 61, "60 articles, and the empty line before the first"
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


def read_with(path: Path, rejects: Rejects | None = None, **settings: str) -> list[str]:
    return [document.text for document in read_all(source_of("text", path, **settings), rejects)]


MARKS = {"begins_after": r"(?m)^\*\*\* START.*$", "ends_before": r"(?m)^\*\*\* END"}


def test_what_stands_around_the_body_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufefflicence\r\n*** START of Ä\r\n# ü\r\n# two\n*** END\n# licence".encode())
    assert read_with(path, **MARKS) == ["\n# ü\r\n# two\n"]
    assert read_with(path, **MARKS, separator="(?m)^(?=# )") == ["\n", "# ü\r\n", "# two\n"]
    assert read_with(path, ends_before=MARKS["begins_after"]) == ["licence\r\n"]
    assert read_with(path, begins_after="# ü") == ["\r\n# two\n*** END\n# licence"]


def test_a_file_without_its_marks_is_refused_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("*** END before\n*** START\nbody\n")
    (tmp_path / "b.txt").write_text("*** START\nbody\n*** END\n")
    with pytest.raises(UserError, match=r"a.txt: nothing matches ends_before \(.*\); correct the expression, or read"):
        read_with(tmp_path, **MARKS)
    rejects = Rejects("skip")
    assert read_with(tmp_path, rejects, **MARKS) == ["\nbody\n"]
    assert rejects.counts == {"no body": 1}


@pytest.mark.parametrize("encoding", ["iso-8859-1", "cp1252", "utf-16", "utf-8-sig"])
def test_a_file_of_another_encoding_is_read_as_it_says(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "BLOCK_BYTES", 3)  # characters fall across blocks
    (tmp_path / "a.txt").write_bytes("Käfer\n\nMüller".encode(encoding))
    assert read_with(tmp_path, encoding=encoding, separator="\n\n") == ["Käfer", "Müller"]


def test_a_file_that_is_not_in_its_encoding_is_refused_or_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x81")
    with pytest.raises(UserError, match=r"a.txt: is not in encoding cp1252 \(character maps to <undefined>\); name"):
        read_with(tmp_path, encoding="cp1252")
    rejects = Rejects("skip")
    assert read_with(tmp_path, rejects, encoding="cp1252") == []
    assert rejects.counts == {"wrong encoding": 1}
    with pytest.raises(ValueError, match="encoding 'base64' is none that Python knows"):
        source_of("text", tmp_path, encoding="base64")
    with pytest.raises(ValueError, match=r"ends_before '\(' is not a regular expression"):
        source_of("text", tmp_path, ends_before="(")


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")
def test_a_book_of_project_gutenberg_loses_its_header_and_its_licence() -> None:
    marks = {
        "begins_after": r"(?m)^\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG.*$",
        "ends_before": r"(?m)^\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG",
    }
    books = read_with(DATA / "gutenberg" / "*[!8].txt", **marks)
    books += read_with(DATA / "gutenberg" / "*-8.txt", encoding="iso-8859-1", **marks)
    assert len(books) == 5
    assert all("***" not in book and "full project gutenberg" not in book.lower() for book in books)
    assert "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte" in books[-1]


SEPARATORS = [
    r"\n\s*\n", r"<\|>", r"(?m)^(?=a)", "é", "b*", "aa", "(?<=a)b", r"a[^a]*?a", "ab?|b", r"\A\n", r"\n\Z",
]  # fmt: skip


@given(
    st.text(alphabet="ab\n<|>é\x00 ", max_size=60), st.sampled_from(SEPARATORS), st.integers(1, 9), st.integers(1, 70)
)
def test_ranges_of_any_size_give_the_same_documents_and_ids(
    tmp_path_factory: pytest.TempPathFactory, content: str, separator: str, stride: int, unit_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(content.encode())
    config = source_of("text", path, separator=separator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "STRIDE", stride)
        cut, whole = list(read_all(config, None, unit_bytes)), list(read_all(config))
    assert cut == whole
    assert len({document.id for document in whole if document.text}) == len([d for d in whole if d.text])
    for document in whole:
        offset = int(document.id.rpartition("@")[2])
        assert content.encode()[offset:].startswith(document.text.encode())


@pytest.mark.parametrize("separator", [r"\n\s*\n", r"<\|end\|>", r"(?m)^(?=x )"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_large_file_falls_into_ranges_that_split_as_one_search_would(
    tmp_path: Path, separator: str, mark: str
) -> None:
    draw = random.Random(0)
    words = ["x ", "é", "\n", "\n \n\n", "<|end|>", "word ", "z" * 400]
    content = "".join(draw.choices(words, [1, 3, 2, 1, 1, 3, 3], k=8_000))
    (tmp_path / "a.txt").write_text(mark + content + "y" * 300_000 + "<|end|>\n\nx last", encoding="utf-8")
    config = source_of("text", tmp_path, separator=separator)
    units = units_of(config, 200_000)
    assert len(units) >= 6
    assert [(piece.first, piece.last) for unit in units for piece in unit.pieces][:2] == [(0, 196608), (196608, 393216)]
    one = [piece for piece in re.split(separator, content + "y" * 300_000 + "<|end|>\n\nx last") if piece]
    assert [document.text for document in read_all(config, None, 200_000) if document.text] == one


def test_what_cannot_be_cut_is_one_unit(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(random.Random(0).randbytes(200_000)))
    (tmp_path / "b.txt").write_bytes(b"x" * 200_000)
    assert len(units_of(source_of("text", tmp_path / "a.txt.gz", separator="x"), 1_000)) == 1
    assert len(units_of(source_of("text", tmp_path / "b.txt"), 1_000)) == 1
    assert len(units_of(source_of("text", tmp_path / "b.txt", separator="y"), 1_000)) == 4


def test_what_lies_inside_a_separator_that_crosses_a_border_is_no_separator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "STRIDE", 3)
    (tmp_path / "a.txt").write_text("aaaaa")
    for unit_bytes in (3, 100):
        found = [(d.id, d.text) for d in read_all(source_of("text", tmp_path, separator="aa"), None, unit_bytes)]
        assert found == [("text/a.txt:@4", "a")]
