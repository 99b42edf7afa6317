"""Bad input, full disks and failing remotes, from the command line: a sentence with the place, or a count."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.core import store
from slm.core.artifact import Artifact, open_artifact
from slm.core.errors import UserError
from slm.corpus import read_documents
from slm.corpus.sources import files
from slm.recipe import Recipe
from tests.conftest import ObjectServer

Corpus = Callable[..., Artifact]


def slm_corpus(folder: Path, source: str, *more: str) -> subprocess.CompletedProcess[str]:
    words = [
        f"runs_dir={folder}",
        "run=r",
        "corpus.validation_fraction=0.2",
        f"corpus.sources=[{{{source}, licence: MIT}}]",
        *more,
    ]
    return subprocess.run(
        [sys.executable, "-m", "slm.corpus", *words], capture_output=True, text=True, check=False, cwd=folder
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def write_bad(folder: Path) -> dict[str, tuple[Path, str, str, Counter[str]]]:
    """Each kind of bad input: its file, kind of source, the sentence about it, and what is counted in its place."""
    good = [f"document number {number}" for number in range(30)]
    lines = "".join(json.dumps({"text": text, "key": text[-2:]}) + "\n" for text in good)

    def jsonl(name: str, extra: bytes) -> Path:
        path = folder / f"{name}.jsonl"
        path.write_bytes(lines.encode() + extra)
        return path

    whole = folder / "whole.parquet"
    pq.write_table(pa.table({"text": good}), whole, compression="none")
    footer, column = folder / "footer.parquet", folder / "column.parquet"
    footer.write_bytes(whole.read_bytes()[:-40])
    pq.write_table(pa.table({"body": good}), column)
    bad_bytes = jsonl("bytes", b'{"text": "b\xe4d"}\n')
    return {
        "bytes": (bad_bytes, "jsonl", r"bytes.jsonl:31: byte 0xe4 at offset", Counter({"not UTF-8": 1})),
        "broken": (jsonl("broken", b'{"text": "a'), "jsonl", "broken.jsonl:31: not JSON", Counter({"not JSON": 1})),
        "lost": (jsonl("lost", b'{"body": ""}\n'), "jsonl", "lost.jsonl:31: no column text", Counter({"no column": 1})),
        "long": (jsonl("long", json.dumps({"text": "x" * 100_000_001}).encode()), "jsonl",
                 "long.jsonl:31: a document of 100,000,001 bytes, over corpus.max_document_bytes (64,000,000); cut it",
                 Counter({"too long": 1})),
        "footer": (footer, "parquet", "footer.parquet is not readable as Parquet from row 0 on",
                   Counter({"damaged file": 1})),
        "column": (column, "parquet", "column.parquet: no column text; name one of body with text_columns",
                   Counter({"no column": 30})),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bytes", "broken", "lost", "long", "footer", "column"])
def test_bad_input_is_named_in_one_sentence_or_counted_and_the_rest_is_kept(tmp_path: Path, name: str) -> None:
    path, kind, sentence, counts = write_bad(tmp_path)[name]
    place = tmp_path / "in"
    place.mkdir()
    path.rename(place / path.name)
    (place / f"good.{kind}").write_bytes((tmp_path / "whole.parquet").read_bytes() if kind == "parquet" else GOOD)
    message = refused(slm_corpus(tmp_path, f"kind: {kind}, path: {place}"))
    assert sentence in message
    assert "corpus.on_bad_text=skip" in message
    done = slm_corpus(tmp_path, f"kind: {kind}, path: {place}", "corpus.on_bad_text=skip")
    assert done.returncode == 0, done.stderr
    found = open_artifact(tmp_path / "r" / "corpus").counts
    assert found["skipped"] == counts
    (reason,) = counts
    assert path.name in found["places"][reason][0]
    assert found["sources"][kind]["documents"] == 30 + (30 if kind == "jsonl" else 0)


GOOD = b"".join(b'{"text": "another document %d"}\n' % number for number in range(30))


def test_repeated_ids_empty_and_null_texts(corpus_of: Corpus, tmp_path: Path) -> None:
    texts = [None, "", " \n", *(f"text {number}" for number in range(30))]
    pq.write_table(pa.table({"text": texts, "key": [str(n % 31) for n in range(33)]}), tmp_path / "a.parquet")
    item = {"kind": "parquet", "path": str(tmp_path / "a.parquet"), "licence": "MIT", "id_column": "key"}
    corpus = corpus_of(item)  # the ids of two empty documents stand twice, which harms nobody
    assert corpus.counts["skipped"] == {"empty": 3}
    assert corpus.counts["sources"]["parquet"]["documents"] == 30
    pq.write_table(pa.table({"text": texts, "key": [str(n % 30) for n in range(33)]}), tmp_path / "a.parquet")
    corpus = corpus_of(item, run="again")
    pq.write_table(pa.table({"text": texts[3:], "key": [str(n % 29) for n in range(30)]}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"the id parquet/0 stands 2 times with different texts \(again in a.parquet: 'text 29'\)"
    ):
        corpus_of(item, run="third")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_named_and_with_more_room_it_goes_on_to_the_same_bytes(
    small_disk: Callable[[int], Path], tmp_path: Path, workers: int
) -> None:
    with (tmp_path / "a.jsonl").open("w") as stream:
        for number in range(2_000):
            stream.write(json.dumps({"text": " ".join(str(hash((number, n))) for n in range(40))}) + "\n")
    disk = small_disk(500)
    source, more = f"kind: jsonl, path: {tmp_path}/a.jsonl", ["corpus.unit_bytes=100000", f"corpus.workers={workers}"]
    message = refused(slm_corpus(disk, source, *more))
    assert "the disk filled up while writing" in message
    assert "run the same command again" in message
    units = disk / "r" / "corpus.units"
    finished = {path.name for path in units.iterdir()}
    assert finished
    assert not [name for name in finished if ".tmp-" in name]
    assert not (disk / "r" / "corpus").exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    before = {path.name: path.stat().st_mtime_ns for path in units.iterdir()}
    done = slm_corpus(disk, source, *more)
    assert done.returncode == 0, done.stderr
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in units.iterdir()}.items()
    (tmp_path / "elsewhere").mkdir()
    assert slm_corpus(tmp_path / "elsewhere", source, *more).returncode == 0
    one, two = (open_artifact(folder / "r" / "corpus") for folder in (disk, tmp_path / "elsewhere"))
    assert one.fingerprint == two.fingerprint


@pytest.fixture
def bucket(s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ObjectServer, Path]:
    """The same three files in a folder and in a bucket, whose reads go in blocks of 20 kB."""
    texts = [f"{kind} document {n} " + str(n**40) for kind in ("plain", "packed", "columns") for n in range(600)]
    here = tmp_path / "here"
    here.mkdir()
    rows = [(json.dumps({"text": text}) + "\n").encode() for text in texts]
    (here / "a.jsonl").write_bytes(b"".join(rows[:600]))
    (here / "b.jsonl.zst").write_bytes(pa.compress(b"".join(rows[600:1_200]), codec="zstd", asbytes=True))
    pq.write_table(pa.table({"text": texts[1_200:]}), here / "c.parquet", row_group_size=200)
    for file in here.iterdir():
        s3.ask("PUT", f"/{s3.bucket}/texts/{file.name}", file.read_bytes())
    monkeypatch.setattr(files, "BLOCK_BYTES", 20_000)
    monkeypatch.setattr(store, "FIRST_WAIT_SECONDS", 0.001)
    return s3, here


def sources_at(place: str) -> list[dict[str, object]]:
    facts = {"licence": "MIT", "origin": "a test"}
    return [
        {"kind": "jsonl", "path": place, "name": "lines", **facts},
        {"kind": "parquet", "path": f"{place}/*.parquet", "name": "columns", **facts},
    ]


def texts_of(corpus: Artifact) -> list[tuple[str, str]]:
    return [(d.id, d.text) for split in ("train", "validation") for d in read_documents(corpus, split)]


def test_a_bucket_reads_as_a_folder_even_when_requests_fail_in_the_middle(
    corpus_of: Corpus, bucket: tuple[ObjectServer, Path]
) -> None:
    server, here = bucket
    local = texts_of(corpus_of(*sources_at(str(here)), run="local"))
    seen: Counter[str] = Counter()

    def fault(request: str) -> int:
        if not request.startswith("GET") or "list-type" in request:
            return 0
        seen["reads"] += 1
        return 503 if seen["reads"] % 3 == 2 else 0

    server.fault = fault
    remote = corpus_of(*sources_at(f"s3://{server.bucket}/texts"), run="remote", unit_bytes=30_000)
    assert seen["reads"] > 15
    assert sorted(text for _, text in texts_of(remote)) == sorted(text for _, text in local)
    assert len(local) == 1_800


def test_a_connection_that_breaks_in_the_middle_of_an_answer_harms_no_document(
    corpus_of: Corpus, bucket: tuple[ObjectServer, Path]
) -> None:
    server, here = bucket
    packed = gzip.compress("\n\n".join(f"story {n} " + str(n**40) for n in range(900)).encode())
    (here / "d.txt.gz").write_bytes(packed)
    server.ask("PUT", f"/{server.bucket}/texts/d.txt.gz", packed)
    broken: Counter[str] = Counter()
    last = {"": ""}

    def fault(request: str) -> int:
        name = request.partition("?")[0].rpartition(".")[2]
        if not request.startswith("GET") or "list-type" in request or broken[name] > 6 or last[""] == name:
            last[""] = ""
            return 0
        broken[name] += 1
        last[""] = name
        return -1_000

    def sources(place: str) -> list[dict[str, object]]:
        more = {"kind": "text", "path": f"{place}/d.txt.gz", "separator": r"\n\n", "licence": "MIT", "origin": "a test"}
        return [*sources_at(place), more]

    local = texts_of(corpus_of(*sources(str(here)), run="local"))
    server.fault = fault
    remote = texts_of(corpus_of(*sources(f"s3://{server.bucket}/texts"), run="remote"))
    assert remote == local
    assert len(local) == 2_700
    assert all(broken[name] > 1 for name in ("jsonl", "zst", "parquet", "gz")), broken


def test_a_bucket_that_stays_away_is_one_sentence(
    recipe_of: Callable[..., Recipe], corpus_of: Corpus, bucket: tuple[ObjectServer, Path]
) -> None:
    server, _ = bucket
    reads: Counter[str] = Counter()

    def fault(request: str) -> int:
        reads["all"] += "GET" in request and "list-type" not in request
        return 503 if reads["all"] > 4 else 0

    server.fault = fault
    sources = sources_at(f"s3://{server.bucket}/texts")
    with pytest.raises(
        UserError, match=r"s3://bucket-\d+/texts/.* cannot be read from byte [\d,]+ on \(.*look at the n"
    ):
        corpus_of(*sources, unit_bytes=30_000)
    units = recipe_of(*sources, unit_bytes=30_000).folder("corpus").with_name("corpus.units")
    kept = {path.name for path in units.iterdir()}
    server.fault = lambda _: 0
    corpus_of(*sources, unit_bytes=30_000)
    assert kept <= {path.name for path in units.iterdir()}
