"""The GGUF files of an export by name: whole ones, and those that were written in parts.

A model in parts is named by its first, `model-f16-00001-of-00003.gguf`, from which llama.cpp finds the others.
"""

from __future__ import annotations

import re
from pathlib import Path

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(path: Path) -> list[Path]:
    """The file, or all files of the model whose first part it is."""
    match = PART.fullmatch(path.name)
    if match is None:
        return [path]
    return [path.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, int(match[3]) + 1)]


def gguf_model(folder: Path, kind: str) -> Path:
    """The file of a type in a folder: the whole one, or the first part where that is there."""
    return next(iter(folder.glob(f"model-{kind}-00001-of-*.gguf")), folder / f"model-{kind}.gguf")


def gguf_models(folder: Path) -> list[tuple[Path, int]]:
    """Every GGUF model of a folder, whole or by its first part, with its bytes, the smallest first."""
    found = [(path, PART.fullmatch(path.name)) for path in folder.glob("model-*.gguf")]
    first = [path for path, part in found if part is None or part[2] == "00001"]
    sized = [(path, sum(file.stat().st_size for file in parts_of(path))) for path in first]
    return sorted(sized, key=lambda found: (found[1], found[0]))
