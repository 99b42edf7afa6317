"""Timing: what is counted, against a clock of the test's own; and real files in processes of their own."""

from __future__ import annotations

import mmap
import os
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from slm.recipe import Recipe
from slm.serve import timing
from slm.serve.config import ServeConfig, Timing
from slm.serve.timing import Opening, drop_cache, measure, time_all

SETTINGS = Timing(turns=1, prompt_tokens=16, answer_tokens=6)


class Metronome:
    """A back end whose prompt takes a second a token and whose answer half a second a token, by its own clock."""

    context_tokens, has_template = 64, False

    def __init__(self) -> None:
        self.now = 0.0
        self.asked: list[tuple[int, ...]] = []

    def stream(self, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Generator[str, None, tuple]:
        assert settings.temperature == 0
        self.asked.append(tuple(ids))
        self.now += len(ids)
        for number in range(max_tokens):
            self.now += 0.5 if number else 0.0
            yield "x"
        return "length", max_tokens


def test_speeds_are_tokens_by_the_seconds_that_they_took(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Metronome()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: backend.now)  # type: ignore[attr-defined]
    prompts = timing._prompts(SETTINGS, 512, 64, seed=3)
    found = measure(backend, prompts, 6)  # type: ignore[arg-type]
    assert found["first_token_seconds"] == 16
    assert found["prefill_tokens_per_second"] == 1
    assert found["decode_tokens_per_second"] == 2
    assert len(backend.asked) == 4, "6 tokens after the first need two answers of 5"
    assert len(set(backend.asked)) == 4, "an engine that keeps what it read would be timed too well"


def test_ratios_are_taken_turn_by_turn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def one(opening: Opening, *_: object) -> dict[str, object]:
        turn = len(asked) // 4  # two files, each cold and warm
        asked.append(opening.path.name)
        speed = (100 if opening.path.name == "a" else 300) / (1, 10, 2)[turn]  # the machine does something else too
        return {
            **dict.fromkeys(("load_seconds", "first_token_seconds"), 1.0),
            **dict.fromkeys(timing.RATES, speed), "joules_per_token": "no counter", "peak_bytes": 5,
        }  # fmt: skip

    monkeypatch.setattr(timing, "_measure", one)
    monkeypatch.setattr(timing, "drop_cache", lambda _: 0.25)
    openings = {name: Opening(tmp_path / name) for name in "ab"}
    found = time_all(openings, Timing(turns=3), threads=1, vocab_size=512, context=64, seed=0)
    assert asked == ["a", "a", "b", "b", "b", "b", "a", "a", "a", "a", "b", "b"]
    assert (found["b"]["decode_tokens_per_second"], found["b"]["decode_ratio"]) == (150, 3)
    assert (found["a"]["decode_tokens_per_second"], found["a"]["decode_ratio"]) == (50, 1)
    assert (found["a"]["cached_share_cold"], found["a"]["joules_per_token"]) == (0.25, "no counter")


def test_files_are_timed_in_processes_of_their_own(recipe: Recipe, places: dict[str, str], tmp_path: Path) -> None:
    openings = {
        "checkpoint": Opening(recipe.artifact("train").path),
        "gguf": Opening(Path(places["gguf"])),
        "gone": Opening(tmp_path / "gone.gguf"),
    }
    openings["gone"].path.write_bytes(b"GGUF")
    found = time_all(openings, SETTINGS, threads=1, vocab_size=512, context=2048, seed=0)
    for name in ("checkpoint", "gguf"):
        for key in ("load_seconds_cold", "first_token_seconds_warm", *timing.RATES):
            assert found[name][key] > 0, (name, key)
        assert found[name]["peak_bytes"] > 5_000_000
    assert found["checkpoint"]["decode_ratio"] == 1
    assert found["checkpoint"]["peak_bytes"] > 2 * found["gguf"]["peak_bytes"], "torch is larger than llama.cpp"
    assert "gone.gguf" in found["gone"]["unknown"]


def test_a_dropped_file_is_out_of_the_cache(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(64 * mmap.PAGESIZE))
    assert timing._resident_pages(file) == (64, 64)
    share = drop_cache([file])
    if share == 1.0:
        pytest.skip("this file system keeps its pages, as one in memory does")
    assert share < 0.5
    assert file.read_bytes()
    assert timing._resident_pages(file)[0] > 0
