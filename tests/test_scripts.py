"""The scripts from nothing: with a stand-in interpreter whose pip only writes down what it was asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    assert time.monotonic() - began < 1.5
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
