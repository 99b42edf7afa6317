"""One unit: read, cleaned, checked, signed, and published in one rename.

In: a unit of the plan. Out: a folder named by the unit's key, with the documents that stay as Parquet, digests of
their ids, their signatures, and `unit.json`: what was left out, why, and samples of it. It is complete or not
there. Who makes it, when, and next to whom does not change a byte of it, so two that make the same one do no harm.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from slm.core.artifact import file_sha256, fsync_directory, seal_file, write_atomically
from slm.core.errors import DamagedError, UserError, is_disk_full
from slm.corpus import source
from slm.corpus.buckets import digest
from slm.corpus.cleaning.cleaner import Cleaner
from slm.corpus.config import CorpusConfig
from slm.corpus.decontamination.check import Decontaminator
from slm.corpus.document import Document, Dropped, Rejects
from slm.corpus.duplicates.signatures import Signer
from slm.corpus.samples import Samples
from slm.corpus.tables import DocumentWriter, read_tables
from slm.corpus.units import Unit

FACTS, IDS, STEM = "unit.json", "ids.bin", "documents"
CONTROL_TEXT = re.compile(r"<\|\w+\|>")
TICK_DOCUMENTS = 64

Tick = Callable[[int, int], None]
"""Told the documents and bytes of text read so far in the unit, every now and then."""


def make_unit(config: CorpusConfig, unit: Unit, root: Path, tick: Tick | None = None) -> None:
    """Make the unit's folder in `root`."""
    draft = root / f"{unit.key}.tmp-{socket.gethostname()}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        with _explained(config, unit):
            facts = _write(config, unit, draft, tick)
        facts["files"] = {file.name: seal_file(file) for file in sorted(draft.iterdir())}
        write_atomically(draft / FACTS, json.dumps(facts, ensure_ascii=False))
        if not is_finished(root, unit):  # somebody else may have made the same
            shutil.rmtree(root / unit.key, ignore_errors=True)
            with contextlib.suppress(FileExistsError):
                draft.rename(root / unit.key)
        fsync_directory(root)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def is_finished(root: Path, unit: Unit) -> bool:
    """Whether the unit's folder is there, with files of the right sizes."""
    try:
        files = json.loads((root / unit.key / FACTS).read_text(encoding="utf-8"))["files"]
        return all((root / unit.key / name).stat().st_size == record["size_bytes"] for name, record in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_facts(root: Path, unit: Unit) -> dict[str, Any]:
    """What `unit.json` says of a finished unit."""
    return dict(json.loads((root / unit.key / FACTS).read_text(encoding="utf-8")))


def read_unit(root: Path, unit: Unit) -> Iterator[Document]:
    """The documents of a finished unit; `DamagedError` where a file is not what was written."""
    folder = root / unit.key
    for name, record in read_facts(root, unit)["files"].items():
        if file_sha256(folder / name) != record["sha256"]:
            raise DamagedError(
                f"{folder / name} is damaged: its sha256 is not the one in {FACTS}; delete {folder} and run the same "
                "command again, which makes that unit again"
            )
    return read_tables(sorted(folder.glob(f"{STEM}-*.parquet")))


def remove_abandoned(root: Path) -> None:
    """Delete what processes of this machine left behind that are gone."""
    for draft in root.glob(f"*.tmp-{socket.gethostname()}-*"):
        number = int(draft.name.rpartition("-")[2])
        with contextlib.suppress(PermissionError):
            try:
                os.kill(number, 0)
            except ProcessLookupError:
                shutil.rmtree(draft, ignore_errors=True)


def _write(config: CorpusConfig, unit: Unit, folder: Path, tick: Tick | None) -> dict[str, Any]:
    """Write the files of a unit; returns its facts."""
    item = config.sources[unit.source]
    rejects = Rejects(config.on_bad_text, config.max_document_bytes)
    cleaner, decontaminator = Cleaner(config.steps), Decontaminator.of(config.decontamination, item)
    signer, samples, ids = Signer(config.duplicates), Samples(), bytearray()
    control = read = read_bytes = 0
    with DocumentWriter(folder, STEM) as writer:
        for document in source(item.kind).read(item, unit, rejects):
            read += 1
            read_bytes += len(document.text)
            if tick is not None and read % TICK_DOCUMENTS == 0:
                tick(read, read_bytes)
            for cleaned in _cleaned(document, cleaner, decontaminator):
                if isinstance(cleaned, Document) and CONTROL_TEXT.search(cleaned.text):
                    control += 1
                    cleaned = _with_control_text(config, cleaned)
                if isinstance(cleaned, Dropped):
                    rejects.skip(cleaned.reason)
                    samples.add(cleaned.reason, document, cleaned.note)
                    continue
                writer.write(cleaned)
                signer.add(cleaned)
                ids += digest(cleaned.id)
            if 0 < item.max_documents <= writer.documents:
                break
    signer.write(folder)
    (folder / IDS).write_bytes(ids)
    return {
        "place": unit.place,
        "documents": writer.documents,
        "bytes": writer.bytes,
        "skipped": dict(sorted(rejects.counts.items())),
        "places": dict(sorted(rejects.places.items())),
        "samples": samples.records(),
        "cleaning": _sorted(cleaner.tally),
        "decontamination": decontaminator.found.record(),
        "control_text": control,
    }


def _cleaned(document: Document, cleaner: Cleaner, decontaminator: Decontaminator) -> Sequence[Document | Dropped]:
    """What becomes of a document: one that is cleaned, pieces of it, or the reason why it is left out."""
    if not document.text or document.text.isspace():
        return [Dropped("empty")]
    cleaned = cleaner(document)
    if isinstance(cleaned, Dropped):
        return [cleaned]
    if not cleaned.text or cleaned.text.isspace():
        return [Dropped("empty", "after cleaning")]
    return decontaminator(cleaned)


def _with_control_text(config: CorpusConfig, document: Document) -> Document | Dropped:
    if config.on_control_text == "keep":
        return document
    found = CONTROL_TEXT.search(document.text)
    assert found is not None
    if config.on_control_text == "refuse":
        raise UserError(
            f"{document.id} ({document.origin}): {found.group()!r} at character {found.start():,} imitates a control "
            "token; take it out, or choose corpus.on_control_text=keep (it is read as plain text) or skip"
        )
    return Dropped("imitates control tokens", found.group())


def _sorted(tally: Counter[str]) -> dict[str, int]:
    return dict(sorted(tally.items()))


@contextlib.contextmanager
def _explained(config: CorpusConfig, unit: Unit) -> Iterator[None]:
    """A file that vanished or may not be read as a sentence; a full disk is the caller's to explain."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        raise UserError(
            f"corpus.sources: {config.sources[unit.source].label} cannot be read ({unit.place}: {error}); put the file "
            "back or correct its permissions, and run the same command again"
        ) from error
