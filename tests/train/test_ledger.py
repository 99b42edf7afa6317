"""Where the time went: sums to wall-clock, over kills, with what was done again under its own name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import slm.train
from slm.train.ledger import LEDGER, PHASES, Ledger, read_ledger, totals

KILLED_AT_STEP_7 = """
import os, pathlib, signal, sys
import slm.train, slm.train.loop as loop
from slm.recipe import Recipe
inner, count = loop.forward_backward, 0
def deadly(*a):
    global count
    count += 1
    if count == 7: os.kill(os.getpid(), signal.SIGKILL)
    return inner(*a)
loop.forward_backward = deadly
slm.train.run(Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text()))
"""


def test_the_account_of_a_run_sums_to_its_wall_clock(make_recipe, capsys):
    recipe = make_recipe("account", sample_prompts=["def "])
    began = time.perf_counter()
    slm.train.run(recipe)
    wall = time.perf_counter() - began
    (line,) = read_ledger(recipe.folder("train"))
    booked = totals([line])
    # 20 ms for what is printed after the account is closed: more than 1 % of a run of half a second.
    assert sum(booked.values()) == pytest.approx(wall, rel=0.01, abs=0.02)
    assert line["seconds"] == pytest.approx(sum(booked.values()), rel=1e-4)
    assert line["step"] == 12
    assert all(booked[name] > 0 for name in PHASES if name != "replayed")
    assert booked["replayed"] == 0
    assert booked["other"] < 0.2 * wall
    printed = capsys.readouterr().out
    assert "of 1 process went" in printed
    assert all(name in printed for name in PHASES)


def test_a_killed_process_is_counted_and_what_it_lost_is_replayed(make_recipe, tmp_path):
    recipe = make_recipe("account-killed")  # saves at step 4; logs each step; killed in step 7
    file = tmp_path / "recipe.json"
    file.write_text(recipe.model_dump_json())
    done = subprocess.run([sys.executable, "-c", KILLED_AT_STEP_7, str(file)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    (killed,) = read_ledger(recipe.folder("train"))
    assert killed["step"] == 6
    assert killed["phases"]["replayed"] == 0
    slm.train.run(recipe)
    first, second = read_ledger(recipe.folder("train"))
    assert first == killed
    assert second["step"] == 12
    again = second["phases"]["replayed"]  # steps 5 and 6 of the eight that were left
    assert 0 < again < second["phases"]["compute"]
    assert totals([first, second])["compute"] == first["phases"]["compute"] + second["phases"]["compute"]


def test_phases_nest_and_what_no_phase_claims_is_other(tmp_path, monkeypatch):
    clock = iter([0.0, 2.0, 3.0, 7.0, 8.0, 11.0, 16.0, 18.0, 18.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    with Ledger(0.0) as ledger:
        ledger.attach(tmp_path, 0)  # at 2
        with ledger.phase("evaluate"), ledger.phase("sample"):  # 3 and 7
            pass  # sample ends at 8, evaluate at 11
        ledger.write(1)  # 16
    (line,) = read_ledger(tmp_path)
    spent = {name: seconds for name, seconds in line["phases"].items() if seconds}
    assert spent == {"start": 2.0, "other": 1.0 + 7.0, "evaluate": 4.0 + 3.0, "sample": 1.0}
    assert line["seconds"] == 18.0


def test_a_step_done_before_is_replayed_and_the_one_after_it_is_not(tmp_path):
    with Ledger(time.perf_counter()) as ledger:
        ledger.attach(tmp_path, 0)
        ledger.write(5)
    with Ledger(time.perf_counter()) as ledger:
        ledger.attach(tmp_path, 3)
        with ledger.phase("compute", 5):
            time.sleep(0.01)
        assert ledger.account()["phases"]["replayed"] >= 0.01
        assert ledger.account()["phases"]["compute"] == 0
        with ledger.phase("compute", 6):
            time.sleep(0.01)
        assert ledger.account()["phases"]["compute"] >= 0.01


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    with Ledger(time.perf_counter()) as ledger:
        ledger.attach(tmp_path, 0)
        ledger.write(1)
    whole = read_ledger(tmp_path)
    with (tmp_path / LEDGER).open("a") as stream:
        stream.write('{"process": "' + str(os.getpid()))
    assert read_ledger(tmp_path) == whole
    assert read_ledger(tmp_path / "nowhere") == []
