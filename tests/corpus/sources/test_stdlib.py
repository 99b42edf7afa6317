from __future__ import annotations

import builtins
import importlib
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources import stdlib
from slm.corpus.sources.stdlib import is_table, signature
from tests.corpus.reading import read_all

CONFIG = SourceConfig(kind="stdlib")


@pytest.fixture(scope="module")
def whole() -> tuple[list[Document], Counter[str]]:
    rejects = Rejects()
    return list(read_all(CONFIG, rejects)), rejects.counts


def test_modules_are_read_as_they_are_and_prose_follows(whole: tuple[list[Document], Counter[str]]) -> None:
    by_id = {document.id: document for document in whole[0]}
    assert len(by_id) == len(whole[0])
    root = Path(sysconfig.get_path("stdlib"))
    code = by_id["stdlib/json/decoder.py"]
    assert code.text == (root / "json" / "decoder.py").read_text(encoding="utf-8")
    assert code.metadata == {"domain": "code"}
    prose = by_id["stdlib/docstrings/math"]
    assert prose.metadata == {"domain": "prose"}
    assert "cbrt(x, /)\n    Return the cube root of x." in prose.text
    assert {document.licence for document in whole[0]} == {"PSF-2.0"}


def test_the_library_is_megabytes_of_code_and_some_prose(whole: tuple[list[Document], Counter[str]]) -> None:
    size: Counter[str] = Counter()
    for document in whole[0]:
        size[document.metadata["domain"]] += len(document.text.encode())
    assert 6_000_000 < size["code"] < 16_000_000
    assert size["prose"] > 300_000
    assert whole[1]["generated table"] > 50
    assert whole[1]["mostly repeated lines"] > 20


def test_tests_tables_and_installed_packages_are_left_out(whole: tuple[list[Document], Counter[str]]) -> None:
    ids = [document.id for document in whole[0]]
    for part in ("/test/", "/tests/", "idle_test", "site-packages", "encodings/cp1252", "html/entities", "pydoc_data",
                 "_sysconfigdata", "opcode.py", "docstrings/_testcapi", "docstrings/readline"):  # fmt: skip
        assert not [name for name in ids if part in name], part


def test_no_document_mostly_repeats_another(whole: tuple[list[Document], Counter[str]]) -> None:
    ids = {document.id for document in whole[0]}
    assert len({"stdlib/encodings/cp932.py", "stdlib/encodings/cp949.py", "stdlib/encodings/big5.py"} & ids) <= 1
    assert {"stdlib/pydoc_topics/compound", "stdlib/pydoc_topics/for"} - ids == {"stdlib/pydoc_topics/for"}


def test_no_text_holds_an_address_or_a_path_of_this_machine(whole: tuple[list[Document], Counter[str]]) -> None:
    for document in whole[0]:
        if document.metadata["domain"] == "prose":
            assert sys.prefix not in document.text
            assert " at 0x7f" not in document.text


def test_reading_twice_gives_the_same(whole: tuple[list[Document], Counter[str]]) -> None:
    assert list(read_all(CONFIG)) == whole[0]


def test_max_documents_takes_an_even_spread_in_order(whole: tuple[list[Document], Counter[str]]) -> None:
    some = list(read_all(SourceConfig(kind="stdlib", max_documents=60)))
    assert len(some) == 60
    positions = [whole[0].index(document) for document in some]
    assert positions == sorted(positions)
    assert {document.metadata["domain"] for document in some} == {"code", "prose"}
    halves = Counter(position > len(whole[0]) // 2 for position in positions)
    assert min(halves.values()) > 15
    fewer = list(read_all(SourceConfig(kind="stdlib", max_documents=30)))
    assert {document.id for document in fewer} < {document.id for document in some}


def test_a_library_without_pydoc_topics_still_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def trimmed(name: str, package: str | None = None) -> ModuleType:
        if name == "pydoc_data.topics":
            raise ModuleNotFoundError(name)
        return original(name, package)

    monkeypatch.setattr(stdlib.importlib, "import_module", trimmed)
    ids = [document.id for document in read_all(CONFIG)]
    assert "stdlib/json/decoder.py" in ids
    assert not [name for name in ids if "pydoc_topics" in name]


def test_the_signature_changes_with_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    (tmp_path / "one.py").write_text("x = 1\n")
    before = signature(CONFIG)
    assert before["modules"] == 1
    (tmp_path / "one.py").write_text("x = 1\ny = 2\n")
    assert signature(CONFIG) != before


def test_a_table_is_told_from_code_by_its_literal_lines() -> None:
    table = "NAMES = {\n" + "".join(f"    'name{number}': {number},\n" for number in range(300)) + "}\n"
    code = "".join(f"def function_{number}(x):\n    'What it does.'\n    return x\n" for number in range(100))
    assert is_table("names.py", table)
    assert not is_table("code.py", code)
    assert not is_table("short.py", "__all__ = [\n    'a',\n    'b',\n]\n")
    assert is_table("_sysconfigdata__linux.py", code)


def test_what_a_program_put_among_the_builtins_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def injected() -> None:
        """Not part of Python."""

    monkeypatch.setattr(builtins, "injected", injected, raising=False)
    from slm.corpus.sources.docstrings import module_prose

    assert "Not part of Python" not in module_prose("builtins")
    assert "Return the absolute value of the argument." in module_prose("builtins")
