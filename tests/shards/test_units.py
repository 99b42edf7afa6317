from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import slm.corpus
import slm.shards
import slm.tokenizer
from slm.core.artifact import Artifact, open_artifact
from slm.core.errors import DamagedError, UserError
from slm.corpus import read_documents, tables
from slm.recipe import Recipe, build_recipe
from slm.shards import units as module
from slm.shards.stage import units_folder
from slm.shards.units import ShardsWork, plan, read_unit
from slm.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]


def recipe_in(base: Path, run: str, **shards: Any) -> Recipe:
    made = {stage: str(base / "runs" / "made" / stage) for stage in ("corpus", "tokenizer")} if run != "made" else {}
    return build_recipe(
        {
            "run": run,
            "runs_dir": str(base / "runs"),
            "artifacts": made,
            "corpus": {
                "sources": [
                    {"kind": "jsonl", "name": name, "path": str(base / f"{name}.jsonl"), "licence": "MIT"}
                    for name in ("code", "prose")
                ],
                "validation_fraction": 0.1,
            },
            "tokenizer": {"vocab_size": 330, "threads": 1, "sample_bytes": 200_000},
            "model": {"vocab_size": 330, "max_seq_len": 64},
            "shards": {"seq_len": 64, "unit_bytes": 50_000, "threads": 1, **shards},
            "train": {"batch_tokens": 512},
        }
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 1.6 MB in row groups of 20 kB, with its tokenizer, and its shards made without a break."""
    folder, draw = tmp_path_factory.mktemp("units"), random.Random(0)
    for name in ("code", "prose"):
        with (folder / f"{name}.jsonl").open("w") as stream:
            for _ in range(1_600):
                words = draw.choices(["def", "return", "für", "the", "世界", "of", "\n", "42"], k=draw.randint(3, 200))
                stream.write(json.dumps({"text": f"{draw.random()} " + " ".join(words)}) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROW_GROUP_BYTES", 20_000)
        slm.corpus.run(recipe_in(folder, "made"))
    slm.tokenizer.run(recipe_in(folder, "made"))
    slm.shards.run(recipe_in(folder, "whole"))
    return folder


def made(base: Path, run: str) -> Artifact:
    return open_artifact(base / "runs" / run / "shards", "shards", verify="full")


def work_of(base: Path, root: Path, unit_bytes: int) -> ShardsWork:
    recipe = recipe_in(base, "any", unit_bytes=unit_bytes)
    corpus, tokenizer = recipe.artifact("corpus"), recipe.artifact("tokenizer")
    units = plan(corpus, tokenizer, unit_bytes)
    return ShardsWork(recipe.shards, units, root, tokenizer.path)


@pytest.mark.parametrize("unit_bytes", [1_000, 300_000, 64_000_000])
def test_units_of_any_size_hold_every_document_once_in_the_order_of_the_corpus(
    base: Path, tmp_path: Path, unit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_DOCUMENTS", 7)
    monkeypatch.setattr(module, "BATCH_TOKENS", 3_000)
    work = work_of(base, tmp_path, unit_bytes)
    corpus = recipe_in(base, "any").artifact("corpus")
    tokenizer = Tokenizer.load(work.tokenizer)
    assert len({unit.key for unit in work.units}) == len(work.units)
    assert (len(work.units) == 2) is (unit_bytes == 64_000_000)
    told: list[tuple[int, int]] = []
    counted = sum(work.make(unit, lambda *amount: told.append(amount)) for unit in work.units)
    assert counted == sum(corpus.counts[split]["documents"] for split in ("train", "validation"))
    assert told
    found = [document for unit in work.units for document in read_unit(tmp_path, unit)]
    expected = [document for split in ("train", "validation") for document in read_documents(corpus, split)]
    assert [(one.id, one.source, one.licence) for one in found] == [(d.id, d.source, d.licence) for d in expected]
    assert [one.num_bytes for one in found] == [len(document.text.encode()) for document in expected]
    assert found[0].ids_T.dtype == np.int32
    for one, document in list(zip(found, expected, strict=True))[::97]:
        assert one.ids_T.tolist() == tokenizer.encode(document.text, bos=True, eos=True)


def test_a_key_follows_the_tokenizer_and_the_corpus_and_not_the_packing(base: Path) -> None:
    corpus = recipe_in(base, "any").artifact("corpus")
    tokenizers = [Artifact(base, {"counts": {"hash": value}}) for value in ("a", "a", "b")]
    keys = [[unit.key for unit in plan(corpus, tokenizer, 100_000)] for tokenizer in tokenizers]
    assert keys[0] == keys[1]
    assert not set(keys[0]) & set(keys[2])


def test_a_flipped_bit_in_a_unit_is_named(base: Path, tmp_path: Path) -> None:
    work = work_of(base, tmp_path, 64_000_000)
    work.make(work.units[1], lambda *_: None)
    file = tmp_path / work.units[1].key / module.TOKENS
    content = file.read_bytes()
    file.write_bytes(content[:900] + bytes([content[900] ^ 1]) + content[901:])
    with pytest.raises(DamagedError, match=r"tokens.arrow is damaged: .*; delete .* and run the same command again"):
        list(read_unit(tmp_path, work.units[1]))


def test_units_are_kept_only_if_asked_for_and_then_serve_rows_of_another_length(base: Path) -> None:
    recipe = recipe_in(base, "kept", keep_units=True, unit_bytes=300_000)
    slm.shards.run(recipe)
    before = {path.name: path.stat().st_mtime_ns for path in units_folder(recipe).iterdir()}
    assert len(before) > 4
    shorter = recipe_in(base, "kept", keep_units=True, unit_bytes=300_000, seq_len=32)
    slm.shards.run(shorter.model_copy(update={"redo": True}))
    assert {path.name: path.stat().st_mtime_ns for path in units_folder(recipe).iterdir()} == before
    assert made(base, "kept").fingerprint != made(base, "whole").fingerprint
    assert not units_folder(recipe_in(base, "whole")).exists()


@pytest.mark.parametrize(("total", "workers", "unit_bytes"), [(3, 1, 1_000), (2, 2, 200_000)])
def test_parts_and_workers_of_any_number_come_to_the_same_shards(
    base: Path, total: int, workers: int, unit_bytes: int
) -> None:
    run = f"parts-{workers}"
    for number in reversed(range(total)):
        asked = recipe_in(base, run, part=f"{number}/{total}", workers=workers, unit_bytes=unit_bytes)
        assert slm.shards.run(asked) is None
        assert not asked.folder("shards").exists()
    there = {path.name: path.stat().st_mtime_ns for path in units_folder(asked).iterdir()}
    kept = recipe_in(base, run, unit_bytes=unit_bytes, keep_units=True)
    slm.shards.run(kept)
    assert {path.name: path.stat().st_mtime_ns for path in units_folder(asked).iterdir()} == there
    assert made(base, run).fingerprint == made(base, "whole").fingerprint


def test_a_part_counts_from_zero(base: Path) -> None:
    with pytest.raises(UserError, match=r"shards.part \(3/3\) counts from 0: the parts of 3 are 0/3 to 2/3"):
        slm.shards.run(recipe_in(base, "wrong", part="3/3"))


def words(base: Path, run: str, *more: str) -> list[str]:
    places = [f"artifacts.{stage}={base}/runs/made/{stage}" for stage in ("corpus", "tokenizer")]
    return [
        f"runs_dir={base}/runs", f"run={run}", *places, "model.vocab_size=330", "model.max_seq_len=64",
        "shards.seq_len=64", "shards.unit_bytes=20000", "shards.threads=1", "tokenizer.vocab_size=330", *more,
    ]  # fmt: skip


@pytest.mark.parametrize(("workers", "kills"), [(1, 4), (2, 3)])
def test_killed_at_random_instants_it_comes_to_the_same_bytes(base: Path, workers: int, kills: int) -> None:
    draw, run, landed, seen = random.Random(workers), f"killed-{workers}", 0, set()
    line = [sys.executable, "-m", "slm.shards", *words(base, run, f"shards.workers={workers}")]
    units = base / "runs" / run / "shards.units"

    def finished() -> int:
        return len([path for path in units.glob("*") if ".tmp-" not in path.name])

    for _ in range(kills):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        target = finished() + draw.randint(1, 12)
        while process.poll() is None and finished() < target:
            time.sleep(draw.random() * 0.01)
        time.sleep(draw.random() * 0.02)
        if process.poll() is None:
            landed += 1
            os.killpg(process.pid, signal.SIGKILL) if draw.random() < 0.5 else process.kill()
        process.wait()
        seen.add(finished())
    assert landed >= kills - 1
    assert len(seen) >= 3, seen
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert made(base, run).fingerprint == made(base, "whole").fingerprint
    assert not list((base / "runs" / run).glob("*.tmp-*"))
    assert not units.exists()


def test_a_task_of_a_job_array_tokenizes_its_part(base: Path, tmp_path: Path) -> None:
    (tmp_path / "srun").write_text('#!/bin/bash\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    for number in (0, 1):
        variables = {
            **os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLM_ROOT": str(ROOT), "SLM_STAGE": "shards",
            "SLM_PYTHON": sys.executable, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_MIN": "0",
            "SLURM_ARRAY_TASK_MAX": "1", "SLURM_JOB_END_TIME": str(int(time.time()) + 600),
        }  # fmt: skip
        line = ["bash", str(ROOT / "scripts" / "slurm" / "parts.sbatch"), *words(base, "array")]
        done = subprocess.run(line, env=variables, capture_output=True, text=True, check=False)
        assert f"shards: part {number}/2 is made" in done.stdout, done.stderr
    slm.shards.run(recipe_in(base, "array", unit_bytes=20_000))
    assert made(base, "array").fingerprint == made(base, "whole").fingerprint
