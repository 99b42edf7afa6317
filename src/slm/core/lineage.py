"""What an artifact was made from, back to the text: the chain of parents, followed on disk.

In: a path inside an artifact. Out: every ancestor, or a sentence where one is gone, damaged or no longer the one that
was recorded. An ancestor that many have in common is opened, and with `verify="full"` hashed, once.
"""

from __future__ import annotations

import os
from pathlib import Path

from slm.core.artifact import MANIFEST, Artifact, Verify, open_artifact
from slm.core.errors import DamagedError, UserError

Chain = list[tuple[int, Artifact | str]]


def lineage(path: Path, *, verify: Verify = "small") -> Chain:
    """The artifact that holds `path` and all that it was made from, as (depth, artifact) from the top.

    A parent that is gone or no longer the recorded one appears as a sentence instead.
    """
    start = path if path.is_dir() else path.parent
    while not (start / MANIFEST).is_file():
        if start == start.parent or start == Path():
            raise UserError(f"{path} lies in no artifact (no {MANIFEST} in it or above it); give a path inside a run")
        start = start.parent
    chain: Chain = []
    _ascend(open_artifact(start, verify=verify), (), chain, {}, verify)
    return chain


def _ascend(
    artifact: Artifact, below: tuple[str, ...], chain: Chain, opened: dict[Path, Artifact | UserError], verify: Verify
) -> None:
    depth, line = len(below), (*below, artifact.fingerprint)
    chain.append((depth, artifact))
    for name, parent in artifact.manifest["parents"].items():
        path = Path(os.path.normpath(artifact.path / parent["path"]))
        if path not in opened:
            opened[path] = _opened(path, verify)
        found = opened[path]
        if isinstance(found, UserError):
            what = "damaged" if isinstance(found, DamagedError) else "not there"
            chain.append((depth + 1, f"{name} {parent['fingerprint'][:12]}: {what} ({found})"))
        elif found.fingerprint != parent["fingerprint"]:
            sentence = f"{name} {parent['fingerprint'][:12]}: {path} is now {found.fingerprint[:12]}"
            chain.append((depth + 1, sentence))
        elif found.fingerprint in line:
            chain.append((depth + 1, f"{name} {found.fingerprint[:12]}: damaged ({path} names itself as its ancestor)"))
        else:
            _ascend(found, line, chain, opened, verify)


def _opened(path: Path, verify: Verify) -> Artifact | UserError:
    try:
        return open_artifact(path, verify=verify)
    except UserError as error:
        return error
