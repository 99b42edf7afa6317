"""The manifest of an artifact: what it must hold, its checksum, and the fingerprint of what it describes.

In: the JSON of a `manifest.json`, from a disk or a bucket. Out: a dictionary in which everything that other modules
reach for is there and of its type; what `counts`, `section` and `inputs` hold is their makers' business. Whoever knows
how a checksum is made can write any manifest, so no name in it is trusted to stay inside the artifact's folder either.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from slm.core.errors import DamagedError, UserError

FORMAT_VERSION = 1


MOST_NAME_BYTES = 255
"""Of a name between slashes, on the file systems in use."""


def _possible(path: str) -> str:
    """A path that a file system can be asked about."""
    if "\0" in path or len(path) > 4000 or any(len(part.encode()) > MOST_NAME_BYTES for part in Path(path).parts):
        raise ValueError("no file system has such a path")
    return path


def _inside(name: str) -> str:
    """The name of a file that stays below the folder that it is joined to."""
    if name in ("", ".") or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("the name of a file must lead to a place inside the artifact")
    return _possible(name)


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)


class _File(_Record):
    sha256: str
    size_bytes: int = Field(ge=0)


class _Parent(_Record):
    fingerprint: str
    kind: str
    path: Annotated[str, AfterValidator(_possible)]
    settings: dict[str, Any]


class _Ingredients(_Record):
    settings: dict[str, Any]
    parents: dict[str, str]
    inputs: dict[str, Any]
    seed: int


class _Manifest(_Record):
    kind: str
    format_version: int
    key: str
    fingerprint: str
    files: dict[Annotated[str, AfterValidator(_inside)], _File]
    parents: dict[str, _Parent]
    counts: dict[str, Any]
    section: dict[str, Any]
    ingredients: _Ingredients
    checksum: str


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that is whole by its own checksum; see `parse_manifest`."""
    return parse_manifest(path.read_bytes(), str(path))


def parse_manifest(content: bytes, where: str) -> dict[str, Any]:
    """A manifest from its JSON; `DamagedError`, with `where` it lies, unless it is whole by its own checksum."""
    try:
        manifest = json.loads(content)
        version = manifest.get("format_version") if isinstance(manifest, dict) else None
        if isinstance(version, int) and version != FORMAT_VERSION:
            raise UserError(
                f"{where} has format version {version}, this slm reads {FORMAT_VERSION}; make the artifact again"
            )
        _Manifest.model_validate(manifest)
        whole = manifest["checksum"] == manifest_checksum(manifest)
    except (ValueError, RecursionError) as error:
        raise DamagedError(
            f"{where} is not readable as a manifest ({_reason(error)}); make the artifact again"
        ) from error
    if not whole:
        raise DamagedError(f"{where} was changed after it was written (its checksum differs); make the artifact again")
    return dict(manifest)


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """What a manifest's `checksum` must be: the hash of all its other entries."""
    return digest({name: value for name, value in manifest.items() if name != "checksum"})


def manifest_fingerprint(manifest: Mapping[str, Any]) -> str:
    """What a manifest's `fingerprint` must be, from what it says it was made of and the hashes of its files."""
    return digest({"key": digest(manifest["ingredients"]), "files": manifest["files"]})


def digest(value: Any) -> str:
    """The hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _reason(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
