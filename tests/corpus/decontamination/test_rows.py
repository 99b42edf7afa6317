"""Rows of every kind of file, each with its place; what cannot be read is refused with it."""

from __future__ import annotations

import gzip
import json

import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.decontamination.rows import read_rows, values

ROWS = [{"a": "1", "b": "x"}, {"a": "2", "b": "é"}]


def test_each_kind_of_file_gives_the_same_rows(tmp_path):
    contents = {
        "x.jsonl": "\n".join(map(json.dumps, ROWS)) + "\n\n",
        "x.json": json.dumps(ROWS),
        "x.csv": "a,b\n1,x\n2,é\n",
        "x.tsv": "a\tb\n1\tx\n2\té\n",
    }
    for name, content in contents.items():
        for zipped in (False, True):
            path = tmp_path / (f"{name}.gz" if zipped else name)
            path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
            rows = list(read_rows(path, "some.key"))
            assert [(number, row) for _, number, row in rows] == [(1, ROWS[0]), (2, ROWS[1])]
    (tmp_path / "x.txt").write_text("one\n\ntwo\n")
    assert [(number, row) for _, number, row in read_rows(tmp_path / "x.txt", "k")] == [(1, "one"), (3, "two")]
    (tmp_path / "deep.json").write_text(json.dumps({"data": [{"rows": ROWS[:1]}, {"rows": ROWS[1:]}]}))
    assert [row for *_, row in read_rows(tmp_path / "deep.json", "k", "data.rows")] == ROWS


def test_places_name_file_and_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('\n{"a": 1}\n')
    assert [place for place, *_ in read_rows(tmp_path / "x.jsonl", "k")] == [f"{tmp_path}/x.jsonl:2"]


@pytest.mark.parametrize(
    ("name", "content", "error", "sentence"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a"\n', UserError, r"x.jsonl:2: not JSON \(.*\); correct it"),
        ("x.json", b'{"a": 1}', UserError, "no list of items; say where it is"),
        ("x.pdf", b"", UserError, r"some.key: .*x.pdf ends in .pdf; give .jsonl"),
        ("x.txt", b"a\xff", UserError, "byte 0xff at offset 1 is not UTF-8"),
        ("x.txt.gz", gzip.compress(b"abc", mtime=0)[:-4], DamagedError, "is not whole as gzip"),
        (None, b"", UserError, "some.key has path .*nowhere.jsonl, but no such file"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, error, sentence):
    path = tmp_path / (name or "nowhere.jsonl")
    if name:
        path.write_bytes(content)
    with pytest.raises(error, match=sentence):
        list(read_rows(path, "some.key"))


def test_values_lie_at_the_end_of_a_path():
    assert values({"a": [{"b": 1}, {"b": 2}, {}]}, ["a", "b"]) == [1, 2]
    assert values({"a": []}, ["a", "b"]) == []
    assert values({"a": {}}, ["a", "b"]) is None
