"""A sample of the cases of scripts/fuzz_readers.py; and that the script finds what it is to find."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
SAMPLE = {"gguf": 600, "safetensors": 400, "manifest": 400, "model": 150}


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases() -> ModuleType:
    return load("fuzz_readers_cases")


@pytest.mark.parametrize("target", list(SAMPLE))
def test_malformed_files_end_in_an_answer_or_in_our_own_error(
    target: str, cases: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "MOST_SECONDS", 60)  # of a machine that does other things too
    mutate = cases.TARGETS[target](tmp_path)
    outcomes = [cases.run_case(mutate, target, 7, number) for number in range(SAMPLE[target])]
    others = [(number, found) for number, found in enumerate(outcomes) if found.kind not in ("answered", "refused")]
    assert not others, others[:5]
    refused = sum(found.kind == "refused" for found in outcomes)
    assert refused > 0.3 * len(outcomes)  # else the damage does not reach the readers
    assert target == "safetensors" or refused < len(outcomes)


def test_a_case_is_a_function_of_its_number(cases: ModuleType, tmp_path: Path) -> None:
    found = []
    for name, numbers in (("forth", range(20)), ("back", range(19, -1, -1))):
        (tmp_path / name).mkdir()
        mutate = cases.TARGETS["safetensors"](tmp_path / name)
        written = {}
        for number in numbers:
            cases.run_case(mutate, "safetensors", 1, number)
            newest = max((tmp_path / name).rglob("*.safetensors"), key=lambda file: file.stat().st_mtime_ns)
            written[number] = newest.read_bytes()
        found.append(written)
    assert found[0] == found[1]
    assert len(set(found[0].values())) > 15


WORKER = """
import os, json, sys, time
first, count, folder = int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
for number in range(first, first + count):
    open(f"{folder}/case", "w").write(str(number))
    if number == 3: os.abort()
    if number == 5: time.sleep(100)
    if number == 6: print(json.dumps({"case": 6, "kind": "KeyError", "where": "x"}), flush=True)
print(json.dumps({"counts": {"refused": count}, "seconds": 1.0, "slowest_seconds": 0.1}))
"""


def test_processes_that_die_or_hang_are_findings_and_the_rest_still_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = load("fuzz_readers")
    monkeypatch.setattr(driver, "SILENT_SECONDS", 1.0)
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER, encoding="utf-8")
    found = driver.fuzz("gguf", 1, 8, worker)
    assert [(item["case"], item["kind"]) for item in found["findings"]] == [
        (3, "process"), (5, "process"), (6, "KeyError"),
    ]  # fmt: skip
    driver.show("gguf", found)
    assert "3 findings" in capsys.readouterr().out


def test_a_reader_that_raises_hangs_or_takes_all_memory_is_found(
    cases: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "MOST_SECONDS", 0.05)

    def spin() -> None:
        while True:
            json.loads("[1]")

    def greedy() -> None:
        raise MemoryError

    outcomes = [cases.run_case(lambda _, read=read: read, "gguf", 1, 0) for read in (spin, greedy, lambda: {}["a"])]
    assert [outcome.kind for outcome in outcomes] == ["TooSlowError", "MemoryError", "KeyError"]
