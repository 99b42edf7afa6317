"""The standard library of the running interpreter: code and prose that every machine with Python has.

Out, in this order: one document per module (`stdlib/json/decoder.py`), one per `pydoc` topic
(`stdlib/pydoc_topics/with`), one per module written in C that holds its docstrings
(`stdlib/docstrings/math`). Docstrings of Python modules stay in their code.

Left out: tests, installed packages, the bundle of ensurepip, and generated tables (character maps, entities,
opcodes), which a small model can only memorise: found by the share of lines that begin with a literal, plus
`TABLES`. What mostly repeats lines of an earlier document is left out too, since held-out text must not be
trained on: twenty codecs that differ in a name, C modules with the docstrings of their Python twin, and 22
of the 79 topics of Python 3.11, each contained in a longer one. On 3.11.7: 595 modules with 9.7 MB of code
and 125 documents with 0.8 MB of prose, in about 3 seconds.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import platform
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slm.corpus.config import SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.sources.docstrings import module_names, module_prose
from slm.corpus.units import Piece, Unit

EXCLUDED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "_bundled", "pydoc_data", "__pycache__"}
)
TABLES = frozenset({"keyword.py", "opcode.py", "token.py", "re/_casefix.py", "_opcode_metadata.py", "sre_constants.py"})
LITERAL_LINE = re.compile(r"""(?m)^[ \t({\[]*(?:[bru]{0,2}(?:'(?!'')|"(?!""))|-?\d)""")
TABLE_SHARE = 0.5
TABLE_BYTES = 2_000
TELLING_LINE = 30
REPEATED_SHARE = 0.5
REPEATS = "mostly repeated lines"
"""Why such a document is left out; near duplicates are what `corpus.duplicates` finds."""


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """The library as one piece of about 10 MB: what repeats earlier documents is known only after reading those."""
    del unit_bytes
    facts = signature(config)
    yield Piece(config.label, bytes=facts["bytes"], version=json.dumps(facts, sort_keys=True))


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """All documents, or `max_documents` of them, spread evenly over modules and prose by a hash."""
    del unit
    documents = list(_documents(config, rejects))
    if config.max_documents:
        # Another hash than the split's, or a small selection would be mostly held-out documents.
        chosen = sorted(documents, key=lambda document: hashlib.blake2b(document.id.encode()).digest())
        keep = {document.id for document in chosen[: config.max_documents]}
        documents = [document for document in documents if document.id in keep]
    yield from documents


def signature(_: SourceConfig) -> dict[str, Any]:
    """Python's version, and number and size of the modules."""
    sizes = [path.stat().st_size for path, _ in _modules()]
    return {"python": platform.python_version(), "modules": len(sizes), "bytes": sum(sizes)}


def is_table(name: str, text: str) -> bool:
    """Whether a module is a generated table: most of its lines begin with a literal, or it is known."""
    if name in TABLES or name.startswith("_sysconfigdata"):
        return True
    lines = sum(1 for line in text.splitlines() if line.strip())
    return len(text) >= TABLE_BYTES and len(LITERAL_LINE.findall(text)) >= TABLE_SHARE * lines


def _documents(config: SourceConfig, rejects: Rejects) -> Iterator[Document]:
    known: set[int] = set()
    for place, domain, text in _texts(rejects):
        if _mostly_known(text, known):
            rejects.skip(REPEATS)
        else:
            yield Document.of(config, place, text, domain=domain)


def _texts(rejects: Rejects) -> Iterator[tuple[str, str, str]]:
    """Place, domain and text of every candidate, those that contain others first."""
    for path, name in _modules():
        text = importlib.util.decode_source(path.read_bytes())
        if is_table(name, text):
            rejects.skip("generated table")
        elif text.strip():
            yield name, "code", text
    for topic, text in sorted(_topics().items(), key=lambda item: (-len(item[1]), item[0])):
        yield f"pydoc_topics/{topic}", "prose", text
    for name in module_names():
        text = module_prose(name)
        if text:
            yield f"docstrings/{name}", "prose", text


def _modules() -> list[tuple[Path, str]]:
    """The library's .py files with their names relative to it, sorted by name."""
    root = Path(sysconfig.get_path("stdlib"))
    named = ((path, path.relative_to(root)) for path in root.rglob("*.py"))
    return sorted(
        ((path, name.as_posix()) for path, name in named if not EXCLUDED_FOLDERS & set(name.parts)),
        key=lambda item: item[1],
    )


def _topics() -> dict[str, str]:
    """The texts of pydoc's `help()` topics; a trimmed installation has none."""
    try:
        topics = importlib.import_module("pydoc_data.topics")
    except ImportError:
        return {}
    return dict(topics.topics)


def _mostly_known(text: str, known: set[int]) -> bool:
    """Whether at least half of the telling lines were in earlier documents; adds them to `known`."""
    lines = [hash(line) for line in map(str.strip, text.splitlines()) if len(line) >= TELLING_LINE]
    repeated = sum(line in known for line in lines)
    known.update(lines)
    return bool(lines) and repeated >= REPEATED_SHARE * len(lines)
