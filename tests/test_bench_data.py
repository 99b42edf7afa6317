"""The benchmark of the data engine: its text is made alike each time, and its parts measure what they say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SETTINGS = {"cpu_seconds": True, "rounds": 1, "seed": 3}


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def parts() -> ModuleType:
    return load("bench_data_parts")


def test_text_is_a_function_of_its_seed_and_holds_what_the_pipeline_removes(parts: ModuleType) -> None:
    one, other, third = (parts.Writer(seed) for seed in (1, 1, 2))
    texts = [one.document() for _ in range(400)]
    assert texts == [other.document() for _ in range(400)]
    assert texts[:5] != [third.document() for _ in range(5)]
    assert 400 - 60 < len(set(texts)) < 400 - 5  # one in twenty is a copy
    assert 3 < sum(text.replace("\n", "").isdigit() for text in texts) < 30
    prose = next(text for text in texts if len(text) > 800 and "." in text and "changed" not in text)
    sentences = prose.replace("\n", " ").split(". ")
    assert len(sentences) > 4
    assert all(sentence[0].isupper() for sentence in sentences[:-1])  # the last may be one word
    assert max(len(sentence.split()) for sentence in sentences) <= 23


def test_a_file_has_about_the_bytes_asked_for(parts: ModuleType, tmp_path: Path) -> None:
    found = parts.write_parquet({**SETTINGS, "bytes": 300_000, "path": str(tmp_path / "a.parquet")})
    table = pq.read_table(tmp_path / "a.parquet")
    assert sum(len(text.encode()) for text in table["text"].to_pylist()) == found["bytes"]
    assert 300_000 <= found["bytes"] < 400_000
    assert table.num_rows == found["documents"] == len(set(table["id"].to_pylist()))


def test_sides_take_turns_and_the_first_turn_is_not_counted(parts: ModuleType) -> None:
    calls: list[str] = []

    def side(name: str, seconds: float) -> None:
        time.sleep(seconds if name in calls else 0.2)
        calls.append(name)

    settings = {**SETTINGS, "cpu_seconds": False}
    one, other = parts.alternate(3, settings, lambda: side("a", 0.01), lambda: side("b", 0.03))
    assert calls == ["a", "b"] * 4
    assert 0.01 <= one < other < 0.2


def test_the_profile_books_time_on_the_function_that_spends_it(parts: ModuleType) -> None:
    from slm.core import seeds

    with parts.Profile() as profile:
        until = time.process_time() + 0.3
        while time.process_time() < until:
            seeds.derive(1, "x", 2)
    assert sum(profile.seconds.values()) == pytest.approx(0.3, abs=0.15)
    assert profile.seconds["slm.core.seeds.derive"] > 0.1


def test_the_pipeline_is_measured_with_an_evaluation_that_its_text_holds(parts: ModuleType, tmp_path: Path) -> None:
    made = parts.write_parquet({**SETTINGS, "bytes": 300_000, "path": str(tmp_path / "a.parquet")})
    words = ["tokenizer.vocab_size=400", "model.vocab_size=400", "corpus=web", "corpus.validation_fraction=0.2"]
    settings = {**SETTINGS, "path": str(tmp_path / "a.parquet"), "runs": str(tmp_path), "run": "r", "tokenizer": ""}
    found = parts.pipeline({**settings, "words": words})
    assert found["skipped"]["contaminated"] >= 15
    assert {reason.partition("/")[0] for reason in found["skipped"]} > {"duplicate", "gopher_quality"}
    assert 0 < found["kept_bytes"] < made["bytes"]
    assert found["tokens"] > found["kept_bytes"] / 20
    assert sum(found["profile"].values()) == pytest.approx(sum(found["seconds"].values()), rel=0.3)


def test_every_step_for_web_pages_has_a_rate(parts: ModuleType) -> None:
    rates = parts.cleaning({**SETTINGS, "bytes": 100_000})["rates"]
    steps = {"unicode", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality", "pii", "words"}
    assert rates.keys() == steps
    assert all(rate > 0.1 for rate in rates.values())


def test_packing_is_measured_on_rows_that_are_full_and_lose_nothing(parts: ModuleType) -> None:
    found = parts.packing(SETTINGS)
    for length in (512, 2048):
        assert found[f"used_{length}"] > 0.999
        assert found[f"lost_{length}"] == 0
        assert found[f"rate_{length}"] > 1_000


def test_the_loader_is_measured_on_shards_of_its_own(parts: ModuleType, tmp_path: Path) -> None:
    rate = parts.loader_rate(tmp_path, 256, {**SETTINGS, "tokens": 200_000, "loader_seconds": 0.1})
    assert rate > 10_000


def test_the_command_prints_a_table_and_judges(tmp_path: Path) -> None:
    words = ["--only", "packing", "--rounds", "1", "--check", "--curves", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_data.py"), *words], capture_output=True, text=True, check=False
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == int(bool(found["missed"])), done.stderr
    assert found["packing_lost_tokens"] == 0
    assert "met    packing_used" in done.stdout
    assert "tokens lost" in done.stdout


def test_an_unknown_part_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "bench_data.py"), "--only", "encode,pakcing"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pakcing: no such part; there are pipeline, web, cleaning, encode" in done.stderr
