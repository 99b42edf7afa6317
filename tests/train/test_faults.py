"""Kills of real processes: at many random instants, and at each named point of a save behind the steps."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter

import slm.train

KILLS = 55
HALF_WRITTEN = 6

FORK_SERVER = """
import json, os, pathlib, random, signal, sys, time

import pandas, torch._dynamo  # what a run would import on its way
import slm.train, slm.train.loop  # imported once, by a process without threads; each run is a fork of it
from slm.core.artifact import MANIFEST, git_commit, library_versions
from slm.recipe import Recipe

recipe, unbroken = (Recipe.model_validate_json(pathlib.Path(file).read_text()) for file in sys.argv[1:3])
kills, half_written, seed = map(int, sys.argv[3:6])
behind = recipe.train.checkpoints.model_copy(update={"asynchronous": True})
recipes = [recipe, recipe.model_copy(update={"train": recipe.train.model_copy(update={"checkpoints": behind})})]
folder, delays = recipe.folder("train"), random.Random(seed)

def start(which):
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        slm.train.run(which)
        os._exit(0)
    return pid

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def state():
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    steps = sorted(path.name for path in folder.glob("step-????????") if (path / MANIFEST).exists())
    pointer = (folder / "latest").read_text().strip() if (folder / "latest").exists() else ""
    return {
        "newest": steps[-1] if steps else "",
        "half written": any(".tmp-" in name and name.startswith("step") for name in names),
        "published, not yet pointed at": bool(steps) and pointer != steps[-1],
        "to be pruned": len(steps) > 2,
    }

def writing(pid):
    return any(name.startswith("step") and name.endswith(f".tmp-{pid}") for name in os.listdir(folder))

def running(pid):
    if os.waitpid(pid, os.WNOHANG)[0]:
        sys.exit(f"the run came to its end before kill {len(report) + 1}")
    return True

def rows():
    "The file of rows: a run that gets to its first step has put another in its place."
    return (folder / "metrics.jsonl").stat().st_ino if (folder / "metrics.jsonl").exists() else 0

def size(folder):
    return (folder / "metrics.jsonl").stat().st_size

library_versions(), git_commit()
pid = start(unbroken)
while not (unbroken.folder("train") / "metrics.jsonl").exists():
    time.sleep(0.001)
began = time.monotonic()
assert status(pid) == 0
steps = recipe.train.tokens // recipe.train.batch_tokens
step_seconds, step_bytes = (time.monotonic() - began) / steps, size(unbroken.folder("train")) / steps
report, ready, tries = [], 0.0, 0
while len(report) < kills or (tries < 40 and sum(kill["half written"] for kill in report) < half_written):
    before, began = rows(), time.monotonic()
    pid = start(recipes[len(report) % 2])
    if len(report) % 6 == 5:
        time.sleep(ready * delays.random())  # on its way to the first step
    else:
        while rows() == before and running(pid):
            time.sleep(0.001)
        ready, reached = time.monotonic() - began, size(folder)
        if aimed := len(report) >= kills:  # chance met too few saves: wait for one
            tries += 1
            while not writing(pid) and running(pid):
                time.sleep(0.0001)
        until = time.monotonic() + 20 * step_seconds * delays.random()
        # The size bounds it too: a machine may become faster.
        while not aimed and time.monotonic() < until and size(folder) < reached + 7 * step_bytes:
            time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    report.append({"status": status(pid), **state()})
assert status(start(recipe)) == 0
print(json.dumps({"ready": ready, "kills": report}))
"""


def test_a_run_killed_at_random_instants_equals_the_unbroken_one_bit_for_bit(make_recipe, figures, hashes, tmp_path):
    often = {"tokens": 500 * 64, "batch_tokens": 64, "micro_batch_rows": 2, "save_every_steps": 4}
    files = []
    for run in ("killed-at-random", "left-alone"):
        recipe = make_recipe(run, **often, evaluate_every_steps=30, ema_decay=0.9)
        files.append(tmp_path / f"{run}.json")
        files[-1].write_text(recipe.model_dump_json())
        if run == "killed-at-random":
            killed = recipe
    words = [sys.executable, "-c", FORK_SERVER, *map(str, files), str(KILLS), str(HALF_WRITTEN), "20261121"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    kills = told["kills"]
    assert [kill["status"] for kill in kills] == [-signal.SIGKILL] * len(kills), "it came to its end too early"
    found = Counter(name for kill in kills for name, held in kill.items() if held is True)
    steps = len({kill["newest"] for kill in kills})
    first = f"{told['ready']:.2f} s to the first step"
    print(f"\n{len(kills)} kills, {first}, {steps} checkpoints gone on from, {dict(found)}")
    assert len(kills) >= KILLS
    assert steps > 5
    assert found["half written"] >= HALF_WRITTEN
    assert figures(killed) == figures(recipe)
    assert hashes(killed) == hashes(recipe)


def test_a_run_killed_at_every_point_of_a_save_behind_the_steps_equals_the_unbroken_one(
    make_recipe, unbroken, figures, hashes, train_until_killed
):
    recipe = make_recipe("killed-behind", checkpoints={"asynchronous": True})
    for point, number in [
        ("snapshot", 1),  # the first save's tensors are being copied
        ("write", 2),  # in the thread, in the middle of the files
        ("manifest", 1),  # files flushed, no manifest yet
        ("rename", 1),  # flushed, not yet renamed into place
        ("latest", 1),  # published, but not yet pointed at
        ("snapshot", 2),  # the second save's, the first being published or not
        ("prune", 1),  # while the oldest is deleted
        ("evaluate", 1),
    ]:
        train_until_killed(recipe, point, number)
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)
    mine, others = (sorted(path.name for path in run.folder("train").iterdir()) for run in (recipe, unbroken))
    assert mine == others  # nothing half-written or half-deleted has stayed
