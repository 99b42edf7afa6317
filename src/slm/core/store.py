"""Artifacts on object storage: any address that fsspec knows (`s3://`, `gs://`, `az://`, `file://`, `memory://`).

In: artifacts on disk. Out: the same files below an address, one folder for each, and back. There are no
renames on object storage, so the order of writing stands for them: all files first (large ones in parts), then
`manifest.json`, then `latest`; whatever has no manifest is not there. What is fetched is verified against the
manifest's sizes and sha256, once more if it differs, and put in place as every artifact is, in one rename.

Connections that break, time-outs, throttling and answers of 500 and above may pass: they are tried again,
`ATTEMPTS` times with waits that double (about 15 s in all), and counted. Anything else, and these in the end,
is a `StoreError`. Nothing is locked: one process writes below an address. Parts of a large file whose upload
was killed stay with the provider until a lifecycle rule of the bucket removes them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from slm.core.artifact import (
    LATEST,
    MANIFEST,
    Artifact,
    file_sha256,
    fsync_directory,
    open_artifact,
    placed,
    write_atomically,
)
from slm.core.errors import DamagedError, UserError, is_disk_full
from slm.core.manifest import parse_manifest

ATTEMPTS = 6
DRIVER_RETRIES = 1
"""Of each request by S3's driver itself, uncounted, so that one part that fails does not send the whole file again."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 30.0
PART_BYTES = 32 << 20
"""A file of twice this size goes in parts; 10,000 of them is what S3 allows."""
MAX_PARTS = 10_000
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
PARTED = ("s3", "s3a", "gs", "gcs")
"""Whose drivers take the size of a part; Azure's chooses its own."""
PASSING_STATUSES = (408, 425, 429)
PASSING_NUMBERS = {
    errno.EBUSY, errno.EAGAIN, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN,
}  # fmt: skip
PASSING_NAMES = {
    "HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "IncompleteReadError",
    "ServiceRequestError", "ServiceResponseError", "TransportError", "FSTimeoutError",
}  # fmt: skip
"""Errors of botocore, aiohttp, azure-core, google-auth and fsspec about a connection, by the names of their classes."""
PASSING_WORDS = ("SlowDown", "RequestTimeout", "Throttl")

Result = TypeVar("Result")


class StoreError(UserError):
    """What the storage answered after all attempts; `passing` if it may answer otherwise later."""

    def __init__(self, message: str, *, passing: bool) -> None:
        self.passing = passing
        super().__init__(message)


class Store:
    """The artifacts below one address."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        self.retries = 0
        """Attempts that failed and were made again."""
        self.abandoned = threading.Event()
        """Set it to end all waits for another attempt, from any thread."""
        self._scheme = address.partition("://")[0]
        self._files, root = file_system(address)
        self._root = root.rstrip("/")

    def check(self) -> None:
        """Refuse an address that cannot be written, by writing an empty file there and deleting it."""
        probe = self._at(".writable")
        self._try("written", lambda: self._files.pipe_file(probe, b""))
        self._try("written", lambda: self._files.rm_file(probe))

    def published(self) -> list[str]:
        """Names of the complete artifacts, in descending order."""
        return sorted((name for name, files in self._listing().items() if MANIFEST in files), reverse=True)

    def incomplete(self) -> list[str]:
        """Names of the folders without a manifest: uploads that were killed, or are under way."""
        return sorted(name for name, files in self._listing().items() if name and MANIFEST not in files)

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a complete artifact."""
        content = self._try("read", lambda: self._files.cat_file(self._at(name, MANIFEST)))
        return parse_manifest(content, f"{self._shown(name)}/{MANIFEST}")

    def upload(self, artifact: Path, beside: Iterable[Path] = ()) -> None:
        """Publish the artifact in a folder under the folder's name, `beside` next to it, and point `latest` at it.

        One of that name that is there already stays if it is the same, else it is taken back first.
        """
        name, text = artifact.name, (artifact / MANIFEST).read_bytes()
        manifest = json.loads(text)
        there = self._listing().get(name, {})
        if MANIFEST in there:
            if self._same(name, manifest["fingerprint"]):
                return
            self.remove(name)
        for file in manifest["files"]:
            self._put(artifact / file, self._at(name, file))
        self.put_beside(beside)
        found = self._listing().get(name, {})
        wrong = [file for file, record in manifest["files"].items() if found.get(file) != record["size_bytes"]]
        if wrong or (artifact / MANIFEST).read_bytes() != text:
            reason = f"{', '.join(wrong)} did not arrive whole" if wrong else "it was replaced during the upload"
            raise StoreError(f"{self._shown(name)} was not published ({reason}); upload it again", passing=True)
        self._write(self._at(name, MANIFEST), text)
        self._write(self._at(LATEST), f"{name}\n".encode())

    def put_beside(self, files: Iterable[Path]) -> None:
        """Write files next to the artifacts, over those of the same names."""
        for file in files:
            self._put(file, self._at(file.name))

    def download(self, name: str, path: Path) -> Artifact:
        """Fetch a complete artifact and place it at `path`; `DamagedError` if it is not what its manifest says."""
        manifest = self.manifest(name)
        with placed(path) as folder:
            for file, record in manifest["files"].items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                self._get_verified(self._at(name, file), folder / file, record)
            self._get(self._at(name, MANIFEST), folder / MANIFEST)
            for directory in [folder, *(entry for entry in folder.rglob("*") if entry.is_dir())]:
                fsync_directory(directory)
            try:
                open_artifact(folder)
            except DamagedError as error:
                raise DamagedError(f"{self._shown(name)} was damaged before it was fetched: {error}") from error
        return open_artifact(path)

    def download_beside(self, folder: Path) -> list[Path]:
        """Fetch the files that lie next to the artifacts, over those in `folder`; `latest` is left out."""
        fetched = []
        for name in sorted(self._listing().get("", {})):
            target = folder / name
            if name != LATEST and not name.startswith("."):
                temporary = target.with_name(f"{name}.tmp-{os.getpid()}")
                self._get(self._at(name), temporary)
                temporary.replace(target)
                fetched.append(target)
        return fetched

    def remove(self, name: str) -> None:
        """Delete an artifact, its manifest first, so that a part of it is never taken for the whole."""
        for file in sorted(self._listing().get(name, {}), key=lambda file: (file != MANIFEST, file)):
            path = self._at(name, file)
            self._try("written", lambda path=path: self._delete(path))  # type: ignore[misc]

    def prune(self, keep: Iterable[str]) -> list[str]:
        """Delete the artifacts that `keep` does not name, and killed uploads of earlier ones than the newest.

        Nothing goes unless an artifact stays whose files all have the sizes in its manifest.
        """
        listing = self._listing()
        complete = sorted((name for name, files in listing.items() if MANIFEST in files), reverse=True)
        wanted = set(keep)
        stay = [name for name in complete if name in wanted]
        if not any(self._whole(name, listing[name]) for name in stay):
            return []
        gone = [name for name in complete if name not in wanted]
        gone += [name for name in listing if name and name not in complete and name < complete[0]]
        for name in gone:
            self.remove(name)
        return gone

    def set_aside(self, name: str) -> None:
        """Take a damaged artifact out of the published ones: its manifest is renamed, nothing else changes."""
        content = self._try("read", lambda: self._files.cat_file(self._at(name, MANIFEST)))
        self._write(self._at(name, f"{MANIFEST}.damaged"), content)
        self._try("written", lambda: self._delete(self._at(name, MANIFEST)))

    def _same(self, name: str, fingerprint: str) -> bool:
        try:
            return bool(self.manifest(name)["fingerprint"] == fingerprint)
        except DamagedError:
            return False

    def _whole(self, name: str, found: dict[str, int]) -> bool:
        try:
            files = self.manifest(name)["files"]
        except DamagedError:
            return False
        return all(found.get(file) == record["size_bytes"] for file, record in files.items())

    def _listing(self) -> dict[str, dict[str, int]]:
        """Size in bytes of every file, by artifact and name within it; files next to the artifacts under ""."""

        def find() -> dict[str, Any]:
            self._files.invalidate_cache()
            return dict(self._files.find(self._root, detail=True))

        listing: dict[str, dict[str, int]] = {}
        for path, facts in self._try("listed", find).items():
            folder, _, file = str(path).removeprefix(self._root).lstrip("/").partition("/")
            if not file:
                folder, file = "", folder
            listing.setdefault(folder, {})[file] = int(facts["size"])
        return listing

    def _put(self, source: Path, target: str) -> None:
        part_bytes = max(PART_BYTES, -(-source.stat().st_size // MAX_PARTS))
        options = {"chunksize": part_bytes} if self._scheme in PARTED else {}

        def put() -> None:
            self._files.put_file(str(source), target, **options)
            if self._scheme == "file":
                _flush(Path(target))

        self._try("written", put)

    def _write(self, target: str, content: bytes) -> None:
        """A small file, whole or not at all: object storage writes it in one request, a disk by a rename."""

        def write() -> None:
            if self._scheme != "file":
                self._files.pipe_file(target, content)
                return
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(Path(target), content.decode())

        self._try("written", write)

    def _get(self, source: str, target: Path) -> None:
        self._try("read", lambda: self._files.get_file(source, str(target)))
        _flush(target)

    def _get_verified(self, source: str, target: Path, record: dict[str, Any]) -> None:
        for _ in range(2):  # what differs may have been damaged on the way
            try:
                self._get(source, target)
            except StoreError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                raise DamagedError(
                    f"{source} in {self.address} is missing although its manifest lists it; "
                    "an earlier checkpoint may be whole"
                ) from error
            found = target.stat().st_size
            if found == record["size_bytes"] and file_sha256(target) == record["sha256"]:
                return
        what = (
            f"{found:,} bytes, {record['size_bytes']:,} in its manifest" if found != record["size_bytes"] else "sha256"
        )
        raise DamagedError(f"{source} in {self.address} is damaged ({what}); an earlier checkpoint may be whole")

    def _delete(self, path: str) -> None:
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return  # an attempt before this one whose answer was lost

    def _at(self, *names: str) -> str:
        return "/".join([self._root, *names])

    def _shown(self, name: str) -> str:
        return f"{self.address}/{name}"

    def _try(self, done: str, action: Callable[[], Result]) -> Result:
        def count() -> None:
            self.retries += 1

        return attempt(self.address, done, action, abandoned=self.abandoned, count=count)


def attempt(
    address: str,
    done: str,
    action: Callable[[], Result],
    *,
    abandoned: threading.Event | None = None,
    count: Callable[[], None] = lambda: None,
) -> Result:
    """What `action` returns, tried again after errors that may pass; `StoreError` in the end ("cannot be `done`").

    Setting `abandoned` ends a wait; `count` is called for each attempt that is made again.
    """
    import tenacity

    ended = abandoned or threading.Event()
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_when_event_set(ended),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_SECONDS, max=LONGEST_WAIT_SECONDS)
        + tenacity.wait_random(0, FIRST_WAIT_SECONDS),
        sleep=tenacity.sleep_using_event(ended),
        before_sleep=lambda _: count(),
        reraise=True,
    )
    try:
        return attempts(action)
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise _explained(address, done, error) from error


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: connections, time-outs, throttling, a server in trouble."""
    for cause in _causes(error):  # the first that tells; drivers wrap what botocore or aiohttp raised
        status = _http_status(cause)
        if any(word in str(cause) for word in PASSING_WORDS):
            return True
        if status is not None:
            return status >= 500 or status in PASSING_STATUSES
        if isinstance(cause, ConnectionError | TimeoutError) or getattr(cause, "errno", None) in PASSING_NUMBERS:
            return True
        if PASSING_NAMES & {kind.__name__ for kind in type(cause).__mro__}:
            return True
    return False


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it."""
    import fsspec

    scheme, separator, rest = address.partition("://")
    if not separator or not rest.strip("/"):
        raise UserError(f"{address!r} is no address of a folder; write it as s3://bucket/folder or file:///folder")
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "file":
        options = {"auto_mkdir": True}
    elif EXTRAS.get(scheme) == "s3":
        options["config_kwargs"] = {"retries": {"max_attempts": DRIVER_RETRIES}}
    try:
        files, root = fsspec.url_to_fs(address, **options)
    except ImportError as error:
        way_out = f"pip install 'slm[{EXTRAS[scheme]}]'" if scheme in EXTRAS else f"install it ({error})"
        raise UserError(f"{address} needs a driver for {scheme}:// that is not installed; {way_out}") from error
    except ValueError as error:
        raise UserError(
            f"{address} cannot be opened ({error}); write it as s3://bucket/folder, gs://, az:// or file:///folder"
        ) from error
    if EXTRAS.get(scheme) == "s3":
        files.retries = 1
    return files, str(root)


def _explained(address: str, done: str, error: Exception) -> StoreError:
    passing = may_pass(error)
    names = " ".join(kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__)
    statuses = [status for cause in _causes(error) if (status := _http_status(cause)) is not None]
    reason = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}").strip()[:300]
    if is_disk_full(error):
        way_out = f"free some space there ({_free(address)})"
    elif passing:
        way_out = "look at the network and the storage's own state, and run the same command again"
    elif isinstance(error, FileNotFoundError) or 404 in statuses:
        way_out = "make the bucket or container first, or correct the address"
    elif isinstance(error, PermissionError) or "Credential" in names or statuses[:1] in ([401], [403]):
        way_out = "set credentials that may write there (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, AZURE_*)"
    else:
        way_out = "correct the address or the storage's settings"
    return StoreError(f"{address} cannot be {done} ({reason}); {way_out}", passing=passing)


def _free(address: str) -> str:
    path = Path(address.removeprefix("file://"))
    return f"{shutil.disk_usage(path).free:,} bytes free" if path.is_dir() else "unknown"


def _flush(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _http_status(error: BaseException) -> int | None:
    """The status that a driver's error carries: botocore's response, or a number as aiohttp, Google and Azure have."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else None
    for name in ("status", "status_code", "code"):
        number = getattr(error, name, None)
        if isinstance(number, int) and 100 <= number < 600:
            return number
    return None
