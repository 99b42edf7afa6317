"""Real signals in real processes, in every phase: a status that a scheduler understands, the same weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import slm.train
from slm.core.errors import Stopped
from slm.recipe import Recipe
from slm.train import loop
from slm.train.checkpoint import step_folders
from slm.train.metrics import read_metrics

ROOT = Path(__file__).parents[2]

SERVER = """
import json, os, pathlib, signal, sys, time

import pandas, torch._dynamo  # what a run would import on its way
import slm.train, slm.pipeline  # imported once, by a process without threads; each run is a fork of it
import slm.train.loop as loop, slm.train.checkpoint as checkpoint, slm.train.evaluation as evaluation
import slm.train.stop as stop
from slm.compose import guarded
from slm.core.artifact import git_commit, library_versions
from slm.recipe import Recipe

def signalled(function, count, name):
    seen = 0
    def wrapped(*arguments, **named):
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), getattr(signal, name))
        return function(*arguments, **named)
    return wrapped

def arrange(phase, count, name):
    if phase == "accumulation":
        build_objective = loop.build_objective
        loop.build_objective = lambda *a: signalled(build_objective(*a), count, name)
        stop.PATIENCE_SECONDS = -1.0
    elif phase == "evaluation":
        evaluation.read_batch = signalled(evaluation.read_batch, count, name)
    elif phase == "save":
        checkpoint.save_file = signalled(checkpoint.save_file, count, name)

def run(recipe, phase, count, name, seconds, chain):
    arrange(phase, count, name)
    if seconds:
        os.environ["SLURM_JOB_END_TIME"] = str(int(time.time() + seconds))
    guarded(lambda: slm.pipeline.run(recipe) if chain else slm.train.run(recipe))

recipe = Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())
library_versions(), git_commit()
told = []
for number, (phase, count, name, seconds, *chain) in enumerate(json.loads(sys.argv[2])):
    said = pathlib.Path(f"{sys.argv[1]}.{number}")
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(1, 2)
        which = recipe.model_copy(update={"start": "train", "stop": "evaluate"}) if chain else recipe
        run(which, phase, count, name, seconds, chain)
        sys.exit()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = [path.name for path in checkpoint.step_folders(recipe.folder("train"))]
    told.append([status, steps[0] if steps else "", said.read_text()])
print(json.dumps(told))
"""
PROGRAM = """
import pathlib, sys
import slm.train, slm.train.loop as loop
from slm.compose import guarded
from slm.recipe import Recipe

recipe = Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())
guarded(lambda: slm.train.run(recipe))
"""
CHAIN = "pipeline"


def interrupt(recipe: Recipe, tmp_path: Path, *cases: tuple[object, ...]) -> list[tuple[int, str, str]]:
    """(exit status, last checkpoint's name, what was said) of real processes, one after the other.

    Each signals itself at the `count`-th call of a phase: (phase, count, signal, 0). Or its job ends in so many
    seconds: ("", 0, "", seconds). With `CHAIN` behind, evaluation would follow in the same process.
    """
    words = [sys.executable, "-c", SERVER, write(recipe, tmp_path), json.dumps(cases)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = [tuple(each) for each in json.loads(done.stdout.splitlines()[-1])]
    for _, _, said in found:
        assert "Traceback" not in said, said
        assert "the same command goes on from where it was" in said, said
    return found


def write(recipe: Recipe, tmp_path: Path) -> str:
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    return str(file)


def test_a_run_stopped_by_every_signal_in_every_phase_equals_the_unbroken_one_bit_for_bit(
    make_recipe, unbroken, tmp_path, figures, hashes
):
    """12 steps of 2 micro-batches; evaluations of 2 batches after steps 5, 10 and 12; saves after 4, 8 and 12.

    Two calls of the objective are the probe's, so 3 and 4 are the micro-batches of the first step from there, and a
    signal in either gives that step up. A run that goes on from where an evaluation is due begins with it.
    """
    recipe = make_recipe("interrupted-everywhere")
    found = interrupt(
        recipe,
        tmp_path,
        ("accumulation", 7, "SIGUSR1", 0),  # in step 3
        ("accumulation", 3, "SIGTERM", 0),  # in step 3 again: nothing is saved that was not there
        ("accumulation", 5, "SIGINT", 0),  # in step 4
        ("save", 2, "SIGTERM", 0),  # of step 4
        ("evaluation", 1, "SIGTERM", 0, CHAIN),  # after step 5
        ("evaluation", 2, "SIGUSR1", 0),  # again
        ("save", 1, "SIGUSR1", 0),  # of step 8
        ("evaluation", 1, "SIGINT", 0),  # after step 10
        ("save", 1, "SIGINT", 0),  # of step 12
        ("evaluation", 1, "SIGINT", 0),  # after it
    )
    assert [(status, int(name[5:])) for status, name, _ in found] == [
        (85, newest) for newest in (2, 2, 3, 4, 5, 5, 8, 10, 12, 12)
    ]
    assert not recipe.folder("evaluate").exists()
    assert not [row for row in figures(recipe) if row["kind"] == "finished"]
    slm.train.run(recipe)
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


def test_a_step_given_up_leaves_no_trace_in_the_state(make_recipe, monkeypatch):
    recipe = make_recipe("given-up")
    run = loop.prepare(recipe, slm.train.specification(recipe))
    cursor, generator = run.state.loader.state_dict(), torch.get_rng_state()
    answers = iter([False, True])
    monkeypatch.setattr(type(run.stop), "rest_is_long", lambda *_: torch.rand(3) is None or next(answers))
    with pytest.raises(Stopped):
        loop.forward_backward(run, run.state.loader.step(), 1.0)
    assert run.state.loader.state_dict() == cursor
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in run.state.model.parameters())


@pytest.mark.parametrize("who", ["recipe", "scheduler"])
def test_a_run_saves_and_leaves_before_its_time_ends(make_recipe, tmp_path, figures, who):
    rare = {"evaluate_every_steps": 0, "save_every_steps": 100_000}
    ends = {"deadline_minutes": 0.08 if who == "recipe" else 60, "deadline_margin_seconds": 1}
    recipe = make_recipe(f"deadline-{who}", tokens=100_000 * 256, **rare, **ends)
    ((status, name, said),) = interrupt(recipe, tmp_path, ("", 0, "", 6 if who == "scheduler" else 0))
    assert status == 85
    assert "train: the time ends in" in said
    assert "stopped (the time ends" in said
    (last,) = step_folders(recipe.folder("train"))
    assert last.name == name
    assert int(name[5:]) == len(figures(recipe)) > 1


def test_a_second_signal_leaves_at_once_with_what_was_saved(make_recipe, tmp_path):
    recipe = make_recipe("insisting", tokens=100_000 * 256, save_every_steps=4, evaluate_every_steps=0)
    stuck = (
        "import time\ninner, steps = loop.next_batches, 0\n"
        "def stuck(*arguments):\n    global steps\n    steps += 1\n    if steps == 6: time.sleep(60)\n"
        "    return inner(*arguments)\n"
        "loop.next_batches = stuck\nrecipe = Recipe"
    )
    program = PROGRAM.replace("recipe = Recipe", stuck)
    process = subprocess.Popen(
        [sys.executable, "-c", program, write(recipe, tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = recipe.folder("train") / "metrics.jsonl"
    await_that(lambda: len(read_metrics(metrics)) == 5)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    said, complaint = process.communicate(timeout=10)
    assert process.returncode == 85, said + complaint
    assert "SIGTERM received; finishing the step and saving (once more to leave now)" in said
    assert "stopped (SIGTERM, twice)" in complaint
    assert recipe.artifact("train").counts["step"] == 4


def test_torchrun_restarts_a_killed_worker_which_goes_on_to_the_same_weights(
    make_recipe, unbroken, tmp_path, figures, hashes
):
    recipe = make_recipe("elastic")
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, pathlib, signal, sys\n"
        "import slm.train, slm.train.loop as loop\n"
        "from slm.compose import guarded\n"
        "from slm.recipe import Recipe\n"
        "inner, count = loop.forward_backward, 0\n"
        "def deadly(*a):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 7 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return inner(*a)\n"
        "loop.forward_backward = deadly\n"
        "recipe = Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text())\n"
        "guarded(lambda: slm.train.run(recipe))\n"
    )
    launch = [sys.executable, str(ROOT / "scripts" / "slurm" / "torchrun.py"), "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run(
        [*launch, "--max-restarts", "1", str(script), write(recipe, tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step-00000004 (step 4 of 12)" in done.stdout
    assert figures(recipe) == figures(unbroken)
    assert hashes(recipe) == hashes(unbroken)


def test_torchrun_passes_the_signal_on_and_its_status_says_stopped(make_recipe, tmp_path):
    recipe = make_recipe("launched", tokens=100_000 * 256, evaluate_every_steps=0, save_every_steps=100_000)
    script = tmp_path / "worker.py"
    script.write_text(PROGRAM)
    launch = [sys.executable, str(ROOT / "scripts" / "slurm" / "torchrun.py"), "--standalone", "--nproc-per-node", "1"]
    words = [*launch, "--max-restarts", "3", str(script), write(recipe, tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    await_that(lambda: len(read_metrics(recipe.folder("train") / "metrics.jsonl")) > 5)
    process.send_signal(signal.SIGUSR1)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 85, said
    assert said.count("SIGUSR1 received") == 1
    assert recipe.artifact("train").counts["step"] > 5


@pytest.mark.skipif(
    not (os.environ.get("SLM_TEST_SLURM") and shutil.which("slurmctld", path=os.environ["PATH"] + ":/usr/sbin")),
    reason="starts a SLURM cluster: as root, SLM_TEST_SLURM=1 and Debian's slurm-wlm, or bash scripts/slurm/test.sh",
)
def test_a_job_preempted_and_requeued_by_slurm_equals_the_unbroken_run():
    environment = {**os.environ, "SLM_PYTHON": sys.executable}
    script = str(ROOT / "scripts" / "slurm" / "test.sh")
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PASS: " in done.stdout


def await_that(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)
