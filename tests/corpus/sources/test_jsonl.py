from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from slm.core.errors import DamagedError, UserError
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources import jsonl
from slm.corpus.sources.jsonl import signature
from tests.corpus.reading import read_all, source_of, units_of

DATA = Path(__file__).parents[4] / "shared" / "data"


def documents(path: Path, rejects: Rejects | None = None, **settings: Any) -> list[Document]:
    config = SourceConfig.model_validate({"kind": "jsonl", "path": str(path), "licence": "MIT", **settings})
    assert signature(config)
    return list(read_all(config, rejects))


def test_lines_become_documents_plain_and_packed(tmp_path: Path) -> None:
    rows = [{"text": "a\x00\u2028b\n", "key": 7}, {"text": "zwei", "key": "k"}]
    content = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(content)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as stream:
        stream.write(content)
    found = documents(tmp_path)
    assert [document.text for document in found] == ["a\x00\u2028b\n", "zwei"] * 2
    second = content.index("\n") + 1
    ids = ["jsonl/a.jsonl:@0", f"jsonl/a.jsonl:@{second}", "jsonl/b.jsonl.gz:@0", f"jsonl/b.jsonl.gz:@{second}"]
    assert [document.id for document in found] == ids
    assert [document.id for document in documents(tmp_path / "a.jsonl", id_column="key")] == ["jsonl/7", "jsonl/k"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"text": "a"', r"a.jsonl:2: not JSON \(.*at character 13"),
        ('["text"]', "a.jsonl:2: holds a list, but each line must be an object"),
        ('{"body": "a"}', "a.jsonl:2: no column text; name one of body with text_columns"),
        ('{"text": 5}', r"a.jsonl:2: text holds int, not text; .*\(the row has text\)"),
        ('{"text": "\\ud83d"}', r"a.jsonl:2: \\ud83d at character 0 is half a surrogate pair"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(UserError, match=sentence):
        documents(tmp_path / "a.jsonl")


@pytest.mark.parametrize("key", ["id_column", "split_column", "metadata_columns"])
def test_half_a_character_beside_a_text_is_refused_or_counted(tmp_path: Path, key: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "key": "a"}\n{"text": "two", "key": "\\ud83d"}\n')
    settings = {key: ["key"] if key == "metadata_columns" else "key"}
    with pytest.raises(UserError, match=r"a.jsonl:2: \\ud83d at character 0 is half a surrogate pair"):
        documents(tmp_path / "a.jsonl", **settings)
    rejects = Rejects("skip")
    assert [document.text for document in documents(tmp_path / "a.jsonl", rejects, **settings)] == ["one"]
    assert rejects.counts == {"not UTF-8": 1}


def test_of_one_array_the_way_to_lines_is_said(tmp_path: Path) -> None:
    for content in ('[\n  {"text": "a"}\n]', '[{"text": "a"}, {"text": "b"}]'):
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(UserError, match=r"a.jsonl:1: .*one JSON array, make lines of it: jq -c"):
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
    found = documents(DATA / "humaneval" / "HumanEval.jsonl.gz", text_columns=["prompt"], id_column="task_id")
    assert len(found) == 164
    assert found[0].id == "jsonl/HumanEval/0"
    assert "def has_close_elements" in found[0].text


@pytest.mark.parametrize("unit_bytes", [1, 7, 40, 64, 1_000, 10_000])
def test_ranges_give_every_line_once_whatever_their_size(tmp_path: Path, unit_bytes: int) -> None:
    lines = [json.dumps({"text": "x" * (number * 7 % 50) + str(number), "key": number}) for number in range(60)]
    lines[10:10] = ["", "  "]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    config, rejects = source_of("jsonl", tmp_path, id_column="key"), Rejects()
    found = list(read_all(config, rejects, unit_bytes))
    assert found == documents(tmp_path, id_column="key")
    assert len(found) == 60
    assert rejects.counts == {"empty": 2}
    without = list(read_all(source_of("jsonl", tmp_path), None, unit_bytes))
    assert without == documents(tmp_path)
    assert len({document.id for document in without}) == 60
    assert without[0].id == "jsonl/a.jsonl:@0"


def test_a_line_of_a_later_range_is_named_by_its_byte(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\nnot json\n')
    config = source_of("jsonl", tmp_path)
    assert [d.id for d in read_all(source_of("jsonl", tmp_path), Rejects("skip"), 10)] == [
        "jsonl/a.jsonl:@0", "jsonl/a.jsonl:@16",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"a.jsonl from byte 32: not JSON .*on_bad_text=skip"):
        list(read_all(config, None, 10))


def test_what_cannot_be_used_is_counted_with_its_place_and_the_rest_is_kept(tmp_path: Path) -> None:
    lines = ['{"text": "one"}', "{", "[1]", '{"body": "x"}', '{"text": 5}', '{"text": null}', '{"text": "\\ud83d"}',
             '{"text": "' + "x" * 3_000 + '"}', "[" * 100_000, '{"text": "two"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rejects = Rejects("skip", limit_bytes=1_000)
    found = list(read_all(source_of("jsonl", tmp_path), rejects))
    assert [document.text for document in found] == ["one", "", "two"]
    assert rejects.counts == {"not JSON": 3, "no column": 1, "not text": 1, "not UTF-8": 1, "too long": 1}
    assert rejects.places["no column"] == [f"{tmp_path}/a.jsonl:4"]


def test_a_line_too_long_for_any_document_is_passed_over_without_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "LINE_MORE_BYTES", 100)
    long = json.dumps({"text": "x" * 3_000_000})
    (tmp_path / "a.jsonl").write_text(f'{{"text": "one"}}\n{long}\n{{"text": "two"}}\n{long}')
    rejects = Rejects("skip", limit_bytes=1_000)
    assert [d.text for d in read_all(source_of("jsonl", tmp_path), rejects)] == ["one", "two"]
    assert rejects.counts == {"too long": 2}
    with pytest.raises(UserError, match=r"a.jsonl:2: a document of 3,000,013 bytes, over corpus.max_document_bytes"):
        list(read_all(source_of("jsonl", tmp_path), Rejects(limit_bytes=1_000)))


@pytest.mark.parametrize("harm", ["none", "truncated", "not zstd"])
def test_zstd_is_read_and_its_damage_named_or_counted(tmp_path: Path, harm: str) -> None:
    content = "".join(json.dumps({"text": f"line {n * n}"}) + "\n" for n in range(20_000)).encode()
    packed = bytearray(pa.compress(content, codec="zstd", asbytes=True))
    if harm == "truncated":
        del packed[len(packed) // 2 :]
    elif harm == "not zstd":
        packed[:] = content
    (tmp_path / "a.jsonl.zst").write_bytes(packed)
    if harm == "none":
        assert [document.text for document in documents(tmp_path)][::10_000] == ["line 0", "line 100000000"]
        return
    with pytest.raises(UserError, match=r"a.jsonl.zst is not whole as zst after [\d,]+ unpacked bytes"):
        documents(tmp_path)
    rejects = Rejects("skip")
    assert len(documents(tmp_path, rejects)) < 20_000
    assert rejects.counts["damaged file"] == 1


def test_further_columns_are_kept_with_a_document(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "url": "u", "generator": null}\n')
    (found,) = documents(tmp_path, metadata_columns=["url", "generator", "filter"])
    assert found.metadata == {"file": "a.jsonl", "url": "u"}


def test_a_units_version_follows_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    before = units_of(source_of("jsonl", tmp_path))
    (tmp_path / "a.jsonl").write_text('{"text": "two!"}\n')
    assert units_of(source_of("jsonl", tmp_path))[0].pieces[0].version != before[0].pieces[0].version


def test_several_columns_are_put_together_and_empty_ones_left_out(tmp_path: Path) -> None:
    rows = [{"ask": "Why?", "context": "", "answer": "So."}, {"ask": "Where?", "context": "A map.", "answer": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = documents(tmp_path, text_columns=["ask", "context", "answer"])
    assert [document.text for document in found] == ["Why?\n\nSo.", "Where?\n\nA map."]
    with pytest.raises(
        UserError, match=r"a.jsonl:1: no column reply; name one of ask, context, answer with text_columns"
    ):
        documents(tmp_path, text_columns=["ask", "reply"])
