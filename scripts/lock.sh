#!/usr/bin/env bash
# Rewrites requirements.lock: installs the project with its extra `dev` into a temporary environment, newest versions
# that pyproject.toml allows, and writes down what came. Left out: the project, local versions (torch's +cpu), and the
# CUDA packages that torch brings on Linux, which follow from torch's version and are absent on machines without GPU.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
interpreter=$(find_python)
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
"$interpreter" -m venv "$temporary/venv"
echo "lock: installing into a temporary environment (takes a few minutes)"
"$temporary/venv/bin/python" -m pip install -qq --disable-pip-version-check "$root[dev]"
{
  echo "# Made by scripts/lock.sh: the versions that pip install -e '.[dev]' brings; used as pip's constraints."
  "$temporary/venv/bin/python" -m pip freeze --exclude slm |
    grep -Ev '^(#|-e |nvidia-|cuda-|triton==)' | sed -E 's/\+[A-Za-z0-9.]+$//; s/ @ .*//'
} >"$temporary/lock"
mv "$temporary/lock" "$root/requirements.lock"
echo "lock: wrote $root/requirements.lock ($(grep -c == "$root/requirements.lock") packages)"
