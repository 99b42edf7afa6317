"""Programs that a model wrote, run apart from everything else; also the script that does so in the child.

In: a program as text and limits. Out: whether it ended well, and how it ended. Each program gets a process of its own,
an empty folder that is deleted afterwards, an empty environment, no standard input, and limits of the kernel: time,
processor time, address space, file size, processes, open files, no core dumps. What else keeps it apart depends on the
machine and is returned in words, for the report:

- Linux namespaces of its own for users, processes, network, files and System V memory: no network at all (not even
  this machine's own), every file system read-only but its folder, no process of others in sight, and all that it
  started ends with it. Needs a kernel that allows them to this user (containers often do not).
- Where namespaces are refused: sockets are blocked inside Python alone, and what it left running is looked for by its
  session. A program that means harm gets around both.
- Started as root, it gives up root first, for a user that owns nothing.

What it does not cover: it is no virtual machine. The program shares the kernel, so a hole in the kernel is a way out;
it can read every file that its user may read (give no secrets to that user); time and memory that it uses within its
limits are taken from the machine. A program may also pass by leaving with status 0 before its tests have run, as
`sys.exit()` would: a token that only the tests' end prints must therefore be the last line.

Cost: 40 to 90 ms a program, nearly all of it Python's own start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

NEW_USER, NEW_NET, NEW_MOUNT, NEW_PROCESSES, NEW_IPC = 0x10000000, 0x40000000, 0x00020000, 0x20000000, 0x08000000
"""CLONE_NEW* of linux/sched.h."""
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_READ_ONLY = 442, -100, 0x8000, 0x1
"""The system call's number on x86-64 and arm64, and flags, of linux/mount.h."""
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SET_PARENT_DEATH_SIGNAL, SET_NAME, SET_NO_NEW_PRIVILEGES = 1, 15, 38
"""PR_* of linux/prctl.h."""
FIRST_NOBODY = 200_000
"""Users from here on own nothing on a usual machine."""
PYTHON = "python"
"""In a program's folder: this Python, which for root often lies where nobody else may look."""
OUTPUT_CHARACTERS = 2_000
REFUSED = 3
"""The child's status where a namespace is refused."""

BLOCKED_SOCKETS = """
import sys
def _no_network(event, arguments):
    if event.startswith("socket."):
        raise PermissionError("no network in the sandbox")
sys.addaudithook(_no_network)
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may take."""

    seconds: float
    memory_bytes: int
    file_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    passed: bool
    how: str
    """passed, failed (with the last line that it said), out of time, or killed by which signal."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What keeps programs apart on this machine."""

    namespaces: bool
    words: str


def isolation() -> Isolation:
    """What this machine allows, tried with an empty program; `OSError` where not even that runs."""
    limits = Limits(10.0, 1 << 30, 0, 8)
    done = _run("", limits, namespaces=True)
    if done is not None and done.passed:
        return Isolation(
            True, "no network, files read-only but for a folder of its own, others' processes out of reach (namespaces)"
        )
    plain = _run("", limits, namespaces=False)
    if plain is None or not plain.passed:
        raise OSError(f"an empty program {plain.how if plain else 'did not run'} as a user without rights")
    return Isolation(
        False, "sockets blocked inside Python alone, this user's files writable: the kernel refuses namespaces here"
    )


def run_program(program: str, limits: Limits, *, namespaces: bool) -> Ended:
    """Run one program; whether the kernel allows `namespaces` is what `isolation` says."""
    ended = _run(program, limits, namespaces=namespaces)
    if ended is None:
        raise RuntimeError("the kernel has begun to refuse namespaces")
    return ended


def _run(program: str, limits: Limits, *, namespaces: bool) -> Ended | None:
    """How it ended; None where namespaces were asked for and refused."""
    folder = Path(tempfile.mkdtemp(prefix="slm-sandbox-"))
    token = secrets.token_hex(16)
    try:
        home = folder / "home"
        home.mkdir()
        guard = "" if namespaces else BLOCKED_SOCKETS
        whole = f"{guard}{program}\nprint({chr(10) + token!r})\n"
        (folder / "program.py").write_text(whole, encoding="utf-8", errors="replace")
        (folder / PYTHON).mkdir()
        folder.chmod(0o755)
        home.chmod(0o777)
        job = json.dumps({"folder": str(folder), "namespaces": namespaces, "limits": asdict(limits)})
        with (folder / "output").open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).resolve()), job],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=home,
                env={"PATH": os.defpath, "LANG": "C.UTF-8", "TMPDIR": str(home)},
                start_new_session=True,
            )
            status = _waited(child, limits.seconds)
        said = _tail(folder / "output")
        return _judged(status, said, token, limits, namespaces=namespaces)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _waited(child: subprocess.Popen[bytes], seconds: float) -> int | None:
    """The child's status, or None if its time ran out; nothing of its session is left."""
    try:
        return child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end_session(child.pid)
        child.wait()


def _end_session(session: int) -> None:
    """Kill what the session holds, also what has left its process group."""
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        members = [pid for pid, of in _sessions() if of == session]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _sessions() -> list[tuple[int, int]]:
    """Process and session numbers of all living processes that can be seen."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if fields[0] != "Z":
                    found.append((int(entry.name), int(fields[3])))
    return found


def _tail(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(0, os.SEEK_END)
        stream.seek(max(0, stream.tell() - OUTPUT_CHARACTERS))
        return stream.read().decode("utf-8", "replace").strip()


def _judged(status: int | None, said: str, token: str, limits: Limits, *, namespaces: bool) -> Ended | None:
    lines = said.splitlines() or [""]
    if status is None:
        return Ended(False, f"out of time ({limits.seconds:g} s)")
    if namespaces and status == REFUSED and lines[-1].startswith("refused: "):
        return None
    if status == 0 and lines[-1] == token:
        return Ended(True, "passed")
    if status == 0:
        return Ended(False, "failed (it left before its tests had run)")
    if status < 0 or status > 128:
        number = -status if status < 0 else status - 128
        with contextlib.suppress(ValueError):
            return Ended(False, f"killed ({signal.Signals(number).name})")
    return Ended(False, f"failed ({lines[-1][:200]})")


def child(job: str) -> None:
    """In the child: take on the limits, leave what can be left, and become the program."""
    settings = json.loads(job)
    folder, limits = settings["folder"], Limits(**settings["limits"])
    executable = sys.executable
    if settings["namespaces"]:
        if os.getuid() == 0:
            executable = f"{folder}/{PYTHON}/{os.path.relpath(os.path.realpath(executable), sys.base_prefix)}"
        try:
            _enter_namespaces(folder)
        except OSError as error:
            print(f"refused: {error}", flush=True)
            os._exit(REFUSED)
    elif os.getuid() == 0:
        _give_up_root()
    os.chdir(f"{folder}/home")
    seconds = int(limits.seconds) + 1
    for what, limit in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, max(limits.file_bytes, 4096)),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    os.execv(executable, [executable, "-I", "-S", "-B", f"{folder}/program.py"])


def _enter_namespaces(folder: str) -> None:
    """Own network, files, processes; as pid 1 of them, without privileges. Returns in the grandchild alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    flags = NEW_NET | NEW_MOUNT | NEW_PROCESSES | NEW_IPC | (NEW_USER if user else 0)
    _require(libc.unshare(flags), "unshare")
    if user:
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    home = f"{folder}/home".encode()
    _require(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount private")
    _require(libc.mount(home, home, None, MS_BIND, None), "mount")
    if user == 0:
        python = f"{folder}/{PYTHON}".encode()
        _require(libc.mount(sys.base_prefix.encode(), python, None, MS_BIND, None), "mount")
    _set_read_only(libc, b"/", AT_RECURSIVE, set_to=True)
    _set_read_only(libc, home, 0, set_to=False)
    first = os.fork()
    if first:  # this process waits outside; when it is killed, so is pid 1 and all that it started
        libc.prctl(SET_NAME, b"sandbox", 0, 0, 0)
        _, status = os.waitpid(first, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    libc.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.mount(b"proc", b"/proc", b"proc", 0, None)  # where it is refused, others' processes are seen but not reached
    if user == 0:
        _give_up_root()
    _require(libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "prctl")


def _set_read_only(libc: ctypes.CDLL, path: bytes, flags: int, *, set_to: bool) -> None:
    """Make a mount (with `AT_RECURSIVE` all below it) read-only or writable."""
    attributes = (ctypes.c_uint64 * 4)(ATTR_READ_ONLY if set_to else 0, 0 if set_to else ATTR_READ_ONLY, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    _require(libc.syscall(MOUNT_SETATTR, AT_FDCWD, path, flags, ctypes.byref(attributes), size), "mount_setattr")


def _give_up_root() -> None:
    """Become a user that owns nothing, another for each program, so that processes are counted for each."""
    nobody = FIRST_NOBODY + os.getppid() % 50_000
    os.setgroups([])
    os.setresgid(nobody, nobody, nobody)
    os.setresuid(nobody, nobody, nobody)


def _require(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    child(sys.argv[1])
