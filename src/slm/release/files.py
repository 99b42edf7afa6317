"""Where the files of a format lie, in an export as in a bundle: llama.cpp's are files, the others a folder."""

from __future__ import annotations

import re
from pathlib import Path

from slm.core.model_files import gguf_model
from slm.export.config import Format


def exported_path(folder: Path, name: Format) -> Path:
    """The file or folder of a format in `folder`."""
    family, _, kind = name.partition("_")
    return gguf_model(folder, kind) if family == "gguf" else folder / name


def belongs(file: str, name: Format) -> bool:
    """Whether a file, named relative to the export or the bundle, is one of the format's."""
    family, _, kind = name.partition("_")
    if family == "gguf":
        return re.fullmatch(rf"model-{kind}(-\d{{5}}-of-\d{{5}})?\.gguf", file) is not None
    return Path(file).is_relative_to(name)
