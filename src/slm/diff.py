"""`slm diff A B`: what changed between two artifacts of the same kind, such as two corpora.

In: the folders of two artifacts, or of two runs. Out: settings, inputs, counts and files that differ, by dotted key,
old and new. Lists whose items have names are compared by name, so that a source that moved is no difference. Only
manifests are read: what two corpora say of 10 TB is compared in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slm.core.artifact import MANIFEST, Artifact, newest, open_artifact
from slm.core.console import size
from slm.core.errors import ProblemsError, UserError

LINES = 60
"""At most so many lines of a section are shown; how many more there are is said."""
MISSING = object()


def diff(arguments: Sequence[str]) -> str:
    """The text of `slm diff A B`."""
    if len(arguments) != 2:
        raise ProblemsError(["usage: slm diff A B, two artifacts such as runs/one/corpus runs/two/corpus"])
    old, new = (_opened(Path(argument)) for argument in arguments)
    if old.kind != new.kind:
        raise UserError(f"{old.path} holds a {old.kind} and {new.path} a {new.kind}; give two of the same kind")
    head = [f"{old.kind} {old.fingerprint[:12]} {old.path}", f"{new.kind} {new.fingerprint[:12]} {new.path}"]
    if old.fingerprint == new.fingerprint:
        return "\n".join([*head, "the same: key and every file are equal"])
    sections = {
        "settings": changes(old.section, new.section),
        "made from": changes(_origins(old), _origins(new)),
        "counts": changes(_counts(old), _counts(new)),
        "files": _file_changes(old.manifest["files"], new.manifest["files"]),
    }
    return "\n".join([*head, *(line for name, found in sections.items() for line in _section(name, list(found)))])


def changes(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Every value that differs, as `dotted.key: old -> new`, numbers with their difference."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from changes(old.get(key, MISSING), new.get(key, MISSING), f"{prefix}.{key}" if prefix else str(key))
    elif old is MISSING:
        yield f"{prefix}: only in the second: {_short(new)}"
    elif new is MISSING:
        yield f"{prefix}: only in the first: {_short(old)}"
    elif old != new:
        yield f"{prefix}: {_short(old)} -> {_short(new)}{_difference(old, new)}"


def _opened(path: Path) -> Artifact:
    found = newest(path)
    if not (found / MANIFEST).is_file() and (path / "corpus" / MANIFEST).is_file():
        found = path / "corpus"  # a run: its text is what most differs
    return open_artifact(found)


def _origins(artifact: Artifact) -> dict[str, Any]:
    ingredients = artifact.manifest["ingredients"]
    parents = {name: str(fingerprint)[:12] for name, fingerprint in ingredients["parents"].items()}
    return {**ingredients["inputs"], **parents, "seed": ingredients["seed"]}


def _counts(artifact: Artifact) -> dict[str, Any]:
    return {name: value for name, value in artifact.counts.items() if name != "mixture"}  # says the same as `sources`


def _by_name(value: Any) -> Any:
    """A list of things with names as a mapping by name."""
    if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
        return value
    names = [str(item.get("name") or item.get("kind") or number) for number, item in enumerate(value)]
    return dict(zip(names, value, strict=True)) if len(set(names)) == len(names) else value


def _file_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*old, *new}):
        if name not in old:
            yield f"{name}: only in the second ({size(new[name]['size_bytes'])})"
        elif name not in new:
            yield f"{name}: only in the first ({size(old[name]['size_bytes'])})"
        elif old[name]["sha256"] != new[name]["sha256"]:
            yield f"{name}: {size(old[name]['size_bytes'])} -> {size(new[name]['size_bytes'])}, other content"


def _section(name: str, lines: list[str]) -> Iterator[str]:
    yield f"{name}: {f'{len(lines):,} differ' if lines else 'equal'}"
    yield from (f"  {line}" for line in lines[:LINES])
    if len(lines) > LINES:
        yield f"  ... and {len(lines) - LINES:,} more"


def _difference(old: Any, new: Any) -> str:
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (old, new)):
        return ""
    return f" ({new - old:+,})" if isinstance(new - old, int) else f" ({new - old:+,.6g})"


def _short(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
