"""Finished units of a stage's work on disk: a folder each, named by what it is made from, published in one rename.

In: a unit of a stage's plan and a function that writes its files. Out: the folder `root/KEY` with these files and
`unit.json`, which holds what the function returned and the size and sha256 of each file. It is complete or not
there. Who makes it, when, and next to whom does not change a byte of it, so two that make the same one do no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

from slm.core.artifact import file_sha256, fsync_directory, seal_file, write_atomically
from slm.core.errors import DamagedError

FACTS = "unit.json"

Tick = Callable[[int, int], None]
"""Told the documents and bytes of text read so far in the unit, every now and then."""


class Unit(Protocol):
    """A piece of a stage's work."""

    @property
    def key(self) -> str:
        """The name of what it is made into: equal keys, equal bytes."""

    @property
    def bytes(self) -> int:
        """About how much text it holds."""


def publish(root: Path, unit: Unit, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Make the unit's folder in `root` of the files that `write` puts into a draft; returns its facts."""
    draft = root / f"{unit.key}.tmp-{socket.gethostname()}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        facts = write(draft)
        facts["files"] = {file.name: seal_file(file) for file in sorted(draft.iterdir())}
        write_atomically(draft / FACTS, json.dumps(facts, ensure_ascii=False))
        if not is_finished(root, unit):  # somebody else may have made the same
            shutil.rmtree(root / unit.key, ignore_errors=True)
            with contextlib.suppress(FileExistsError):
                draft.rename(root / unit.key)
        fsync_directory(root)
        return facts
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_finished(root: Path, unit: Unit) -> bool:
    """Whether the unit's folder is there, with files of the right sizes."""
    try:
        files = json.loads((root / unit.key / FACTS).read_text(encoding="utf-8"))["files"]
        return all((root / unit.key / name).stat().st_size == record["size_bytes"] for name, record in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_facts(root: Path, unit: Unit) -> dict[str, Any]:
    """What `unit.json` says of a finished unit."""
    return dict(json.loads((root / unit.key / FACTS).read_text(encoding="utf-8")))


def verified(root: Path, unit: Unit) -> Path:
    """The folder of a finished unit; `DamagedError` where a file is not what was written."""
    folder = root / unit.key
    for name, record in read_facts(root, unit)["files"].items():
        if file_sha256(folder / name) != record["sha256"]:
            raise DamagedError(
                f"{folder / name} is damaged: its sha256 is not the one in {FACTS}; delete {folder} and run the same "
                "command again, which makes that unit again"
            )
    return folder


def keep_only(root: Path, keys: Collection[str]) -> None:
    """Delete all finished units but those of `keys`, and the folder where nothing is left.

    Drafts that others may be writing stay.
    """
    remove_abandoned(root)
    for folder in root.iterdir():
        if folder.name not in keys and ".tmp-" not in folder.name:
            shutil.rmtree(folder, ignore_errors=True)
    if not any(root.iterdir()):
        root.rmdir()


def remove_abandoned(root: Path) -> None:
    """Delete what processes of this machine left behind that are gone."""
    for draft in root.glob(f"*.tmp-{socket.gethostname()}-*"):
        number = int(draft.name.rpartition("-")[2])
        with contextlib.suppress(PermissionError):
            try:
                os.kill(number, 0)
            except ProcessLookupError:
                shutil.rmtree(draft, ignore_errors=True)
