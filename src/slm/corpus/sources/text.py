"""Plain text files: each is one document, or falls into documents at the matches of `separator`.

Files are memory-mapped and split as bytes, so a file larger than memory works and an error names the byte.
Text is kept as it is: line ends, control characters and spaces survive; only a byte-order mark at a file's
start is dropped, being a signature and not text.
"""

from __future__ import annotations

import codecs
import mmap
import re
from collections.abc import Iterator
from typing import Any

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.files import Found, files_signature, find_files

SUFFIXES = (".txt", ".text", ".md", ".rst")


def read(config: SourceConfig, rejects: Rejects) -> Iterator[Document]:
    """The documents of each file in turn."""
    for found in find_files(config, SUFFIXES):
        for number, (offset, content) in enumerate(_pieces(found, config.separator)):
            text = rejects.decode(content, str(found.path), offset)
            if text is not None:
                place = f"{found.name}:{number}" if config.separator else found.name
                yield Document.of(config, place, text, file=found.name)


def signature(config: SourceConfig) -> dict[str, Any]:
    """Name, size and time of change of each file."""
    return files_signature(config, SUFFIXES)


def _pieces(found: Found, separator: str) -> Iterator[tuple[int, bytes]]:
    """The parts of a file between matches of `separator`, each with its offset in the file."""
    with found.path.open("rb") as stream:
        if stream.seek(0, 2) == 0:  # an empty file cannot be mapped
            yield 0, b""
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            start = len(codecs.BOM_UTF8) if content[:3] == codecs.BOM_UTF8 else 0
            for match in re.finditer(separator.encode(), content) if separator else ():
                if match.end() > start and not _inside(content, match.start()) and not _inside(content, match.end()):
                    if match.start() > start:
                        yield start, content[start : match.start()]
                    start = match.end()
            yield start, content[start:]


def _inside(content: mmap.mmap, offset: int) -> bool:
    """Whether `offset` lies inside a character: where an expression for bytes may match, but no text ends."""
    return offset < len(content) and content[offset] & 0xC0 == 0x80
