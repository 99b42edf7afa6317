"""A corpus made by real processes that are killed at random instants: what comes in the end is the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slm.core.artifact import open_artifact
from tests.unmeasured import unmeasured

ROOT = Path(__file__).parents[2]
DOCUMENTS = 6_000
KILLS = 8


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 5 MB of JSON Lines with repeated and empty documents, in files that units cut in the middle."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    for number in range(3):
        with (folder / f"{number}.jsonl").open("w") as stream:
            for row in range(DOCUMENTS // 3):
                repeated = draw.random() < 0.05
                words = ["again"] * draw.randint(1, 9) if repeated else [str(draw.random()) for _ in range(45)]
                stream.write(json.dumps({"text": "" if row % 97 == 0 else " ".join(words)}) + "\n")
    return folder


def words(texts: Path, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "slm.corpus", f"runs_dir={folder}", "run=r", "corpus.unit_bytes=120000",
        f"corpus.sources=[{{kind: jsonl, path: {texts}, licence: MIT}}]", *more,
    ]  # fmt: skip


def made(folder: Path) -> dict[str, bytes]:
    artifact = open_artifact(folder / "r" / "corpus", "corpus", verify="full")
    return {name: artifact.file(name).read_bytes() for name in artifact.manifest["files"]}


@pytest.fixture(scope="module")
def whole(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The corpus made without a break, and the seconds that took."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    subprocess.run(words(texts, folder), check=True, capture_output=True)
    return folder, time.monotonic() - began


@pytest.mark.parametrize("settings", [[], ["corpus.workers=2"]], ids=["alone", "two workers"])
def test_killed_at_random_instants_it_comes_to_the_same_bytes(
    texts: Path, whole: tuple[Path, float], tmp_path: Path, settings: list[str]
) -> None:
    draw, landed, units_seen = random.Random(len(settings)), 0, set()
    units = tmp_path / "r" / "corpus.units"
    for _ in range(KILLS):
        process = subprocess.Popen(
            words(texts, tmp_path, *settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + whole[1] * 3
        count = len(list(units.glob("*"))) if units.exists() else 0
        target = count + draw.randint(1, 3)  # so that some units come to be between two kills
        while process.poll() is None and time.monotonic() < deadline:
            now = len(list(units.glob("*"))) if units.exists() else 0
            if now >= target:
                break
            time.sleep(draw.random() * 0.02)
        time.sleep(draw.random() * 0.05)
        if process.poll() is None:
            process.kill()  # its workers notice by themselves
            landed += 1
        process.wait()
        units_seen.add(len([path for path in units.glob("*") if ".tmp-" not in path.name]))
        assert not (tmp_path / "r" / "corpus" / "manifest.json").exists() or process.returncode == 0
    done = subprocess.run(words(texts, tmp_path, *settings), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert made(tmp_path) == made(whole[0])
    assert landed >= 5
    assert len(units_seen) >= 3, units_seen
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_parts_by_separate_commands_come_to_the_same_bytes(
    texts: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    commands = [words(texts, tmp_path, f"corpus.part={number}/3") for number in range(3)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    printed = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert all("the same command without corpus.part" in text for text in printed)
    assert not (tmp_path / "r" / "corpus").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "r" / "corpus.units").iterdir()}
    subprocess.run(words(texts, tmp_path), check=True, capture_output=True)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "r" / "corpus.units").iterdir()} == before
    assert made(tmp_path) == made(whole[0])


def is_alive(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_asked_to_stop_it_leaves_with_85_no_worker_behind_and_goes_on(
    texts: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    units = tmp_path / "r" / "corpus.units"
    process = subprocess.Popen(
        words(texts, tmp_path, "corpus.workers=2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=unmeasured(),
    )  # fmt: skip
    while process.poll() is None and not (units.exists() and list(units.glob("*"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    message = process.communicate()[1]
    assert process.returncode == 85, message
    assert "stopped (SIGTERM): everything already made is kept" in message
    deadline = time.monotonic() + 60
    while is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(process.pid)
    subprocess.run(words(texts, tmp_path), check=True, capture_output=True)
    assert made(tmp_path) == made(whole[0])


def test_a_task_of_a_job_array_makes_its_part(texts: Path, whole: tuple[Path, float], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (tmp_path / "bin" / "srun").chmod(0o755)
    script = ROOT / "scripts" / "slurm" / "parts.sbatch"

    def task(number: int, first: int = 0) -> subprocess.CompletedProcess[str]:
        variables = {
            **os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLM_ROOT": str(ROOT),
            "SLM_PYTHON": sys.executable, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_MIN": str(first),
            "SLURM_ARRAY_TASK_MAX": "1", "SLURM_JOB_END_TIME": str(int(time.time()) + 600),
        }  # fmt: skip
        line = ["bash", str(script), *words(texts, tmp_path / "runs")[3:]]
        return subprocess.run(line, env=variables, capture_output=True, text=True, check=False)

    assert "parts are numbered from 0; submit it with --array=0-N" in task(1, first=1).stderr
    for number in (0, 1):
        done = task(number)
        assert f"corpus: part {number}/2 is made" in done.stdout, done.stderr
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "runs" / "r" / "corpus.units").iterdir()}
    subprocess.run(words(texts, tmp_path / "runs"), check=True, capture_output=True)
    units = tmp_path / "runs" / "r" / "corpus.units"
    assert {path.name: path.stat().st_mtime_ns for path in units.iterdir()} == before
    assert made(tmp_path / "runs") == made(whole[0])


LIMITED = """
import json, resource, sys
import slm.corpus, slm.corpus.tables, slm.corpus.duplicates.ranges
from slm.compose import load_recipe
slm.corpus.tables.ROW_GROUP_BYTES, slm.corpus.tables.BATCH_BYTES = 1 << 20, 1 << 18
slm.corpus.duplicates.ranges.RANGE_BYTES = 1 << 20
warm, room, *words = sys.argv[1:]
slm.corpus.run(load_recipe(*words, "run=warm", f"corpus.sources=[{{kind: jsonl, path: {warm}, licence: MIT}}]"))
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + int(room)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
slm.corpus.run(load_recipe(*words))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss knows the parent's too
print(json.dumps({"peak": int(peak.split()[1]) * 1024}))
"""


def limited(folder: Path, texts: Path, room: int) -> subprocess.CompletedProcess[str]:
    """The corpus under a hard limit of so many bytes of address space beyond what making a tiny one took."""
    write_texts(texts.with_name(f"{texts.name}-warm"), 1)
    arguments = words(texts, folder, "corpus.unit_bytes=2000000")[3:]
    # A fixed threshold: glibc otherwise raises it to what was freed, and large blocks then leave holes in the heap.
    variables = {
        **os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", LIMITED, f"{texts}-warm", str(room), *arguments], capture_output=True, text=True,
        check=False, env=variables,
    )  # fmt: skip


def write_texts(path: Path, megabytes: int) -> None:
    """Documents of random words: about as many bytes as asked for, hardly compressible, all different."""
    draw = random.Random(megabytes)
    path.mkdir()
    with (path / "a.jsonl").open("w") as stream:
        for _ in range(megabytes * 250):
            stream.write(json.dumps({"text": draw.randbytes(1_950).hex()}) + "\n")


def test_a_corpus_ten_times_the_memory_limit_is_made_under_it_at_the_peak_of_a_small_one(tmp_path: Path) -> None:
    room = 54 << 20
    peaks = []
    for megabytes in (52, 550):
        write_texts(tmp_path / f"texts{megabytes}", megabytes)
        done = limited(tmp_path / f"runs{megabytes}", tmp_path / f"texts{megabytes}", room)
        assert done.returncode == 0, done.stdout + done.stderr
        peaks.append(json.loads(done.stdout.splitlines()[-1])["peak"])
    assert peaks[1] < peaks[0] * 1.1, peaks
