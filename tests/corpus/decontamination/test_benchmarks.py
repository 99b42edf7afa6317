from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.decontamination.benchmarks import Item, read_items
from slm.corpus.decontamination.config import BenchmarkConfig


def items(path: Path, **settings: Any) -> list[Item]:
    return list(read_items(BenchmarkConfig(name="test", path=str(path), **settings)))


def written(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_give_an_item_a_line(name: str, tmp_path: Path) -> None:
    path = written(
        tmp_path / name,
        '{"q": "one?", "a": {"text": ["x", "y"]}, "id": 7}\n\n{"q": "two?", "a": {"text": []}, "id": 8}\n',
    )
    assert items(path, fields=["q"]) == [Item("1", ("one?",)), Item("3", ("two?",))]
    assert items(path, fields=["q", "a.text"], id_field="id")[0] == Item("7", ("one?", "x", "y"))


def test_json_gives_the_list_that_is_named(tmp_path: Path) -> None:
    nested = {"data": [{"paragraphs": [{"qas": [{"id": "a", "question": "one?"}, {"id": "b", "question": "two?"}]}]}]}
    path = written(tmp_path / "a.json", json.dumps(nested))
    found = items(path, items="data.paragraphs.qas", fields=["question"], id_field="id")
    assert found == [Item("a", ("one?",)), Item("b", ("two?",))]
    plain = written(tmp_path / "b.json", '[{"question": "one?"}]')
    assert items(plain, fields=["question"]) == [Item("1", ("one?",))]


def test_tables_and_plain_lines_are_read(tmp_path: Path) -> None:
    table = written(tmp_path / "a.csv", 'id,prompt\n1,"two\nlines, here"\n2,b\n')
    assert items(table, fields=["prompt"], id_field="id") == [Item("1", ("two\nlines, here",)), Item("2", ("b",))]
    assert items(written(tmp_path / "a.tsv", "p\tq\nx\ty\n"), fields=["q"]) == [Item("1", ("y",))]
    assert items(written(tmp_path / "a.txt.gz", "first\n\nsecond\n")) == [Item("1", ("first",)), Item("3", ("second",))]


def test_what_frames_every_item_is_removed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"q": "Question: why?"}\n')
    assert items(path, fields=["q"], remove=r"^Question:\s*") == [Item("1", ("why?",))]


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.jsonl", '{"q": "x"}\n{"p": "y"}\n', {"fields": ["q"]}, r"a\.jsonl:2: no field q; name one of p"),
        ("a.jsonl", '{"q": "x"}\n{"q": \n', {"fields": ["q"]}, r"a\.jsonl:2: not JSON"),
        ("a.jsonl", '{"q": {"x": "y"}}\n', {"fields": ["q"]}, r"jsonl:1: q holds dict, not text; name a field inside"),
        ("a.jsonl", '["x"]\n', {"fields": ["q"]}, r"a\.jsonl:1: no field q; name one of a list"),
        ("a.jsonl", '{"q": "x"}\n', {}, "test names no fields"),
        ("a.jsonl", "\n", {"fields": ["q"]}, "test has no item"),
        ("a.json", '{"data": []}', {"fields": ["q"]}, "no list of items; say where it is with items"),
        ("a.txt", "x\n", {"fields": ["q"]}, "remove fields and id_field"),
        ("a.parquet", "x\n", {"fields": ["q"]}, r"ends in \.parquet; give \.jsonl"),
        ("b.jsonl", "", {"fields": ["q"], "path": "missing.jsonl"}, "missing.jsonl, but no such file"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_place(
    name: str, content: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(UserError, match=message):
        items(**{"path": path, **settings})


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl.gz", '{"q": "x"}\n')
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedError, match="not whole as gzip"):
        items(path, fields=["q"])
    (tmp_path / "b.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(UserError, match="byte 0xe9 at offset 3 is not UTF-8"):
        items(tmp_path / "b.txt")
