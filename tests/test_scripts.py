"""The scripts from nothing: with a stand-in interpreter whose pip only writes down what it was asked for."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from slm.model.config import ModelConfig

ROOT = Path(__file__).parents[1]

INTERPRETER = f"""#!/bin/bash
# Makes environments without the real pip; {{SITE}} gets stand-ins that print what they are called with.
if [ "$1 $2" = "-m venv" ]; then
  {sys.executable} -m venv --without-pip "$3" || exit 1
  site=$(echo "$3"/lib/python*/site-packages)
  mkdir -p "$site/pip" "$site/slm"
  touch "$site/pip/__init__.py" "$site/slm/__init__.py"
  for name in pip/__main__ slm/pipeline ruff mypy pytest; do cp "$STANDINS/standin.py" "$site/$name.py"; done
  echo "made $3" >> "$STANDINS/log"
else
  exec {sys.executable} "$@"
fi
"""
STANDIN = """
import os, sys
name = "pip" if __file__.endswith("pip/__main__.py") else os.path.basename(__file__)[:-3]
with open(os.environ["STANDINS"] + "/log", "a") as log:
    print(name, *sys.argv[1:], file=log)
if name == os.environ.get("BREAK"):
    sys.exit(f"{name} says no")
print("RAN", name, os.getcwd(), os.environ.get("OMP_NUM_THREADS"))
"""


class Checkout:
    """A copy of what the scripts need, and a log of what they call."""

    def __init__(self, folder: Path) -> None:
        self.path, self.standins = folder / "a checkout", folder / "standins"
        (self.path / "src" / "slm").mkdir(parents=True)
        self.standins.mkdir()
        shutil.copytree(ROOT / "scripts", self.path / "scripts")
        for name in ("pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.path)
        (self.standins / "standin.py").write_text(STANDIN, encoding="utf-8")
        self.python = self.interpreter("python", INTERPRETER)

    def interpreter(self, name: str, text: str) -> Path:
        path = self.standins / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def call(self, script: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script from an unrelated directory."""
        variables = {**os.environ, "PYTHON": str(self.python), "STANDINS": str(self.standins), **environment}
        line = ["bash", str(self.path / "scripts" / script), *words]
        return subprocess.run(line, cwd="/", env=variables, capture_output=True, text=True, check=False)

    def log(self) -> list[str]:
        """What was called since the last look."""
        file = self.standins / "log"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.replace(str(self.path), "@") for line in lines]


PIP = "pip install -qq --disable-pip-version-check --no-input -c @/requirements.lock -e @"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_quickstart_sets_up_and_runs_the_recipe_in_the_checkout(checkout: Checkout) -> None:
    done = checkout.call("quickstart.sh", "run=mine")
    assert done.returncode == 0, done.stderr
    assert checkout.log() == ["made @/.venv", PIP, "pipeline recipe=quickstart run=mine"]
    assert f"RAN pipeline {checkout.path}" in done.stdout
    assert "setup: installing the packages of requirements.lock (once; takes a few minutes)" in done.stdout


def test_a_second_run_installs_nothing_and_takes_no_time(checkout: Checkout) -> None:
    checkout.call("quickstart.sh")
    checkout.log()
    began = time.monotonic()
    done = checkout.call("quickstart.sh")
    assert time.monotonic() - began < 5
    assert checkout.log() == ["pipeline recipe=quickstart"]
    assert "setup:" not in done.stdout


def test_tests_after_quickstart_add_the_extra_and_quickstart_after_tests_adds_nothing(checkout: Checkout) -> None:
    checkout.call("quickstart.sh")
    checkout.log()
    assert checkout.call("test.sh").returncode == 0
    assert checkout.log()[0] == f"{PIP}[dev]"
    checkout.call("quickstart.sh")
    checkout.call("test.sh", "-k", "x")
    assert not [line for line in checkout.log() if line.startswith(("made", "pip "))]


def test_the_tests_lint_type_check_and_judge_coverage(checkout: Checkout) -> None:
    done = checkout.call("test.sh")
    assert done.returncode == 0, done.stderr
    calls = checkout.log()[2:]
    assert calls[:3] == ["ruff check .", "ruff format --check .", "mypy"]
    assert calls[3].startswith("pytest -n 2 ")
    assert "--cov-fail-under=90" in calls[3]
    assert f"RAN pytest {checkout.path} 1" in done.stdout


def test_words_for_the_tests_go_to_pytest_and_coverage_is_not_judged(checkout: Checkout) -> None:
    assert checkout.call("test.sh", "tests/core", "-k", "a b").returncode == 0
    assert checkout.log()[-1] == "pytest tests/core -k a b"


@pytest.mark.parametrize("broken", ["ruff", "mypy", "pytest"])
def test_any_check_that_fails_fails_the_tests(checkout: Checkout, broken: str) -> None:
    done = checkout.call("test.sh", BREAK=broken)
    assert done.returncode == 1
    assert f"{broken} says no" in done.stderr


def test_changed_requirements_install_again_into_the_same_environment(checkout: Checkout) -> None:
    checkout.call("quickstart.sh")
    checkout.log()
    (checkout.path / "requirements.lock").write_text("numpy==2.4.6\n", encoding="utf-8")
    checkout.call("quickstart.sh")
    assert checkout.log() == [PIP, "pipeline recipe=quickstart"]


def test_an_installation_that_failed_or_was_killed_is_made_anew(checkout: Checkout) -> None:
    done = checkout.call("quickstart.sh", BREAK="pip")
    assert done.returncode == 1
    assert "pip says no" in done.stderr
    assert "error: pip could not install the packages; its own words stand above." in done.stderr
    checkout.log()
    done = checkout.call("quickstart.sh")
    assert done.returncode == 0
    assert "setup: .venv is incomplete or made elsewhere; making it anew" in done.stdout
    assert checkout.log() == ["made @/.venv", PIP, "pipeline recipe=quickstart"]


def test_a_half_made_environment_is_made_anew(checkout: Checkout) -> None:
    (checkout.path / ".venv" / "bin").mkdir(parents=True)
    (checkout.path / ".venv" / "pyvenv.cfg").touch()
    assert checkout.call("quickstart.sh").returncode == 0
    assert checkout.log()[0] == "made @/.venv"


def test_a_checkout_that_moved_makes_its_environment_anew(checkout: Checkout) -> None:
    checkout.call("quickstart.sh")
    checkout.log()
    checkout.path = checkout.path.rename(checkout.path.with_name("moved"))
    assert checkout.call("quickstart.sh").returncode == 0
    assert checkout.log()[0] == "made @/.venv"


def test_two_at_once_install_once(checkout: Checkout) -> None:
    line = f"'{checkout.path}/scripts/quickstart.sh' & '{checkout.path}/scripts/quickstart.sh'; wait"
    variables = {**os.environ, "PYTHON": str(checkout.python), "STANDINS": str(checkout.standins)}
    subprocess.run(["bash", "-c", line], env=variables, capture_output=True, check=True)
    calls = checkout.log()
    assert sorted(calls) == sorted(["made @/.venv", PIP, "pipeline recipe=quickstart", "pipeline recipe=quickstart"])


OLD = """#!/bin/bash
case "$2" in *version_info*) exit 1 ;; *python_version*) echo 3.9.2 ;; esac
"""
BARE = """#!/bin/bash
case "$2" in *ensurepip*) exit 1 ;; esac
"""


def test_an_old_python_is_refused_with_the_way_out(checkout: Checkout) -> None:
    old = checkout.interpreter("old", OLD)
    done = checkout.call("quickstart.sh", PYTHON=str(old))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: Python 3.11 or newer is needed, found {old} (3.9.2); install one (Debian 12 and newer: apt install "
        "python3 python3-venv), or name it: PYTHON=/path/to/python3.12\n"
    )
    assert not (checkout.path / ".venv").exists()


def test_a_python_without_venv_is_refused_with_the_package_to_install(checkout: Checkout) -> None:
    bare = checkout.interpreter("bare", BARE)
    done = checkout.call("test.sh", PYTHON=str(bare))
    assert done.returncode == 1
    assert done.stderr == (
        f"error: {bare} has no venv module; install it (Debian and Ubuntu: apt install python3-venv) and run this "
        "again\n"
    )


def test_continuous_integration_runs_the_same_tests() -> None:
    assert "scripts/test.sh" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "bash .ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def load_script(name: str) -> ModuleType:
    """A script of `scripts/` as a module, without running it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    sys.path.insert(0, str(ROOT / "scripts"))  # a script takes things of its neighbours, as when it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return module


def test_a_loss_is_reached_between_two_evaluations_by_a_straight_line(tmp_path: Path) -> None:
    bench = load_script("bench_time_to_loss")
    run = bench.Contender("any", [], tmp_path, tmp_path / "metrics.jsonl", 1.0)
    run.rows = [{"seconds": 10.0, "tokens": 1, "loss": 5.0}, {"seconds": 20.0, "tokens": 2, "loss": 4.0}]
    assert bench.reached(run, 4.25) == pytest.approx(17.5)
    assert bench.reached(run, 6.0) == 10.0
    assert bench.reached(run, 3.9) is None


def test_a_stopped_contender_uses_up_none_of_its_time(tmp_path: Path) -> None:
    bench = load_script("bench_time_to_loss")
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    run = bench.Contender("sleeper", sleeper, tmp_path, tmp_path / "metrics.jsonl", 0.5 / 60)
    run.start()
    assert run.turn(0.2)
    used = run.seconds
    time.sleep(0.3)
    assert run.seconds == used
    assert not run.turn(60.0)
    assert used < run.seconds < 30


def test_time_to_loss_without_its_text_says_what_to_give() -> None:
    command = [sys.executable, "scripts/bench_time_to_loss.py", "--text", "nowhere.txt"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert "--text (nowhere.txt) is not a file; give the path of WikiText-2's train.txt" in answer.stderr


@pytest.mark.parametrize(
    ("statuses", "status"),
    [((85, 85), 85), ((85, -15), 85), ((-15, -15), 1), ((85, 1), 1), ((-9, -15), 1), ((85, -9), 1)],
)
def test_torchrun_says_stopped_only_where_its_processes_were(monkeypatch, capsys, statuses, status):
    launcher = runpy.run_path(str(ROOT / "scripts" / "slurm" / "torchrun.py"))
    failures = {rank: ProcessFailure(rank, 1, code, "") for rank, code in enumerate(statuses)}

    def fail(_):
        raise ChildFailedError("train", failures)

    monkeypatch.setitem(launcher["main"].__globals__, "run", fail)
    assert launcher["main"](["train.py"]) == status
    assert str(sorted(set(statuses))) in capsys.readouterr().err


def test_the_gpu_benchmark_measures_a_step_and_ends_with_its_figures() -> None:
    options = ["--device", "cpu", "--tiny", "--steps", "2", "--warm-up", "0", "--documents", "3", "--precision", "fp32"]
    options += ["--activation-checkpointing", "selective", "--micro-batch", "2", "--accumulate", "2"]
    done = subprocess.run(
        [sys.executable, "scripts/bench_gpu.py", *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["mfu"] == found["data_sheet_flops_per_second"] == found["peak_memory_bytes"] == "unknown"
    assert found["options"]["activation_checkpointing"] == "selective"
    assert found["attention"].startswith("sdpa (auto: ")
    assert "6 x (matrices + head) + 12 x layers x heads x head_dim x keys it sees" in done.stdout
    documents = [22, 21, 21]  # a row of 64 tokens
    matrices = 2 * (64 * (2 * 64 + 2 * 32) + 3 * 64 * 128) + 512 * 64
    pairs = sum(length * (length + 1) // 2 for length in documents)
    flops_per_row = 6 * matrices * 64 + 12 * 2 * 64 * pairs
    per_target = found["model_flops_per_second"] / found["tokens_per_second"]
    assert per_target == pytest.approx(flops_per_row / (64 - 3)), "three tokens of a row predict nothing"
    assert found["matmul_share"] == pytest.approx(
        found["model_flops_per_second"] / max(found["matmul_flops_per_second"])
    )
    assert found["step_seconds_median"] <= found["step_seconds_worst"] < found["first_step_seconds"] * 100


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_the_gpu_benchmark_without_a_gpu_ends_with_a_sentence_and_status_2() -> None:
    done = subprocess.run([sys.executable, "scripts/bench_gpu.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: torch sees no GPU here, and this measures one; run it where there is one")


def test_the_speed_of_training_is_measured_in_one_run_and_judged(tmp_path: Path) -> None:
    words = "--rounds 1 --rows 1 --length 16 --threads 1 --cpu-seconds --loader-seconds 0.05 --no-litgpt --check"
    line = [sys.executable, str(ROOT / "scripts" / "bench_train.py"), *words.split()]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (1 if figures["missed"] else 0), done.stderr
    assert figures["sides"].keys() == {
        "ours, bf16", "ours, bf16, packed", "transformers, bf16", "transformers, bf16, memory kept",
        "transformers, fp32",
    }  # fmt: skip
    for side in figures["sides"].values():
        assert side["tokens_per_second"] > 0
        assert side["bytes"] > 4 * 12_600_000 * 3, "weights and two moments"
    assert figures["over_transformers_fp32"] > 0
    assert figures["litgpt"] == "left out by --no-litgpt"
    assert "LitGPT is missing: left out by --no-litgpt" in done.stdout


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The benchmark with sides that take no time and say how they were asked for."""
    bench = load_script("bench_train")

    class Side:
        asked: ClassVar[list[dict[str, Any]]] = []

        def __init__(self, side: str, _: argparse.Namespace, **options: Any) -> None:
            self.asked.append({"side": side, **options})
            self.turns, self.used_bytes = 0, options["shape"]["vocab_size"] * 1000
            self.median = (1e9 if side == "products" else 1e8) / options["shape"]["width"]

        def __enter__(self) -> Side:
            return self

        def __exit__(self, *_: object) -> None:
            assert self.turns == 3

        def turn(self) -> None:
            self.turns += 1

    monkeypatch.setattr(bench, "Side", Side)
    return bench


def test_curves_vary_one_thing_and_keep_the_tokens_of_a_step(stand_in: ModuleType, tmp_path: Path) -> None:
    args = argparse.Namespace(rows=8, length=512, rounds=7, curves=tmp_path / "new" / "curves")
    points = stand_in.curves(args)
    ours = [asked for asked in stand_in.Side.asked if asked["side"] == "ours"]
    values = {key: [point["value"] for point in points if point["varied"] == key] for key in stand_in.CURVES}
    assert values == stand_in.CURVES
    assert len(ours) == len(points)
    for point, asked in zip(points, ours, strict=True):
        shape, plain = ModelConfig(**asked["shape"], max_seq_len=asked["length"]), stand_in.SHAPE
        assert asked["rows"] * asked["length"] == 8 * 512
        asked_for = {"vocab_size": shape.vocab_size, "length": asked["length"], "width": shape.width}
        usual = {"vocab_size": plain["vocab_size"], "length": 512, "width": plain["width"]}
        assert asked_for == {**usual, point["varied"]: point["value"]}
        assert point["tokens_per_second"] == 1e8 / shape.width
        flops, product = stand_in.model_flops(asked["shape"], asked["length"]), stand_in.product_flops(asked["shape"])
        assert point["share_of_products"] == pytest.approx(0.1 * flops / product)
    assert [path.name for path in args.curves.iterdir()] == ["bench_train_curves.png"]


def test_curves_are_drawn_with_their_values_and_units(tmp_path: Path) -> None:
    from matplotlib import image

    from slm.report.png import draw

    bench = load_script("bench_train")
    points = [
        {"varied": key, "value": value, "tokens_per_second": 1000.0 * number, "bytes": 5e6 * number}
        for key, values in bench.CURVES.items()
        for number, value in enumerate(values, 1)
    ]
    rows = bench.panels(points)
    for row, label, unit in zip(rows, ("tokens a second", "MB"), (1000.0, 5.0), strict=True):
        assert [(panel.x_label, panel.y_label) for panel in row] == [(key, label) for key in bench.CURVES]
        for panel, values in zip(row, bench.CURVES.values(), strict=True):
            (line,) = panel.lines
            assert list(zip(line.x, line.y, strict=True)) == [(value, unit * n) for n, value in enumerate(values, 1)]
            assert panel.y_range[0] == 0
            assert panel.y_range[1] > max(line.y)
    draw(tmp_path / "curves.png", rows)
    pixels = image.imread(tmp_path / "curves.png")
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 3
    for row in range(2):
        for column in range(3):
            part = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width, :3]
            colourful = (part.max(2) - part.min(2) > 0.3).sum()
            assert colourful > 300, f"no curve in row {row}, column {column}"


def test_pages_are_found_by_their_run_and_a_missing_browser_is_named(tmp_path: Path) -> None:
    check_pages = load_script("check_pages")
    for name in ("report/report.html", "card/card.html", "compared-with-a.html"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("<html></html>")
    named = [page.name for page in check_pages.pages_of(tmp_path / "run")]
    assert named == ["report.html", "card.html", "compared-with-a.html"]
    line = [sys.executable, "scripts/check_pages.py", str(tmp_path / "run"), "--environment", str(tmp_path / "none")]
    line += ["--shots", str(tmp_path / "shots")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no Chromium; apt-get install -y --no-install-recommends chromium" in done.stderr
    line[2] = str(tmp_path / "shots")
    done = subprocess.run([*line, "--browser", "x"], cwd=ROOT, capture_output=True, text=True)
    assert "has no page; make it by slm report, slm card and slm compare" in done.stderr


def test_what_axe_finds_is_told_with_its_impact_and_its_places() -> None:
    nodes = [{"target": ["table", "th"]}] * 5
    found = [{"id": "color-contrast", "impact": "serious", "help": "Contrast", "nodes": nodes}]
    assert list(load_script("check_pages").violations(found)) == [
        ("serious", "serious color-contrast: Contrast (5 times: table th, table th, table th)")
    ]
