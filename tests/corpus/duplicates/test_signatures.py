from __future__ import annotations

from pathlib import Path

from slm.corpus.buckets import digest
from slm.corpus.document import Document
from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.signatures import FILE, Signer


def signed(folder: Path, config: DuplicatesConfig, *texts: str) -> bytes:
    signer = Signer(config)
    for number, text in enumerate(texts):
        signer.add(Document(text, f"s/{number}", "s", "MIT", "o"))
    signer.write(folder)
    return (folder / FILE).read_bytes()


def test_each_document_leaves_sixteen_bytes_of_its_text(tmp_path: Path) -> None:
    assert signed(tmp_path, DuplicatesConfig(), "one", "two") == digest("one") + digest("two")


def test_what_is_not_looked_for_leaves_nothing(tmp_path: Path) -> None:
    assert signed(tmp_path, DuplicatesConfig(exact=False), "one") == b""
