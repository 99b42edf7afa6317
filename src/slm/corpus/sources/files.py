"""Files named by a path, a directory or a glob, here or at any address that fsspec knows.

In: a source's path. Out: which files it names, their identity, and streams of their bytes. What lies elsewhere is
read by ranges of `BLOCK_BYTES`, each tried again where the connection breaks (`slm.core.store.attempt`), so that a
reader above, a decompressor or a Parquet reader, never notices; memory holds `BLOCKS` of them.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

from slm.core.artifact import MANIFEST, Artifact, open_artifact
from slm.core.errors import UserError
from slm.core.manifest import read_manifest
from slm.core.store import attempt, file_system
from slm.corpus.config import SourceConfig

BLOCK_BYTES = 4 << 20
BLOCKS = 4
PACKED = (".gz", ".zst")
GROWTH = 4
"""About how many bytes of text a byte of gzip or zstd holds, for cutting units and the time left."""


class Found(NamedTuple):
    """A file: its path or address, the name it has in document ids (relative to the directory or the glob's fixed
    part), its size, and what changes when its content does."""

    address: str
    name: str
    size: int
    version: str

    @property
    def text_bytes(self) -> int:
        """About how much text it holds."""
        return self.size * GROWTH if self.name.endswith(PACKED) else self.size


def find_files(config: SourceConfig, suffixes: tuple[str, ...]) -> list[Found]:
    """The files that `config.path` names, sorted by name; a directory gives those with one of `suffixes`."""
    is_here = "://" not in config.path or config.path.startswith("file://")
    files, rule = _local(config.path, suffixes) if is_here else _remote(config.path, suffixes)
    if not files:
        raise UserError(
            f"corpus.sources: {config.label} has path {config.path}, but {rule} (looked from {Path.cwd()}); "
            "correct the path, or name a finished corpus with artifacts.corpus=FOLDER"
        )
    return sorted(files, key=lambda found: found.name)


def files_signature(config: SourceConfig, suffixes: tuple[str, ...]) -> dict[str, Any]:
    """Size and version of each file, by name."""
    return {found.name: [found.size, found.version] for found in find_files(config, suffixes)}


def artifact_read(config: SourceConfig) -> Artifact | None:
    """The artifact among whose files are those that a source reads here, such as rationales.

    None where there is none: a `manifest.json` that is not ours says nothing. Raises `DamagedError` where a file of it
    is not what its manifest promises.
    """
    path = Path(config.path.removeprefix("file://")).expanduser()  # what lies elsewhere is no path of this machine
    folder = path if path.is_dir() else path.parent
    try:
        files = read_manifest(folder / MANIFEST)["files"]
    except (UserError, FileNotFoundError):
        return None
    is_part = path.is_dir() or has_magic(path.name) or path.name in files
    return open_artifact(folder) if is_part else None


@contextlib.contextmanager
def unpacked(address: str) -> Iterator[BinaryIO]:
    """A stream of a file's content, gzip and zstd undone by the ending of its name, for as long as the block lasts."""
    with opened(address) as stream:
        if address.endswith(".gz"):
            with gzip.open(stream) as content:
                yield cast("BinaryIO", content)
        elif address.endswith(".zst"):
            import pyarrow as pa

            raw = _Reader(pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd"))
            with io.BufferedReader(raw, 1 << 17) as content:
                yield cast("BinaryIO", content)
        else:
            yield stream


def opened(address: str) -> BinaryIO:
    """A file's bytes, seekable; at an address, each range of them is asked for until it comes."""
    if "://" not in address:
        return Path(address).open("rb")
    return cast("BinaryIO", io.BufferedReader(_Ranges(address), 1 << 17))


@contextlib.contextmanager
def on_disk(address: str) -> Iterator[IO[bytes]]:
    """A file as one on this disk, to be mapped: itself, or an unpacked copy for as long as the block lasts."""
    if "://" not in address and not address.endswith(PACKED):
        with Path(address).open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as copy:
        with unpacked(address) as stream:
            shutil.copyfileobj(stream, copy, 1 << 20)
        copy.flush()
        yield copy


def is_damage(error: Exception) -> bool:
    """Whether reading failed because of what a file holds, and not because it could not be reached."""
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return True
    return isinstance(error, OSError | ValueError) and getattr(error, "errno", None) is None


def _local(text: str, suffixes: tuple[str, ...]) -> tuple[list[Found], str]:
    text = text.removeprefix("file://")
    path = Path(text).expanduser()
    if path.is_file():
        return [_found(path, path.name)], ""
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(suffixes)]
        base, rule = path, f"no {' or '.join(suffixes)} file is in it"
    elif has_magic(text):
        fixed = next(index for index, part in enumerate(path.parts) if has_magic(part))
        base, rule = Path(*path.parts[:fixed]), "no file matches"
        files = [file for file in base.glob("/".join(path.parts[fixed:])) if file.is_file()]
    else:
        return [], "no such file or directory"
    return [_found(file, file.relative_to(base).as_posix()) for file in files], rule


def _found(path: Path, name: str) -> Found:
    stat = path.stat()
    return Found(str(path), name, stat.st_size, str(stat.st_mtime_ns))


def _remote(address: str, suffixes: tuple[str, ...]) -> tuple[list[Found], str]:
    files, root = file_system(address)
    root = root.rstrip("/")

    def look() -> tuple[dict[str, Any], str, str]:
        files.invalidate_cache()
        if has_magic(root):
            parts = root.split("/")
            fixed = next(index for index, part in enumerate(parts) if has_magic(part))
            return dict(files.glob(root, detail=True)), "/".join(parts[:fixed]), "no file matches"
        if files.isfile(root):
            return {root: files.info(root)}, root.rpartition("/")[0], ""
        inside = {path: facts for path, facts in files.find(root, detail=True).items() if path.endswith(suffixes)}
        return inside, root, f"no {' or '.join(suffixes)} file is in it"

    found, base, rule = attempt(address, "listed", look)
    return [
        Found(files.unstrip_protocol(path), path.removeprefix(base).lstrip("/"), int(facts["size"]), _version(facts))
        for path, facts in found.items()
        if facts["type"] == "file"
    ], rule


def _version(facts: dict[str, Any]) -> str:
    """What the storage says of a file's content: a tag, or the time of its change."""
    names = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "updated", "created")
    return next((str(facts[name]) for name in names if facts.get(name)), "")


class _Ranges(io.RawIOBase):
    """A remote file as a seekable stream that asks for ranges and keeps the last few."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._files, self._path = file_system(address)
        self._size = int(attempt(address, "read", lambda: self._files.info(self._path))["size"])
        self._position = 0
        self._blocks: dict[int, bytes] = {}

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, target: Any) -> int:
        number, within = divmod(self._position, BLOCK_BYTES)
        block = self._block(number)[within : within + len(target)] if self._position < self._size else b""
        target[: len(block)] = block
        self._position += len(block)
        return len(block)

    def _block(self, number: int) -> bytes:
        if number not in self._blocks:
            start = number * BLOCK_BYTES
            stop = min(start + BLOCK_BYTES, self._size)

            def fetch() -> bytes:
                content = bytes(self._files.cat_file(self._path, start=start, end=stop))
                if len(content) != stop - start:
                    raise ConnectionError(f"{len(content):,} of {stop - start:,} bytes came")
                return content

            self._blocks[number] = attempt(self._address, f"read from byte {start:,} on", fetch)
            if len(self._blocks) > BLOCKS:
                del self._blocks[next(iter(self._blocks))]
        return self._blocks[number]


class _Reader(io.RawIOBase):
    """An Arrow stream as one of Python's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        content = self._stream.read(len(target))
        target[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
