from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.jsonl import read, signature

DATA = Path(__file__).parents[4] / "shared" / "data"


def documents(path: Path, rejects: Rejects | None = None, **settings: str) -> list[Document]:
    config = SourceConfig.model_validate({"kind": "jsonl", "path": str(path), "licence": "MIT", **settings})
    assert signature(config)
    return list(read(config, rejects or Rejects()))


def test_lines_become_documents_plain_and_packed(tmp_path: Path) -> None:
    rows = [{"text": "a\x00\u2028b\n", "key": 7}, {"text": "zwei", "key": "k"}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(content)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as stream:
        stream.write(content)
    found = documents(tmp_path)
    assert [document.text for document in found] == ["a\x00\u2028b\n", "zwei"] * 2
    ids = ["jsonl/a.jsonl:1", "jsonl/a.jsonl:2", "jsonl/b.jsonl.gz:1", "jsonl/b.jsonl.gz:2"]
    assert [document.id for document in found] == ids
    assert [document.id for document in documents(tmp_path / "a.jsonl", id_column="key")] == ["jsonl/7", "jsonl/k"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "a"', r"a.jsonl:2: not JSON \(.*at character 13"),
        ('["text"]', "a.jsonl:2: holds a list, but each line must be an object"),
        ('{"body": "a"}', "a.jsonl:2: no column text; name one of body with text_column"),
        ('{"text": 5}', r"a.jsonl:2: text holds int, not text; .*\(the line has text\)"),
        ('{"text": "\\ud83d"}', r"a.jsonl:2: \\ud83d at character 0 is half a surrogate pair"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=sentence):
        documents(tmp_path / "a.jsonl")


def test_a_missing_id_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n')
    with pytest.raises(UserError, match=r"a.jsonl:1: no column key; name one of text with id_column"):
        documents(tmp_path / "a.jsonl", id_column="key")


def test_blank_lines_and_bad_bytes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\n{"text": "\xff"}\n{"text": "two"}')
    rejects = Rejects("skip")
    assert [document.text for document in documents(tmp_path / "a.jsonl", rejects)] == ["one", "two"]
    assert rejects.counts == {"empty": 1, "not UTF-8": 1}
    with pytest.raises(UserError, match=r"a.jsonl:3: byte 0xff at offset 27 is not UTF-8"):
        documents(tmp_path / "a.jsonl")


@pytest.mark.parametrize("harm", ["truncated", "not gzip", "flipped"])
def test_a_damaged_gzip_is_named(tmp_path: Path, harm: str) -> None:
    packed = gzip.compress("".join(json.dumps({"text": f"line {n}"}) + "\n" for n in range(2_000)).encode())
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes([packed[middle] ^ 0xFF]) + packed[middle + 1 :]
    content = {"truncated": packed[:-200], "not gzip": b"plain text\n", "flipped": flipped}[harm]
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(DamagedError if harm != "flipped" else UserError, match=r"a.jsonl.gz.*fetch|a.jsonl.gz:\d+"):
        documents(tmp_path / "a.jsonl.gz")


@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")
def test_a_public_benchmark_reads_through_its_gzip() -> None:
    found = documents(DATA / "humaneval" / "HumanEval.jsonl.gz", text_column="prompt", id_column="task_id")
    assert len(found) == 164
    assert found[0].id == "jsonl/HumanEval/0"
    assert "def has_close_elements" in found[0].text
