"""Where the files of a format lie, in an export as in a bundle: llama.cpp's are one file each, the others a folder."""

from __future__ import annotations

from pathlib import Path

from slm.export.config import Format


def exported_path(folder: Path, name: Format) -> Path:
    """The file or folder of a format in `folder`."""
    family, _, kind = name.partition("_")
    return folder / f"model-{kind}.gguf" if family == "gguf" else folder / name


def belongs(file: str, name: Format) -> bool:
    """Whether a file, named relative to the export or the bundle, is one of the format's."""
    return Path(file).is_relative_to(exported_path(Path(), name))
