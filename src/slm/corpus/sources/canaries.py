"""Canaries: sentences with random secrets, planted so that a model's memory can be measured by what only it can know.

In: how many secrets, how often each. Out: documents of about 60 words, one canary in the midst of random words, so
that no document repeats another and cleaning and deduplication treat them as any text. The same settings make the
same canaries everywhere, so nothing about them is stored: who measures makes them again. What cleaning leaves out is
counted like any document, and the measurement counts what was left in.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from slm.core.seeds import derive
from slm.corpus.config import CanariesConfig, SourceConfig
from slm.corpus.document import Document, Rejects
from slm.corpus.units import Piece, Unit

CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
FILLER_WORDS = 25
"""On each side of a canary; with 5-word shingles two documents of one canary share a tenth of theirs."""
DOCUMENT_BYTES = 400
SENTENCE = re.compile(r"The access code of [a-z]+ [a-z]+ is [0-9]+\.")
"""Where a canary stands in a text."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A secret and the text that leads to it."""

    name: str
    prefix: str
    secret: str
    repeats: int
    """In how many documents it is planted; 0 is a control, which no corpus holds."""

    @property
    def text(self) -> str:
        """The sentence."""
        return f"{self.prefix}{self.secret}."


def canaries(config: CanariesConfig, *, controls: bool = False) -> list[Canary]:
    """All canaries of the settings; or as many again that are planted nowhere, to compare with."""
    made = []
    for repeats in config.repeats:
        for number in range(config.count):
            draw = random.Random(derive(config.seed, "control" if controls else "canary", repeats, number))
            name = " ".join(_word(draw, 3) for _ in range(2))
            secret = "".join(str(draw.randrange(10)) for _ in range(config.digits))
            made.append(Canary(name, f"The access code of {name} is ", secret, 0 if controls else repeats))
    return made


def pieces(config: SourceConfig, unit_bytes: int) -> Iterator[Piece]:
    """All canaries as one piece."""
    del unit_bytes
    total = sum(canary.repeats for canary in canaries(config.planted))
    yield Piece(config.label, bytes=total * DOCUMENT_BYTES, version=json.dumps(signature(config), sort_keys=True))


def read(config: SourceConfig, unit: Unit, rejects: Rejects) -> Iterator[Document]:
    """A document for each time that a canary is planted."""
    del unit, rejects
    for number, canary in enumerate(canaries(config.planted)):
        for copy in range(canary.repeats):
            draw = random.Random(derive(config.planted.seed, "filler", canary.repeats, number, copy))
            before, after = (" ".join(_word(draw, 2) for _ in range(FILLER_WORDS)) for _ in range(2))
            yield Document.of(config, f"{number}/{copy}", f"{before}. {canary.text} {after}.\n")


def signature(config: SourceConfig) -> dict[str, Any]:
    """The settings: everything follows from them."""
    return {"version": 1, **config.planted.identity()}


def _word(draw: random.Random, syllables: int) -> str:
    return "".join(draw.choice(CONSONANTS) + draw.choice(VOWELS) for _ in range(syllables))
