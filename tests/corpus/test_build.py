from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.corpus import build, read_documents
from slm.corpus.build import SplitWriter, read_split, split_of
from slm.corpus.document import Document

Corpus = Callable[..., Artifact]


def text_source(path: Path, **more: object) -> dict[str, object]:
    return {"kind": "text", "path": str(path), "licence": "CC0-1.0", **more}


def test_every_document_is_in_exactly_one_split_and_in_source_order(corpus_of: Corpus, folder: Path) -> None:
    corpus = corpus_of(text_source(folder))
    train = [document.id for document in read_documents(corpus, "train")]
    validation = [document.id for document in read_documents(corpus, "validation")]
    assert sorted(train + validation) == [f"text/{number:02d}.txt" for number in range(40)]
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert validation


def test_counts_are_those_of_the_documents(corpus_of: Corpus, folder: Path) -> None:
    (folder / "41.txt").write_text("ümläut", encoding="utf-8")
    (folder / "42.txt").write_text("ümläut", encoding="utf-8")
    (folder / "43.txt").write_text(" \n", encoding="utf-8")
    corpus = corpus_of(text_source(folder, name="notes", origin="written here"))
    documents = {split: list(read_documents(corpus, split)) for split in ("train", "validation")}
    for split, found in documents.items():
        measured = {"documents": len(found), "bytes": sum(len(document.text.encode()) for document in found)}
        assert corpus.counts[split] == measured
    total = sum(len(document.text.encode()) for found in documents.values() for document in found)
    record = {"documents": 41, "bytes": total, "licence": "CC0-1.0", "origin": "written here"}
    assert corpus.counts["sources"] == {"notes": record}
    assert corpus.counts["skipped"] == {"duplicate": 1, "empty": 1}


def test_a_duplicate_is_found_across_sources(corpus_of: Corpus, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(json.dumps({"text": "text number 7\n"}) + "\n" + json.dumps({"text": "new"}) + "\n")
    corpus = corpus_of(text_source(folder), {"kind": "jsonl", "path": str(copy), "licence": "unknown"})
    assert corpus.counts["sources"]["jsonl"]["documents"] == 1
    assert corpus.counts["skipped"] == {"duplicate": 1}


def test_adding_a_source_moves_no_document_to_the_other_side(corpus_of: Corpus, folder: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("\n\n".join(f"paragraph {number}" for number in range(50)))
    alone = corpus_of(text_source(folder), run="alone")
    both = corpus_of(text_source(more, name="more", separator=r"\n\s*\n"), text_source(folder), run="both")
    held_out = {document.id for document in read_documents(alone, "validation")}
    assert held_out == {d.id for d in read_documents(both, "validation") if d.source == "text"}


@given(st.text(min_size=1), st.floats(0.01, 0.49), st.floats(0.01, 0.49))
def test_a_larger_validation_fraction_only_adds_to_the_held_out(document_id: str, one: float, other: float) -> None:
    smaller, larger = sorted([one, other])
    if split_of(document_id, smaller) == "validation":
        assert split_of(document_id, larger) == "validation"


def test_the_held_out_share_is_the_fraction_asked_for() -> None:
    held_out = sum(split_of(f"source/{number}", 0.05) == "validation" for number in range(20_000))
    assert 0.04 < held_out / 20_000 < 0.06


@given(st.lists(st.text(), min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    written = [Document(text, f"s/{i}", "s", "MIT", "o", {"k": text}) for i, text in enumerate(texts)]
    with SplitWriter(folder, "train") as writer:
        for document in written:
            writer.write(document)
    corpus = Artifact(folder, {"kind": "corpus", "files": {file.name: {} for file in folder.iterdir()}})
    assert list(read_split(corpus, "train")) == written


def test_row_groups_and_files_stay_within_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "ROW_GROUP_BYTES", 100)
    monkeypatch.setattr(build, "FILE_BYTES", 300)
    written = [Document(f"{number:050d}", f"s/{number}", "s", "MIT", "o") for number in range(15)]
    with SplitWriter(tmp_path, "train") as writer:
        for document in written:
            writer.write(document)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["train-00000.parquet", "train-00001.parquet", "train-00002.parquet"]
    assert [pq.ParquetFile(file).metadata.num_row_groups for file in files] == [3, 3, 2]
    corpus = Artifact(tmp_path, {"kind": "corpus", "files": {file.name: {} for file in files}})
    assert list(read_split(corpus, "train")) == written


def test_an_empty_split_is_refused_with_the_way_out(corpus_of: Corpus, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("only one document")
    expected = r"corpus.validation_fraction \(0.2\) leaves no (validation|train) document of 1; (raise|lower) it"
    with pytest.raises(UserError, match=expected):
        corpus_of(text_source(tmp_path / "one.txt"))


def test_a_source_without_a_document_is_refused_with_what_was_left_out(corpus_of: Corpus, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(UserError, match=r"corpus.sources: text gave no document \(.*blank.txt; 1 empty\)"):
        corpus_of(text_source(tmp_path / "blank.txt"))


def test_max_documents_stops_each_source(corpus_of: Corpus, folder: Path) -> None:
    corpus = corpus_of(text_source(folder, max_documents=20))
    ids = [d.id for split in ("train", "validation") for d in read_documents(corpus, split)]
    assert sorted(ids) == [f"text/{number:02d}.txt" for number in range(20)]
