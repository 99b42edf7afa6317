"""Artifacts: directories with a `manifest.json`, published atomically and never half there.

What goes in: a `Spec` (kind, settings, parents, inputs, seed) and a function that writes files. What
comes out: a directory whose manifest holds the sha256 and size of every file. The manifest is written
last and the directory is renamed into place after everything in it was flushed to disk, so a directory
with a manifest is complete, whatever was killed or ran full on the way.

Two hashes, two questions. The *key* covers what an artifact is made from, and answers "does this still
have to be made?" before any work. The *fingerprint* covers key and file contents, and answers "is this
the very thing that the child was made from?". A *checksum* over the manifest itself guards the rest of it
(counts, settings, parents) against a flipped bit. Opening checks every size and hashes files up to
`SMALL_FILE_BYTES`; `verify="full"` hashes all (about 1 s per 2 GB here).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from slm.core.config import Config
from slm.core.console import say, size
from slm.core.errors import DamagedError, UserError, is_disk_full
from slm.core.manifest import FORMAT_VERSION, digest, manifest_checksum, read_manifest
from slm.core.provenance import git_commit, library_versions

MANIFEST = "manifest.json"
LATEST = "latest"
SMALL_FILE_BYTES = 64 << 20

Verify = Literal["small", "full"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A complete artifact on disk."""

    path: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.manifest["kind"])

    @property
    def key(self) -> str:
        return str(self.manifest["key"])

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def counts(self) -> dict[str, Any]:
        return dict(self.manifest["counts"])

    @property
    def section(self) -> dict[str, Any]:
        return dict(self.manifest["section"])

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files; a name the manifest does not list is an error."""
        if name not in self.manifest["files"]:
            raise UserError(f"{self.path} ({self.kind}) has no file {name}; it has {', '.join(self.manifest['files'])}")
        return self.path / name


@dataclass(frozen=True, slots=True)
class Spec:
    """Everything that an artifact is made from. `inputs` are facts from outside: files read, versions."""

    kind: str
    config: Config
    parents: Mapping[str, Artifact] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def ingredients(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "format_version": FORMAT_VERSION,
            "settings": self.config.identity(),
            "parents": {name: parent.fingerprint for name, parent in self.parents.items()},
            "inputs": json.loads(json.dumps(self.inputs, sort_keys=True, default=str)),
            "seed": self.seed,
        }

    @property
    def key(self) -> str:
        return digest(self.ingredients())


@dataclass(slots=True)
class Draft:
    """An artifact in the making: write files below `path`, put figures into `counts`."""

    path: Path
    counts: dict[str, Any] = field(default_factory=dict)
    sealed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What `seal_file` said of files that are finished, by name; the others are sealed in the end."""


def make(path: Path, spec: Spec, build: Callable[[Draft], None], *, redo: bool = False) -> Artifact:
    """The artifact at `path`: the one that is there if it matches `spec`, else the one `build` writes.

    One made from something else is refused with the differences, or replaced if `redo`.
    """
    existing = find(path, spec, redo=redo)
    if existing is not None:
        say(f"{spec.kind}: up to date in {path} ({existing.fingerprint[:12]})")
        return existing
    with create(path, spec) as draft:
        build(draft)
    artifact = open_artifact(path, spec.kind)
    total = sum(record["size_bytes"] for record in artifact.manifest["files"].values())
    say(f"{spec.kind}: wrote {path} ({size(total)}, {artifact.fingerprint[:12]})")
    return artifact


def find(path: Path, spec: Spec, *, redo: bool = False) -> Artifact | None:
    """The artifact at `path` if it was made from exactly `spec`; None if there is none (or `redo`)."""
    remove_abandoned(path)
    if not path.exists():
        return None
    if not (path / MANIFEST).exists():
        raise UserError(
            f"{path} exists but holds no {MANIFEST}, so it is not an artifact; move it away or choose another run="
        )
    try:
        existing = open_artifact(path, spec.kind)
    except UserError:
        if redo:
            return None
        raise
    if existing.key == spec.key:
        return existing
    if redo:
        return None
    raise UserError(
        f"{path} was made by another recipe or from other data ({'; '.join(changes(existing.manifest, spec))}); "
        "choose another run=NAME to keep it, or add redo=true to replace it"
    )


@contextlib.contextmanager
def create(path: Path, spec: Spec) -> Iterator[Draft]:
    """Write an artifact beside `path` and put it there in one rename when the block ends well.

    If the block raises, what it wrote is deleted and what was at `path` before is untouched.
    """
    with placed(path) as folder:
        draft = Draft(folder)
        yield draft
        _seal(draft, spec, path.absolute())


@contextlib.contextmanager
def placed(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which takes its place in one rename when the block ends well.

    What is written into it must be flushed to disk by the block.
    """
    path = path.absolute()
    folder = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        make_folder(path.parent)
        remove_abandoned(path)
        folder.mkdir()
    except OSError as error:
        if is_disk_full(error):
            raise
        reason = f"{error.strerror}: {error.filename}"
        raise UserError(f"{path} cannot be written ({reason}); free the place, or point runs_dir elsewhere") from error
    try:
        yield folder
        _replace(folder, path)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if is_disk_full(error):
            raise UserError(
                f"the disk filled up while writing {path} ({size(shutil.disk_usage(path.parent).free)} free); "
                "nothing was published and earlier artifacts are intact: free some space, or point runs_dir elsewhere, "
                "and run the same command again"
            ) from error
        raise


def open_artifact(path: Path, kind: str | None = None, *, verify: Verify = "small") -> Artifact:
    """Read and check the artifact at `path`.

    Raises `UserError` where there is none or it is of another kind, `DamagedError` where a file is
    missing, truncated or changed.
    """
    manifest_path = path / MANIFEST
    what = kind or "artifact"
    if not manifest_path.is_file():
        raise UserError(f"there is no {what} in {path} (no {MANIFEST}); make it first, or correct the path")
    manifest = read_manifest(manifest_path)
    if kind is not None and manifest["kind"] != kind:
        raise UserError(f"{path} holds a {manifest['kind']}, but a {kind} is needed here; correct the path")
    for name, record in manifest["files"].items():
        _check_file(path / name, record, verify)
    return Artifact(path, manifest)


def verify_files(artifact: Artifact, names: Iterable[str]) -> None:
    """Hash these files of an artifact; raises `DamagedError` where one is not what the manifest promises."""
    for name in names:
        _check_file(artifact.path / name, artifact.manifest["files"][name], "full")


def require_parent(child: Artifact, name: str, parent: Artifact) -> None:
    """Refuse `child` unless it was made from exactly `parent`."""
    recorded = child.manifest["parents"].get(name, {}).get("fingerprint", "none")
    if recorded != parent.fingerprint:
        raise UserError(
            f"{child.path} ({child.kind}) was made from {name} {recorded[:12]}, but {parent.path} is "
            f"{parent.fingerprint[:12]}; point artifacts.{name} at the one it was made from, or make the "
            f"{child.kind} again with redo=true"
        )


def changes(manifest: Mapping[str, Any], spec: Spec) -> list[str]:
    """How what an artifact was made from differs from `spec`, also in the settings of parents."""
    found = differences(manifest["ingredients"], spec.ingredients())
    for name, parent in spec.parents.items():
        before = manifest["parents"].get(name, {}).get("settings")
        if before is not None:
            found += differences(before, parent.manifest["ingredients"]["settings"], name)
    return found


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Readable differences of two JSON values, as `dotted.key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        ]
    if old == new:
        return []
    return [f"{prefix.removeprefix('settings.')}: {_short(old)} -> {_short(new)}"]


def newest(folder: Path) -> Path:
    """The artifact that the text file `latest` in `folder` names, or `folder` itself where there is none."""
    pointer = folder / LATEST
    return folder / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else folder


def newest_checkpoint(where: Path) -> Path:
    """The folder of the newest checkpoint of a run, named by the run's folder, its train folder or one step of it."""
    return newest(where / "train" if (where / "train" / LATEST).is_file() else where)


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync_directory(path: Path) -> None:
    """Flush a directory's entries, so that a rename or a new file in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Create a folder, and those above it that are missing, so that they survive a power cut."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        fsync_directory(path.parent)


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    fsync_directory(path.parent)


def remove_abandoned(path: Path) -> None:
    """Delete drafts of `path` whose process is gone; put back what a killed replacement had set aside.

    One under this process's own number is abandoned too: in containers every run may have the same number.
    """
    for leftover in [*path.parent.glob(f"{path.name}.tmp-*"), *path.parent.glob(f"{path.name}.old-*")]:
        number = leftover.name.rpartition("-")[2]
        if number != str(os.getpid()) and _alive(number):
            continue
        if ".old-" in leftover.name and not path.exists():
            leftover.rename(path)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def seal_file(file: Path) -> dict[str, Any]:
    """Flush a file to disk; returns what the manifest records of it."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    return {"sha256": file_sha256(file), "size_bytes": file.stat().st_size}


def _seal(draft: Draft, spec: Spec, final: Path) -> None:
    files = {}
    for file in sorted(draft.path.rglob("*")):
        if file.is_file():
            name = file.relative_to(draft.path).as_posix()
            files[name] = draft.sealed.get(name) or seal_file(file)
    for directory in sorted((d for d in draft.path.rglob("*") if d.is_dir()), reverse=True):
        fsync_directory(directory)
    ingredients = spec.ingredients()
    manifest: dict[str, Any] = {
        "kind": spec.kind,
        "format_version": FORMAT_VERSION,
        "key": digest(ingredients),
        "fingerprint": digest({"key": digest(ingredients), "files": files}),
        "files": files,
        "parents": {
            name: {
                "fingerprint": parent.fingerprint,
                "kind": parent.kind,
                "path": os.path.relpath(parent.path.absolute(), final),
                "settings": parent.manifest["ingredients"]["settings"],
            }
            for name, parent in spec.parents.items()
        },
        "counts": draft.counts,
        "section": spec.config.resolved(),
        "ingredients": ingredients,
        "seed": spec.seed,
        "versions": library_versions(),
        "git_commit": git_commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
    }
    manifest["checksum"] = manifest_checksum(manifest)
    write_atomically(draft.path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def _replace(draft: Path, path: Path) -> None:
    aside = path.with_name(f"{path.name}.old-{os.getpid()}")
    if path.exists():
        path.rename(aside)
    draft.rename(path)
    fsync_directory(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _check_file(path: Path, record: Mapping[str, Any], verify: Verify) -> None:
    way_out = "delete the artifact's folder and run the same command again"
    if not path.is_file():
        raise DamagedError(f"{path} is missing although its manifest lists it; {way_out}")
    found, expected = path.stat().st_size, record["size_bytes"]
    if found != expected:
        raise DamagedError(f"{path} is damaged: {found:,} bytes found, {expected:,} in its manifest; {way_out}")
    if (verify == "full" or expected <= SMALL_FILE_BYTES) and file_sha256(path) != record["sha256"]:
        raise DamagedError(f"{path} is damaged: its sha256 is not the one in its manifest; {way_out}")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
