"""One unit: read, cleaned, checked, signed, and published in one rename.

In: a unit of the plan. Out: a folder named by the unit's key (see `slm.core.units`), with the documents that stay as
Parquet, digests of their ids, their signatures, and among its facts what was left out, why, and samples of it and of
what steps changed.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slm.core.errors import UserError, is_disk_full
from slm.core.units import Tick, is_finished, publish, read_facts, verified
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

IDS, STEM = "ids.bin", "documents"
CONTROL_TEXT = re.compile(r"<\|\w+\|>")
TICK_DOCUMENTS = 64
BATCH_DOCUMENTS, BATCH_CHARACTERS = 64, 1 << 20


class CorpusWork(NamedTuple):
    """The units of a corpus, where they are put, and how one is made."""

    config: CorpusConfig
    units: Sequence[Unit]
    root: Path
    stage: str = "corpus"

    @property
    def workers(self) -> int:
        return self.config.workers

    @property
    def executor(self) -> str:
        return self.config.executor

    def make(self, unit: Unit, tick: Tick) -> int:
        """Make one unit; returns how many documents were read for it."""
        facts = make_unit(self.config, unit, self.root, tick)
        return int(facts["documents"] + sum(facts["skipped"].values()))

    def needed(self) -> Needed:
        """What says of a unit whether it has to be made."""
        return Needed(self)


class Needed:
    """Whether a unit has to be made: not where the finished ones before it hold all that a source may give."""

    def __init__(self, work: CorpusWork) -> None:
        self._work = work
        self._documents: dict[int, int] = {}
        self._firsts: dict[int, int] = {}
        for unit in work.units:
            self._firsts.setdefault(unit.source, unit.number)

    def __call__(self, unit: Unit) -> bool:
        limit = self._work.config.sources[unit.source].max_documents
        if not limit:
            return True
        first = self._firsts[unit.source]
        before = (other for other in self._work.units if first <= other.number < unit.number)
        return sum(self.documents(other) for other in before) < limit

    def documents(self, unit: Unit) -> int:
        """Documents of a unit; 0 while it is not finished."""
        if unit.number not in self._documents:
            if not is_finished(self._work.root, unit):
                return 0
            self._documents[unit.number] = read_facts(self._work.root, unit)["documents"]
        return self._documents[unit.number]


def make_unit(config: CorpusConfig, unit: Unit, root: Path, tick: Tick | None = None) -> dict[str, Any]:
    """Make the unit's folder in `root`; returns its facts."""

    def write(folder: Path) -> dict[str, Any]:
        with _explained(config, unit):
            return _write(config, unit, folder, tick)

    return publish(root, unit, write)


def read_unit(root: Path, unit: Unit) -> Iterator[Document]:
    """The documents of a finished unit; `DamagedError` where a file is not what was written."""
    return read_tables(sorted(verified(root, unit).glob(f"{STEM}-*.parquet")))


def _write(config: CorpusConfig, unit: Unit, folder: Path, tick: Tick | None) -> dict[str, Any]:
    """Write the files of a unit; returns its facts."""
    item = config.sources[unit.source]
    rejects = Rejects(config.on_bad_text, config.max_document_bytes)
    cleaner, decontaminator = Cleaner(config.steps), Decontaminator.of(config.decontamination, item)
    signer, samples, ids = Signer(config.duplicates), Samples("reason"), bytearray()
    control = read = read_bytes = 0
    with DocumentWriter(folder, STEM) as writer:
        documents = source(item.kind).read(item, unit, rejects)
        batch = 1 if item.max_documents else BATCH_DOCUMENTS  # what comes after the last one taken is not looked at
        for document, pieces in _cleaned(documents, cleaner, decontaminator, batch):
            read += 1
            read_bytes += len(document.text)
            if tick is not None and read % TICK_DOCUMENTS == 0:
                tick(read, read_bytes)
            for cleaned in pieces:
                if isinstance(cleaned, Document) and CONTROL_TEXT.search(cleaned.text):
                    control += 1
                    cleaned = _with_control_text(config, cleaned)
                if isinstance(cleaned, Dropped):
                    rejects.skip(cleaned.reason)
                    samples.drop(cleaned.reason, document, cleaned.note)
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
        "dropped": samples.records(),
        "changed": cleaner.changes.records(),
        "cleaning": _sorted(cleaner.tally),
        "decontamination": decontaminator.found.record(),
        "control_text": control,
    }


def _cleaned(
    documents: Iterable[Document], cleaner: Cleaner, decontaminator: Decontaminator, batch: int
) -> Iterator[tuple[Document, Sequence[Document | Dropped]]]:
    """Each document with what becomes of it: one that is cleaned, pieces of it, or the reason why it is left out.

    They are looked through for evaluation items `batch` at a time, which takes half as long as one at a time.
    """
    pending: list[tuple[Document, Document | Dropped]] = []
    characters = 0
    for document in documents:
        pending.append((document, _clean(document, cleaner)))
        characters += len(document.text)
        if len(pending) == batch or characters >= BATCH_CHARACTERS:
            yield from _checked(pending, decontaminator)
            pending, characters = [], 0
    yield from _checked(pending, decontaminator)


def _clean(document: Document, cleaner: Cleaner) -> Document | Dropped:
    if not document.text or document.text.isspace():
        return Dropped("empty")
    cleaned = cleaner(document)
    if isinstance(cleaned, Document) and (not cleaned.text or cleaned.text.isspace()):
        return Dropped("empty", "after cleaning")
    return cleaned


def _checked(
    pending: Sequence[tuple[Document, Document | Dropped]], decontaminator: Decontaminator
) -> Iterator[tuple[Document, Sequence[Document | Dropped]]]:
    checked = iter(decontaminator.clean([cleaned for _, cleaned in pending if isinstance(cleaned, Document)]))
    for document, cleaned in pending:
        yield document, [cleaned] if isinstance(cleaned, Dropped) else next(checked)


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
