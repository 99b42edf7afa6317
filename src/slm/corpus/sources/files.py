"""Files on disk, named by a path, a directory or a glob: which they are, and their identity."""

from __future__ import annotations

from glob import has_magic
from pathlib import Path
from typing import Any, NamedTuple

from slm.core.errors import UserError
from slm.corpus.config import SourceConfig


class Found(NamedTuple):
    """A file and the name it has in document ids: relative to the directory or the glob's fixed part."""

    path: Path
    name: str


def find_files(config: SourceConfig, suffixes: tuple[str, ...]) -> list[Found]:
    """The files that `config.path` names, sorted by name; a directory gives those with one of `suffixes`."""
    path = Path(config.path).expanduser()
    if path.is_file():
        return [Found(path, path.name)]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(suffixes)]
        base, rule = path, f"no {' or '.join(suffixes)} file is in it"
    elif has_magic(config.path):
        fixed = next(index for index, part in enumerate(path.parts) if has_magic(part))
        base, rule = Path(*path.parts[:fixed]), "no file matches"
        files = [file for file in base.glob("/".join(path.parts[fixed:])) if file.is_file()]
    else:
        base, files, rule = path, [], "no such file or directory"
    if not files:
        raise UserError(
            f"corpus.sources: {config.label} has path {config.path}, but {rule} (looked from {Path.cwd()}); "
            "correct the path, or name a finished corpus with artifacts.corpus=FOLDER"
        )
    return sorted((Found(file, file.relative_to(base).as_posix()) for file in files), key=lambda found: found.name)


def files_signature(config: SourceConfig, suffixes: tuple[str, ...]) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    stats = {found.name: found.path.stat() for found in find_files(config, suffixes)}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
