"""Where the time went: sums to wall-clock, over kills, with what was done again under its own name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

import slm.train
from slm.core import energy
from slm.train.ledger import (
    LEDGER,
    PHASES,
    Ledger,
    idle_seconds,
    print_ledger,
    process_began,
    read_ledger,
    totals,
    totals_of_run,
)
from slm.train.metrics import read_metrics

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
    idle = ("compile", "generate", "replayed")
    assert all((booked[name] == 0) == (name in idle) for name in PHASES)
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


SPAWNED = """
import pathlib, sys
import slm.train
from slm.recipe import Recipe
from slm.train.ledger import process_began
slm.train.run(Recipe.model_validate_json(pathlib.Path(sys.argv[1]).read_text()), process_began())
"""


def test_three_processes_two_of_them_killed_sum_to_their_wall_clock(make_recipe, tmp_path):
    steps = 150
    recipe = make_recipe("account-of-three", tokens=steps * 256, save_every_steps=40, evaluate_every_steps=60)
    file, metrics = tmp_path / "recipe.json", recipe.folder("train") / "metrics.jsonl"
    file.write_text(recipe.model_dump_json())
    lived = []
    for killed_after_step in (60, 110, None):
        began = time.time()
        process = subprocess.Popen([sys.executable, "-c", SPAWNED, str(file)], stdout=subprocess.DEVNULL)
        if killed_after_step:
            while len(read_metrics(metrics)) < killed_after_step and process.poll() is None:
                time.sleep(0.01)
            ended = time.time()
            process.kill()
            process.wait()
        else:
            assert process.wait() == 0
            ended = (recipe.folder("train") / LEDGER).stat().st_mtime  # then the table is printed
        lived.append(ended - began)
    lines = read_ledger(recipe.folder("train"))
    assert [line["step"] == steps for line in lines] == [False, False, True]
    seconds = totals(lines)
    # 60 ms a process for the step that a kill cut off, and for the clock of the kernel, which counts 10 ms.
    assert [sum(line["phases"].values()) for line in lines] == pytest.approx(lived, rel=0.01, abs=0.06)
    assert sum(seconds.values()) == pytest.approx(sum(lived), rel=0.01)
    assert 0 < seconds["replayed"] < seconds["compute"]
    assert idle_seconds(lines) < 1


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


def test_what_was_trained_there_before_redo_is_no_part_of_the_account(tmp_path):
    for key, earlier in (("first", []), ("first", [5]), ("second", [])):
        with Ledger(time.perf_counter()) as ledger:
            ledger.attach(tmp_path, 0, key)
            assert [line["step"] for line in read_ledger(tmp_path)] == earlier
            with ledger.phase("compute", 5):
                time.sleep(0.01)
            assert bool(ledger.account()["phases"]["replayed"]) == bool(earlier)
            ledger.write(5)
    (line,) = read_ledger(tmp_path)
    assert line["key"] == "second"


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    with Ledger(time.perf_counter()) as ledger:
        ledger.attach(tmp_path, 0)
        ledger.write(1)
    whole = read_ledger(tmp_path)
    with (tmp_path / LEDGER).open("a") as stream:
        stream.write('{"process": "' + str(os.getpid()))
    assert read_ledger(tmp_path) == whole
    assert read_ledger(tmp_path / "nowhere") == []


def test_a_process_killed_between_two_logged_steps_is_counted_to_its_last_heartbeat(tmp_path, monkeypatch):
    monkeypatch.setattr("slm.train.ledger.HEARTBEAT_SECONDS", 0.01)
    with Ledger(time.perf_counter()) as ledger:
        ledger.attach(tmp_path, 0)
        for step in (1, 2, 3):
            with ledger.phase("compute", step):
                time.sleep(0.02)
        (line,) = read_ledger(tmp_path)  # what a kill would leave: nothing has been logged
        assert line["phases"]["compute"] >= 0.06
        assert line["step"] == 2
    with Ledger(time.perf_counter()) as resumed:
        resumed.attach(tmp_path, 0)
        for step in (1, 2, 3):
            with resumed.phase("compute", step):
                time.sleep(0.01)
        booked = resumed.account()["phases"]
        assert booked["replayed"] >= 0.02
        assert booked["compute"] >= 0.01


def test_one_of_several_processes_keeps_the_account_and_all_tell_their_time(tmp_path):
    with Ledger(time.perf_counter()) as follower:
        follower.attach(None, 0)
        with follower.phase("compute", 1):
            time.sleep(0.01)
        follower.write(1)
        assert follower.working() >= 0.01
    assert list(tmp_path.iterdir()) == []


def test_energy_and_cost_are_those_of_all_processes_and_unknown_without_counter_or_price(tmp_path, capsys):
    zone = tmp_path / "powercap" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "9000000000000"), ("energy_uj", "5")):
        (zone / name).write_text(text)
    for count in (3_600_000_000_005, 7_200_000_000_005):
        with Ledger(time.perf_counter() - 1800, energy.Energy(powercap=tmp_path / "powercap")) as ledger:
            ledger.attach(tmp_path, 0)
            (zone / "energy_uj").write_text(str(count))
            assert ledger.joules() == pytest.approx(3.6e6)
            assert ledger.joules() == 0
    figures = totals_of_run(tmp_path, 2.5)
    assert figures == {"hours": pytest.approx(1, rel=1e-3), "energy_kwh": 2.0, "cost": pytest.approx(2.5, rel=1e-3)}
    print_ledger(tmp_path, 2.5)
    assert "energy 2 kWh (cpu 2)\ntrain: cost 2.50, 1 h 00 min at 2.50 an hour" in capsys.readouterr().out
    with Ledger(time.perf_counter(), energy.Energy(powercap=tmp_path)) as ledger:
        ledger.attach(tmp_path, 0)
        assert ledger.joules() == "unknown"
    assert totals_of_run(tmp_path, 0.0) == {
        "hours": pytest.approx(1, rel=1e-3),
        "energy_kwh": "unknown",
        "cost": "unknown",
    }
    print_ledger(tmp_path, 0.0)
    printed = capsys.readouterr().out
    assert "energy unknown: no readable counter (cpu: no RAPL counter in" in printed
    assert "cost unknown" in printed


def test_a_process_began_when_it_was_created():
    program = "import time; time.sleep(0.5); from slm.train.ledger import process_began as began"
    program += "; print(time.perf_counter() - began())"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.5 < float(done.stdout) < time.perf_counter() - began
    assert process_began() < time.perf_counter() - 0.5
