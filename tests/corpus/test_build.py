from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.corpus import read_documents
from slm.corpus.build import split_of
from slm.corpus.config import CorpusConfig
from slm.corpus.decontamination.report import clean_items
from slm.corpus.samples import PER_NAME

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


@given(st.text(min_size=1))
def test_each_document_is_held_out_in_one_fold(document_id: str) -> None:
    sides = [split_of(document_id, 0.2, fold) for fold in range(5)]
    assert sides.count("validation") == 1


def test_a_cross_validation_holds_out_every_document_once(corpus_of: Corpus, folder: Path) -> None:
    corpora = [corpus_of(text_source(folder), run=f"fold-{fold}", validation_fold=fold) for fold in range(5)]
    held_out = [document.id for corpus in corpora for document in read_documents(corpus, "validation")]
    assert len(set(held_out)) == len(held_out) == corpora[0].counts["sources"]["text"]["documents"]


def test_a_fold_that_is_not_there_is_refused() -> None:
    assert CorpusConfig(validation_fraction=0.1, validation_fold=9).validation_fold == 9
    with pytest.raises(ValueError, match=r"validation_fold \(3\) .*fraction \(0.3\) there are 3 .*; set it below 3"):
        CorpusConfig(validation_fraction=0.3, validation_fold=3)


def test_the_held_out_share_is_the_fraction_asked_for() -> None:
    held_out = sum(split_of(f"source/{number}", 0.05) == "validation" for number in range(20_000))
    assert 0.04 < held_out / 20_000 < 0.06


def test_an_empty_split_is_refused_with_the_way_out(corpus_of: Corpus, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("only one document")
    expected = r"_fraction \(0.2\) leaves no (validation|train) document of 1 \(left out: nothing\); (raise|lower) it"
    with pytest.raises(UserError, match=expected):
        corpus_of(text_source(tmp_path / "one.txt"))


def test_a_source_without_a_document_is_refused_with_what_was_left_out(corpus_of: Corpus, tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(UserError, match=r"corpus.sources: text gave no document \(.*blank.txt; left out: 1 empty\)"):
        corpus_of(text_source(tmp_path / "blank.txt"))


def test_max_documents_stops_each_source(corpus_of: Corpus, folder: Path) -> None:
    corpus = corpus_of(text_source(folder, max_documents=20))
    ids = [d.id for split in ("train", "validation") for d in read_documents(corpus, split)]
    assert sorted(ids) == [f"text/{number:02d}.txt" for number in range(20)]


def lines(path: Path, *texts: str | None, **more: list[str]) -> dict[str, object]:
    rows = [{"text": text, **{name: values[n] for name, values in more.items()}} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "jsonl", "path": str(path), "licence": "MIT"}


def ids_of(corpus: Artifact) -> list[str]:
    return sorted(d.id for split in ("train", "validation") for d in read_documents(corpus, split))


def test_the_files_of_a_corpus_are_the_same_bytes_for_units_of_any_size(corpus_of: Corpus, tmp_path: Path) -> None:
    texts = [f"text {number}\n" + "word " * 80 for number in range(400)]
    (tmp_path / "b.txt").write_text("\n\n".join(texts))
    pq.write_table(pa.table({"text": [f"row {text}" for text in texts]}), tmp_path / "c.parquet", row_group_size=50)
    sources = [
        {**lines(tmp_path / "a.jsonl", *(f"line {text}" for text in texts)), "name": "lines"},
        {"kind": "text", "path": str(tmp_path / "b.txt"), "licence": "MIT", "separator": r"\n\n"},
        {"kind": "parquet", "path": str(tmp_path / "c.parquet"), "licence": "MIT"},
    ]
    made = [corpus_of(*sources, unit_bytes=size, run=str(size)) for size in (1_000, 70_000, 10_000_000)]
    units = [len(list((corpus.path.parent / "corpus.units").iterdir())) for corpus in made]
    assert units[0] > units[1] > units[2] == 3
    assert made[0].counts["train"]["documents"] + made[0].counts["validation"]["documents"] == 1_200
    assert made[0].manifest["files"] == made[1].manifest["files"] == made[2].manifest["files"]
    assert made[0].counts == made[1].counts == made[2].counts


def test_one_of_equal_documents_stays_whatever_the_units(corpus_of: Corpus, tmp_path: Path) -> None:
    item = lines(tmp_path / "a.jsonl", *(f"text {number % 37} " + "x" * 80 for number in range(200)))
    small, large = corpus_of(item, unit_bytes=1_000, run="small"), corpus_of(item, run="large")
    assert small.counts["skipped"] == large.counts["skipped"] == {"duplicate": 163}
    for corpus in (small, large):
        texts = [d.text for split in ("train", "validation") for d in read_documents(corpus, split)]
        assert sorted(texts) == sorted(f"text {number} " + "x" * 80 for number in range(37))
    kept = corpus_of(item, run="kept", duplicates={"exact": False, "near": False})
    assert kept.counts["skipped"] == {}
    assert kept.counts["sources"]["jsonl"]["documents"] == 200


def test_documents_beyond_the_most_of_a_source_drop_out_before_duplicates_are_looked_for(
    corpus_of: Corpus, tmp_path: Path
) -> None:
    first = lines(tmp_path / "a.jsonl", *(f"text {number} " + "x" * 80 for number in range(100)))
    second = lines(tmp_path / "b.jsonl", *(f"text {number} " + "x" * 80 for number in range(20, 60)))
    sources = [{**first, "name": "a", "max_documents": 35}, {**second, "name": "b"}]
    corpus = corpus_of(*sources, unit_bytes=1_000)
    assert [corpus.counts["sources"][name]["documents"] for name in ("a", "b")] == [35, 25]
    assert corpus.counts["skipped"]["duplicate"] == 15
    assert corpus.counts["skipped_by_source"]["b"] == {"duplicate": 15}
    again = corpus_of(*sources, unit_bytes=1_000, run="again", workers=2)
    assert again.fingerprint == corpus.fingerprint


def test_an_id_that_stands_twice_is_refused_or_numbered(corpus_of: Corpus, tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(40)]
    item = {**lines(tmp_path / "a.jsonl", *texts, key=[str(n % 36) for n in range(40)]), "id_column": "key"}
    with pytest.raises(
        UserError, match=r"the id jsonl/0 stands 2 times with different texts \(again in a.jsonl: 'text 36'\); name"
    ):
        corpus_of(item)
    corpus = corpus_of(item, on_bad_text="skip")
    assert set(ids_of(corpus)) == {f"jsonl/{n}" for n in range(36)} | {f"jsonl/{n}~2" for n in range(4)}
    assert corpus.counts["renumbered_ids"] == 4
    copied = {**lines(tmp_path / "b.jsonl", *texts, texts[3], key=[*map(str, range(40)), "3"]), "id_column": "key"}
    assert corpus_of(copied, run="copied").counts["skipped"] == {"duplicate": 1}


def test_samples_of_what_was_left_out_are_kept(corpus_of: Corpus, folder: Path) -> None:
    (folder / "42.txt").write_text("text number 7\n")
    (folder / "43.txt").write_text(" ")
    corpus = corpus_of(text_source(folder))
    records = [json.loads(line) for line in corpus.file("dropped.jsonl").read_text().splitlines()]
    assert [record["reason"] for record in records] == ["duplicate", "empty"]
    assert records[0]["text"] == "text number 7\n"
    notes = {"text/42.txt": "of row 7 in unit 0", "text/07.txt": "of row 40 in unit 0"}
    assert records[0]["note"] == notes[records[0]["id"]]
    assert records[1]["id"] == "text/43.txt"


def test_samples_of_what_cleaning_changed_are_the_same_however_units_are_cut(corpus_of: Corpus, tmp_path: Path) -> None:
    texts = [f"text {n}: {('fine', 'schÃ¶n')[n % 2]}, me{n}@here.com" for n in range(80)]
    item = {**lines(tmp_path / "a.jsonl", *texts, key=list(map(str, range(80)))), "id_column": "key"}
    settings = {"steps": [{"step": "unicode"}, {"step": "pii"}]}
    whole, cut = corpus_of(item, **settings), corpus_of(item, run="cut", unit_bytes=1_000, workers=2, **settings)
    content = whole.file("changed.jsonl").read_text(encoding="utf-8")
    assert cut.file("changed.jsonl").read_text(encoding="utf-8") == content
    records = [json.loads(line) for line in content.splitlines()]
    assert [record["step"] for record in records] == ["pii"] * PER_NAME + ["unicode"] * PER_NAME
    assert all("here.com" in one["before"] and "example." in one["after"] for one in records[:PER_NAME])
    assert whole.counts["cleaning"]["unicode/documents changed"] == 40


def test_nothing_is_lost_what_is_read_is_kept_or_counted(corpus_of: Corpus, tmp_path: Path) -> None:
    texts = [None if n % 11 == 0 else f"text {n % 90} {'<|bos|>' if n % 7 == 0 else ''}" for n in range(300)]
    item = lines(tmp_path / "a.jsonl", *texts)
    with (tmp_path / "a.jsonl").open("ab") as stream:
        stream.write(b'{"text": "\xff"}\nnot json\n\n{"body": "x"}\n')
    corpus = corpus_of(item, on_bad_text="skip", on_control_text="skip", unit_bytes=1_000)
    kept = sum(corpus.counts[split]["documents"] for split in ("train", "validation"))
    skipped = corpus.counts["skipped"]
    assert set(skipped) == {"empty", "duplicate", "imitates control tokens", "not UTF-8", "not JSON", "no column"}
    assert kept + sum(skipped.values()) == 304
    assert corpus.counts["places"]["not UTF-8"][0].startswith(f"{tmp_path}/a.jsonl from byte ")


def test_the_mixture_stands_in_the_manifest_as_yaml(corpus_of: Corpus, folder: Path, tmp_path: Path) -> None:
    item = lines(tmp_path / "a.jsonl", *(f"line {number}" for number in range(20)))
    corpus = corpus_of(text_source(folder, origin="notes: mine"), item)
    mixture = yaml.safe_load(corpus.counts["mixture"])
    total = sum(record["bytes"] for record in corpus.counts["sources"].values())
    assert [entry["source"] for entry in mixture] == ["text", "jsonl"]
    assert mixture[0]["origin"] == "notes: mine"
    assert mixture[1]["licence"] == "MIT"
    for entry in mixture:
        record = corpus.counts["sources"][entry["source"]]
        assert entry["documents"] == record["documents"]
        assert entry["share_of_bytes"] == pytest.approx(record["bytes"] / total, abs=1e-6)


def near_duplicates(count: int) -> list[str]:
    """Pairs of texts that differ in one word of 60."""
    pairs = []
    for number in range(count):
        words = [f"w{number}x{place}" for place in range(60)]
        pairs += [" ".join(words), " ".join([*words[:30], "other", *words[31:]])]
    return pairs


def test_near_duplicates_are_left_out_alike_by_any_number_of_parts(corpus_of: Corpus, tmp_path: Path) -> None:
    item = lines(tmp_path / "a.jsonl", *near_duplicates(40))
    whole = corpus_of(item, unit_bytes=2_000, duplicates={"threshold": 0.7})
    found = whole.counts["duplicates"]
    assert whole.counts["skipped"] == {"near duplicate": found["near"]}
    assert 38 <= found["near"] <= 40
    assert found["scheme"]["algorithm"] == "rensa R-MinHash"
    assert list(found["similarities"]) == ["0.80"]
    for workers in range(2, 5):
        again = corpus_of(item, unit_bytes=2_000, duplicates={"threshold": 0.7}, workers=workers, run=str(workers))
        assert again.fingerprint == whole.fingerprint
    everything = corpus_of(item, duplicates={"near": False}, run="all")
    assert everything.counts["sources"]["jsonl"]["documents"] == 80


def test_paragraphs_that_repeat_are_cut(corpus_of: Corpus, tmp_path: Path) -> None:
    footer = "all rights are reserved by all of us"
    texts = [f"text number {number} alone\n\n{footer}" for number in range(50)]
    item = lines(tmp_path / "a.jsonl", *texts, footer)
    corpus = corpus_of(item, duplicates={"paragraphs": True, "min_paragraph_words": 4})
    found = [d.text for split in ("train", "validation") for d in read_documents(corpus, split)]
    assert sum(footer in text for text in found) == 1
    assert sum(text.startswith("text number") for text in found) == 50
    assert corpus.counts["duplicates"]["paragraphs"] == 50
    alone = len(found) == 51
    assert corpus.counts["skipped"] == ({} if alone else {"duplicate paragraphs": 1})


def test_documents_with_evaluation_items_are_left_out_and_reported(corpus_of: Corpus, tmp_path: Path) -> None:
    questions = [" ".join(f"question{number}word{place}" for place in range(15)) for number in range(3)]
    (tmp_path / "exam.txt").write_text("\n".join([*questions, "too short"]))
    texts = [f"document number {number} of many" for number in range(40)]
    texts[7] = f"before\n{questions[1].upper()} after"
    item = {**lines(tmp_path / "a.jsonl", *texts), "id_column": ""}
    against = {"against": [{"name": "exam", "path": str(tmp_path / "exam.txt")}]}
    corpus = corpus_of(item, decontamination=against, unit_bytes=1_000)
    assert corpus.counts["skipped"] == {"contaminated": 1}
    assert corpus.counts["decontamination"] == {
        "checked": 40, "dropped": 1, "cut": 0, "entries": 9,
        "evaluations": {"exam": {"items": 4, "unchecked": 1, "found": 1}},
    }  # fmt: skip
    report = json.loads(corpus.file("contamination.json").read_text())["evaluations"]["exam"]
    assert report["clean_items"] == ["1", "3"]
    before = sum(len(line) for line in (tmp_path / "a.jsonl").read_bytes().splitlines(keepends=True)[:7])
    assert report["hits"]["2"]["example"]["document"] == f"jsonl/a.jsonl:@{before}"
    assert clean_items(corpus, "exam") == {"1", "3"}
    (tmp_path / "exam.txt").write_text("\n".join(questions[:1]))
    with pytest.raises(UserError, match=r"decontamination"):
        corpus_of(item, decontamination=against, unit_bytes=1_000)


def test_synthetic_text_says_what_wrote_it(corpus_of: Corpus, tmp_path: Path) -> None:
    made = {"generator": "a model", "version": "3", "filter": "none"}
    item = lines(tmp_path / "a.jsonl", *(f"text {number}" for number in range(40)))
    corpus = corpus_of({**item, "synthetic": made})
    expected = {"synthetic_generator": "a model", "synthetic_version": "3", "synthetic_filter": "none"}
    assert all(expected.items() <= d.metadata.items() for d in read_documents(corpus, "train"))
    assert corpus.counts["sources"]["jsonl"]["synthetic"] == made


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_texts_about_one_thing_are_held_out_together(corpus_of: Corpus, tmp_path: Path, kind: str) -> None:
    sources = []
    for name in ("questions", "reasons"):
        path = tmp_path / f"{name}.{kind}"
        rows = [{"id": f"{name}{n}", "about": f"thing {n}", "text": f"{name} on {n}"} for n in range(80)]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        more = {"id_column": "id", "split_column": "about", "licence": "CC0-1.0"}
        sources.append({"kind": kind, "name": name, "path": str(path), **more})
    corpus = corpus_of(*sources)
    held_out = [document.text.split(" on ") for document in read_documents(corpus, "validation")]
    numbers = {name: {n for who, n in held_out if who == name} for name in ("questions", "reasons")}
    assert numbers["questions"] == numbers["reasons"] != set()
    assert len(numbers["reasons"]) < 80


def test_a_column_to_split_by_must_be_there(corpus_of: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column about; name one of text with split_column"):
        corpus_of({**lines(tmp_path / "a.jsonl", "x", "y"), "split_column": "about"})
