# Sourced by quickstart.sh and test.sh: `setup_environment EXTRA` leaves a ready .venv at the checkout's top.
#
# The virtual environment is made if it is missing, left half-made by a killed run, of another Python or moved from
# another folder; it is updated if pyproject.toml or requirements.lock changed; otherwise nothing happens (0.1 s).
# .venv/.unfinished exists exactly while an installation runs, .venv/.installed-EXTRA holds what the last one was for.
# PYTHON=/path/to/python chooses the interpreter.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python

complain() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

find_python() {
  local candidate found=""
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
    command -v "$candidate" >/dev/null 2>&1 || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$candidate" -c 'import ensurepip, venv' 2>/dev/null ||
        complain "$candidate has no venv module; install it (Debian and Ubuntu: apt install python3-venv) and run this again"
      printf '%s\n' "$candidate"
      return
    fi
    found="$found $candidate ($("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo broken))"
    [ -z "${PYTHON:-}" ] || break
  done
  complain "Python 3.11 or newer is needed, found${found:- none}; install one (Debian 12 and newer: apt install python3 python3-venv), or name it: PYTHON=/path/to/python3.12"
}

# What an installation depends on: both files, the interpreter, and the folder (scripts in a venv hold absolute paths).
environment_hash() {
  { cat "$root/pyproject.toml" "$root/requirements.lock" && "$python" -c 'import sys; print(sys.version)' && echo "$venv"; } |
    sha256sum | cut -d ' ' -f 1
}

is_usable() {
  [ ! -e "$venv/.unfinished" ] &&
    "$python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
    grep -qsF "$venv" "$venv/bin/activate"
}

is_installed() {
  local wanted
  wanted=$(environment_hash 2>/dev/null) || return 1
  [ "$wanted" = "$(cat "$venv/.installed-$1" 2>/dev/null)" ]
}

install_environment() {
  local extra=$1 base interpreter
  if ! is_usable; then
    interpreter=$(find_python) || exit 1
    [ ! -e "$venv" ] || echo "setup: .venv is incomplete or made elsewhere; making it anew"
    rm -rf "$venv"
    mkdir "$venv"
    touch "$venv/.unfinished"
    echo "setup: making .venv with $("$interpreter" --version)"
    "$interpreter" -m venv "$venv" || complain "$interpreter could not make a virtual environment in $venv; its own words stand above"
  fi
  touch "$venv/.unfinished"
  rm -f "$venv"/.installed-*
  base="$root${extra:+[$extra]}"
  echo "setup: installing the packages of requirements.lock${extra:+ with the extra '$extra'} (once; takes a few minutes)"
  "$python" -m pip install -qq --disable-pip-version-check --no-input -c "$root/requirements.lock" -e "$base" ||
    complain "pip could not install the packages; its own words stand above. Check network and disk space and run this again"
  environment_hash >"$venv/.installed-$extra"
  [ -z "$extra" ] || environment_hash >"$venv/.installed-" # every extra includes the base
  rm "$venv/.unfinished"
  echo "setup: done in $SECONDS s"
}

setup_environment() {
  if [ -e "$venv/.unfinished" ] || ! is_installed "$1"; then
    command -v flock >/dev/null 2>&1 && exec 9<"$root/pyproject.toml" && flock 9 # one installation at a time
    if [ -e "$venv/.unfinished" ] || ! is_installed "$1"; then install_environment "$1"; fi
    exec 9<&-
  fi
}
