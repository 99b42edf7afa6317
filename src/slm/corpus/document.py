"""A document and what can be wrong with one.

`Rejects` is handed to every source: it turns a document that cannot be used into a refusal or into a
count, as the recipe says, so that nothing leaves the corpus without a number in the manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from slm.core.errors import DamagedError, UserError

if TYPE_CHECKING:
    from slm.corpus.config import SourceConfig

Split = Literal["train", "validation"]
SPLIT_BY = "split_by"
"""The metadata that decides on which side of the split a document falls, where that is not its id."""
SPLITS: tuple[Split, ...] = ("train", "validation")
KEPT_PLACES = 10
CONVERT = "convert the text to UTF-8 (iconv -f ENCODING -t UTF-8)"


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text that a model should see whole. `id` never changes while the source stays the same."""

    text: str
    id: str
    source: str
    licence: str
    origin: str
    metadata: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(config: SourceConfig, place: str, text: str, **metadata: str) -> Document:
        """A source's document; `place` names it within the source and so makes its id."""
        label = config.label
        metadata |= config.synthetic.record() if config.synthetic else {}
        return Document(text, f"{label}/{place}", label, config.licence_or_default, config.origin_or_default, metadata)


@dataclass(frozen=True, slots=True)
class Dropped:
    """Why a document is left out: the reason under which it is counted, and a note for the audit."""

    reason: str
    note: str = ""


def joined(parts: Iterable[str | None]) -> str:
    """The text of a row's columns: paragraphs of a document, absent and empty ones left out."""
    return "\n\n".join(part for part in parts if part)


def column_names(config: SourceConfig) -> list[tuple[str, str]]:
    """The columns that every row must have, each with the setting that names it."""
    named = [(getattr(config, key), key) for key in ("id_column", "split_column") if getattr(config, key)]
    return [*((name, "text_columns") for name in config.columns), *named]


class Drop(NamedTuple):
    """A document that is left out after all units were made: the unit's number, the row in it, and why."""

    unit: int
    row: int
    reason: str
    note: str = ""


class Cut(NamedTuple):
    """Paragraphs that are cut out of a document after all units were made: the unit's number, the row, which."""

    unit: int
    row: int
    paragraphs: frozenset[int]


class UnitFolder(NamedTuple):
    """A finished unit as the passes over the whole corpus see it: the first `documents` rows of its files count."""

    path: Path
    documents: int
    source: int
    """The place of its source in the recipe."""


@dataclass(slots=True)
class Rejects:
    """What becomes of unusable text: refused with its place, or left out and counted by reason."""

    policy: Literal["refuse", "skip"] = "refuse"
    limit_bytes: int = 1 << 40
    """How long a document may be."""
    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)
    """The first few places of each reason."""

    def skip(self, reason: str, place: str = "") -> None:
        """Count something that is left out whatever the policy, such as an empty document."""
        self.counts[reason] += 1
        known = self.places.setdefault(reason, [])
        if place and len(known) < KEPT_PLACES:
            known.append(place)

    def bad(self, reason: str, place: str, finding: str, way_out: str) -> None:
        """Something unusable at `place`: a refusal of one sentence, or counted under `reason`."""
        if self.policy == "refuse":
            raise UserError(
                f"{place}: {finding}; {way_out}, or leave such out and counted with corpus.on_bad_text=skip"
            )
        self.skip(reason, place)

    def damaged(self, place: str, finding: str) -> None:
        """The rest of a file cannot be read: a refusal, or counted as one file."""
        if self.policy == "refuse":
            raise DamagedError(
                f"{place} {finding}; fetch or write the file again, or go on without the rest of it with "
                "corpus.on_bad_text=skip"
            )
        self.skip("damaged file", place)

    def fits(self, num_bytes: int, place: str) -> bool:
        """Whether a document of so many bytes may be taken."""
        if num_bytes <= self.limit_bytes:
            return True
        self.bad(
            "too long", place,
            f"a document of {num_bytes:,} bytes, over corpus.max_document_bytes ({self.limit_bytes:,})",
            "cut it (a text source falls into documents at its separator), raise the limit",
        )  # fmt: skip
        return False

    def decode(self, content: bytes, place: str, offset: int = 0) -> str | None:
        """`content` as text; if it is not UTF-8, None where the policy is to skip, else a refusal.

        `offset` is where `content` begins in the file, so that the sentence names the byte in the file.
        """
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{content[error.start]:02x} at offset {offset + error.start:,}"
            self.bad("not UTF-8", place, f"{found} is not UTF-8", CONVERT)
        return None

    def usable(self, text: str, place: str) -> bool:
        """Whether `text` is not too long and can be written."""
        return self.writable(text, place) and self.fits(len(text.encode()), place)

    def writable(self, text: str, place: str) -> bool:
        """Whether `text` can be written: JSON escapes may hold halves of a surrogate pair."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = f"\\u{ord(text[error.start]):04x} at character {error.start:,} is half a surrogate pair"
            self.bad("not UTF-8", place, found, CONVERT)
            return False
        return True
