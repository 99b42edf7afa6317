"""What a program may not do fails inside the sandbox, leaves nothing behind and reaches nobody."""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from pathlib import Path

import pytest

from slm.evaluate import sandbox
from slm.evaluate.sandbox import Ended, Limits, isolation, run_program

LIMITS = Limits(5.0, 400 << 20, 1 << 20, 8)


@pytest.fixture(scope="module", params=["namespaces", "plain"])
def run(request):
    """Runs a program in both ways; skips where this machine refuses one."""
    before = sys.executable
    if request.param == "namespaces" and not isolation().namespaces:
        pytest.skip("the kernel refuses namespaces here")
    if request.param == "plain":
        for executable in (before, "/usr/bin/python3", "/usr/local/bin/python3"):
            sys.executable = executable if Path(executable).exists() else before  # one that anybody may run
            if run_program("", LIMITS, namespaces=False).passed:
                break
        else:
            sys.executable = before
            pytest.skip("this Python lies where only root may look, so it cannot give up root")
    yield lambda program, limits=LIMITS: run_program(program, limits, namespaces=request.param == "namespaces")
    sys.executable = before


def test_programs_pass_and_fail_by_their_tests(run):
    assert run("def one():\n    return 1\n\nassert one() == 1") == Ended(True, "passed")
    assert run("assert 1 == 2, 'no'") == Ended(False, "failed (AssertionError: no)")
    assert run("def (") == Ended(False, "failed (SyntaxError: invalid syntax)")
    assert run("print('x', end='')").passed
    assert run("import os; os._exit(0)") == Ended(False, "failed (it left before its tests had run)")
    assert run("import sys; sys.exit(0)").how == "failed (it left before its tests had run)"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("bytearray(1 << 30)", "MemoryError"),
        ("open('big', 'wb').write(b'x' * (4 << 20))", "File too large"),
        ("import ctypes; ctypes.string_at(0)", "killed (SIGSEGV)"),
        ("while True: print('x' * 100)", "failed"),
        ("[open('/dev/null') for _ in range(100)].append(1)", "Too many open files"),
        ("input()", "EOFError"),
    ],
)
def test_limits_hold(run, program, reason):
    ended = run(program)
    assert not ended.passed
    assert reason in ended.how


def test_time_runs_out_also_for_what_was_started_and_left(run):
    began = time.monotonic()
    escape = (
        "import os, time\n"
        "for _ in range(3):\n    if os.fork() == 0:\n        time.sleep(60)\n        os._exit(0)\n"
        "time.sleep(60)"
    )
    assert run(escape, Limits(0.7, 400 << 20, 1 << 20, 8)) == Ended(False, "out of time (0.7 s)")
    assert time.monotonic() - began < 20
    assert run("import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)").passed
    mine = [pid for pid, _ in sandbox._sessions() if b"program.py" in _command(pid)]
    assert not mine


def test_processes_are_counted(run):
    ended = run(
        "import os, time\n"
        "for started in range(50):\n"
        "    try:\n"
        "        number = os.fork()\n"
        "    except BlockingIOError:\n"
        "        break\n"
        "    if number == 0:\n"
        "        time.sleep(9)\n"
        "        os._exit(0)\n"
        "assert started < 9"
    )
    assert ended.passed, ended


def test_there_is_no_network(run):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = run(f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 1)")
    assert not ended.passed
    assert "nreachable" in ended.how or "no network in the sandbox" in ended.how


def test_files_of_others_stay_as_they_are(run, tmp_path):
    tmp_path.chmod(0o777)
    work = "open('mine', 'w').write('x')\nassert open('mine').read() == 'x'\n"
    assert run(work).passed
    (tmp_path / "other").write_text("before")
    ended = run(f"open({str(tmp_path / 'other')!r}, 'w').write('after')")
    assert not ended.passed
    assert (tmp_path / "other").read_text() == "before"
    assert not list(Path(tempfile.gettempdir()).glob("slm-sandbox-*/home/mine"))


def test_the_environment_holds_no_secrets(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert run("import os\nassert 'OPENAI_API_KEY' not in os.environ and 'HOME' not in os.environ").passed


def test_what_keeps_programs_apart_is_said():
    found = isolation()
    assert found.words.startswith("no network" if found.namespaces else "sockets blocked inside Python alone")


def test_a_machine_where_nothing_runs_is_an_error(monkeypatch):
    monkeypatch.setattr(sandbox, "_run", lambda *_, **__: None)
    with pytest.raises(OSError, match="an empty program did not run as a user without rights"):
        isolation()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
