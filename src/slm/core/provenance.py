"""What made a result: versions of libraries and the commit, asked once a process for every manifest; the processor.

What it does not do: tell what a dirty checkout's changes were.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

RECORDED_LIBRARIES = (
    "torch",
    "numpy",
    "sentencepiece",
    "tokenizers",
    "transformers",
    "pyarrow",
    "safetensors",
    "ftfy",
    "rensa",
)


@functools.cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@functools.cache
def git_commit() -> str:
    """The commit of the source tree this package runs from, with `-dirty`; "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        tracked = _git(here, "ls-files", "--error-unmatch", str(Path(__file__)))
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no") if tracked else ""
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if dirty else commit


def processor_name() -> str:
    """The processor as Linux calls it, beside figures that were measured on it; else its architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def _git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()
