"""A document and what can be wrong with one.

`Rejects` is handed to every source: it turns a document that cannot be used into a refusal or into a
count, as the recipe says, so that nothing leaves the corpus without a number in the manifest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from slm.core.errors import UserError

if TYPE_CHECKING:
    from slm.corpus.config import SourceConfig

Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


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
        return Document(text, f"{label}/{place}", label, config.licence_or_default, config.origin_or_default, metadata)


@dataclass(slots=True)
class Rejects:
    """What becomes of unusable text: refused with its place, or left out and counted by reason."""

    policy: Literal["refuse", "skip"] = "refuse"
    counts: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str) -> None:
        """Count a document that is left out whatever the policy (empty, duplicate)."""
        self.counts[reason] += 1

    def decode(self, content: bytes, place: str, offset: int = 0) -> str | None:
        """`content` as text; if it is not UTF-8, None where the policy is to skip, else a refusal.

        `offset` is where `content` begins in the file, so that the sentence names the byte in the file.
        """
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"byte 0x{content[error.start]:02x} at offset {offset + error.start:,}"
            self._bad(f"{place}: {found} is not UTF-8")
        return None

    def encodable(self, text: str, place: str) -> bool:
        """Whether `text` can be written as UTF-8: JSON escapes may hold halves of a surrogate pair."""
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            self._bad(f"{place}: \\u{ord(text[error.start]):04x} at character {error.start:,} is half a surrogate pair")
            return False
        return True

    def _bad(self, finding: str) -> None:
        if self.policy == "refuse":
            raise UserError(
                f"{finding}; convert the text to UTF-8 (iconv -f ENCODING -t UTF-8), or leave such documents out and "
                "counted with corpus.on_bad_text=skip"
            )
        self.skip("not UTF-8")
