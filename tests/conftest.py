"""What every test runs under: one thread for each library that has threads, no network, no colours."""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before torch is imported; test runners already share the cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_COLOR"] = "1"
os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1"  # of the S3 server below: tests have no files of several times 5 MB

# Deadlines measure the machine's load here, not the code; the seed is fixed so that a failure repeats.
settings.register_profile("shared", deadline=None, derandomize=True, database=None)
settings.load_profile("shared")


LONGEST = (
    "train/test_parallel.py", "corpus/test_interruptions.py", "shards/test_units.py", "train/test_faults.py",
    "train/test_compilation.py", "train/test_loop.py", "test_scripts.py", "corpus/duplicates/test_search.py",
    "train/test_memory.py", "train/test_interruptions.py", "test_end_to_end.py",
)  # fmt: skip
"""Files that take a minute and more, begun first, so that no worker is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""
    here = Path(__file__).parent
    ranks = {here / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONGEST)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes in a test's name may hold the time of day (gzip's header does): two workers that collect in different
    seconds would then have different tests, and pytest-xdist ends before the first."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Tests that draw from torch's own generator draw the same numbers in every run and order."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`small_disk(400)`: the folder of a real file system of 400 kB; skips where mounting is not allowed."""
    folder = tmp_path / "small"

    def mount(kilobytes: int) -> Path:
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            folder.rmdir()
            pytest.skip(f"mounting a small file system is not allowed here: {done.stderr.strip()}")
        return folder

    yield mount
    if folder.is_dir():
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Disk:
    """What of a folder has been flushed to disk, by what is asked of `os`; nothing else survives a power cut.

    Each renaming is judged: what gets its final name must be flushed by then, since the name may reach the disk
    before the content; and `latest` must not name what the power cut would take.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.problems: list[str] = []
        self.flushes = self.renames = 0
        self.left_out = 0
        """The number of the flush that does not take place; 0 is none."""
        self.threads: set[str] = set()
        """Who flushed or renamed."""
        self._flushed: dict[int, object] = {}
        """Content by inode, and the entries of a folder as inodes."""
        self._held: list[int] = []
        """What keeps these inodes from being given to other files once theirs are deleted."""
        self._lock = threading.RLock()
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self.fsync)
        for name in ("rename", "replace"):
            patch.setattr(os, name, self._judging(getattr(os, name)))

    def fsync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        with self._lock:
            if path.is_relative_to(self.root):
                self.flushes += 1
                self.threads.add(threading.current_thread().name)
                if self.flushes != self.left_out:
                    self._held.append(os.dup(handle))
                    self._flushed[path.stat().st_ino] = self._content(path)
        self._fsync(handle)

    def close(self) -> None:
        for handle in self._held:
            os.close(handle)

    def lost(self, path: Path | None = None) -> list[str]:
        """What a power cut now would take of what is seen below `path`, or of its name; by name."""
        path = path or self.root
        names = [place.name for place in [path, *path.rglob("*")] if not self._is_flushed(place)]
        for place in [path, *path.parents]:
            if place == self.root:
                break
            entries = self._flushed.get(place.parent.stat().st_ino)
            if not isinstance(entries, dict) or entries.get(place.name) != place.stat().st_ino:
                names.append(f"the name {place.name}")
        return names

    def _judging(self, honest: Callable[..., None]) -> Callable[..., None]:
        def judge(old: Path, new: Path) -> None:
            with self._lock:
                old, new = Path(old), Path(new)
                if new.is_relative_to(self.root):
                    self.renames += 1
                    self.threads.add(threading.current_thread().name)
                    lost = [place.name for place in [old, *old.rglob("*")] if not self._is_flushed(place)]
                    if new.name == "latest":
                        lost += self.lost(new.parent / old.read_text(encoding="utf-8").strip())
                    if lost:
                        self.problems.append(f"{new.name} named before {', '.join(lost)} was flushed")
                honest(old, new)

        return judge

    def _is_flushed(self, path: Path) -> bool:
        """A folder is, if all that is in it now was: what has been deleted since may come back."""
        then, now = self._flushed.get(path.stat().st_ino), self._content(path)
        return now.items() <= then.items() if isinstance(then, dict) and isinstance(now, dict) else now == then

    @staticmethod
    def _content(path: Path) -> object:
        if path.is_dir():
            return {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """What a power cut would leave of `tmp_path`, from now on."""
    watched = Disk(tmp_path, monkeypatch)
    yield watched
    watched.close()


class ObjectServer:
    """moto's S3 on a free port of the loopback, with a bucket; `fault` answers a request instead of it."""

    BUCKETS = itertools.count()

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._s3 = DomainDispatcherApplication(create_backend_app)
        self.requests: list[str] = []
        """Every request so far, as `PUT /bucket/key?query`."""
        self.fault: Callable[[str], int] = lambda _request: 0
        """The status to answer a request with; 0 lets S3 answer, and -n lets the connection break after n bytes. It may
        take its time."""
        self.port = 0
        self.bucket = f"bucket-{next(self.BUCKETS)}"
        self.start()
        self.ask("PUT", f"/{self.bucket}")

    def start(self) -> None:
        """Listen, on the same port if it has had one; what was stored is still there."""
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self.port, self._answer, threaded=True)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find and use it."""
        keys = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
        return {**keys, "AWS_ENDPOINT_URL": self.endpoint, "AWS_EC2_METADATA_DISABLED": "true"}

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """A plain request, past the faults and the record."""
        import urllib.request

        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request"}
        request = urllib.request.Request(
            self.endpoint + path, body, {**headers, "X-Aside": "1", "Content-Type": "text/plain"}, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        query = f"?{environ['QUERY_STRING']}" if environ.get("QUERY_STRING") else ""
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{query}"
        status = 0
        if "HTTP_X_ASIDE" not in environ:
            self.requests.append(request)
            status = self.fault(request)
            if status > 0:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                code = {403: "AccessDenied", 503: "ServiceUnavailable"}.get(status, "InternalError")
                words = (
                    ""
                    if request.startswith("HEAD")
                    else f"<Error><Code>{code}</Code><Message>told to</Message></Error>"
                )
                headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(words)))]
                start_response(f"{status} {code}", headers)
                return [words.encode()]
        answer: Iterable[bytes] = self._s3(environ, start_response)
        return [b"".join(answer)[:-status]] if status < 0 else answer


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    """A real S3-speaking server, which this process and its children take for Amazon's."""
    server = ObjectServer()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.stop()
