#!/usr/bin/env bash
# From a fresh checkout to a verdict: sets up .venv, then lints, type-checks and tests with coverage.
# Further words go to pytest, and then coverage is not judged: bash scripts/test.sh tests/core -k manifest
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_environment dev
cd "$root"

step() {
  echo "test: $1"
  shift
  "$@"
}

step "ruff check" "$python" -m ruff check .
step "ruff format --check" "$python" -m ruff format --check .
step "mypy" "$python" -m mypy
# Two workers with one thread each beat one with two: torch's small operations do not scale over threads.
export OMP_NUM_THREADS=1
if [ $# -gt 0 ]; then
  step "pytest $*" "$python" -m pytest "$@"
else
  step "pytest" "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25 \
    --cov=slm --cov-report=term-missing:skip-covered --cov-fail-under=90
fi
