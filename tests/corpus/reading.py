"""What tests of the sources share: reading a source unit by unit, as a corpus does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm.corpus import source
from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.units import Unit, group

UNIT_BYTES = 64_000_000


def units_of(config: SourceConfig, unit_bytes: int = UNIT_BYTES) -> list[Unit]:
    grouped = group(source(config.kind).pieces(config, unit_bytes), unit_bytes)
    return [Unit(number, 0, pieces, str(number)) for number, pieces in enumerate(grouped)]


def read_all(config: SourceConfig, rejects: Rejects | None = None, unit_bytes: int = UNIT_BYTES) -> Iterator[Document]:
    rejects = rejects or Rejects()
    for unit in units_of(config, unit_bytes):
        yield from source(config.kind).read(config, unit, rejects)


def source_of(kind: str, path: Path | str, **settings: Any) -> SourceConfig:
    return SourceConfig.model_validate({"kind": kind, "path": str(path), "licence": "MIT", **settings})
