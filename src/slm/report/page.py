"""The parts of a page: what the template lays out, without knowing what it means.

Text in these records is plain text; only `Figure.svg` is markup, made by `charts`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from slm.core.console import quantity

NUMBER = re.compile(r"[-–]|-?[\d,.]+(e[-+]\d+)?( (%|B|kB|MB|GB|TB))?")
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


class Fact(NamedTuple):
    """A figure with its name; `note` is small print below it."""

    label: str
    value: str
    note: str = ""


class Verdict(NamedTuple):
    """What a question about the run came to; `held` is None where nothing can be said either way."""

    question: str
    held: bool | None
    words: str
    key: str
    """Of the section with the figures."""


class Bar(NamedTuple):
    """One bar of a chart whose numbers are also text; `share` of the longest, `strong` for our own."""

    label: str
    value: str
    share: float
    note: str = ""
    strong: bool = False


class Figure(NamedTuple):
    """A chart; a second drawing of it, if any, is shown on narrow screens instead."""

    caption: str
    svg: str
    narrow_svg: str = ""
    wide: bool = False


class Sample(NamedTuple):
    """Text that the model wrote after a prompt."""

    label: str
    prompt: str
    text: str


class Code(NamedTuple):
    """Something to type or to read as it is; folded away where it is long."""

    title: str
    text: str
    folded: bool = False


class Link(NamedTuple):
    """One artifact of the lineage."""

    stage: str
    fingerprint: str
    details: str
    parents: str
    path: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; columns whose cells are all numbers are set to the right by the template.

    One that repeats in numbers what a chart shows is `folded` away. Without a caption it has that of its section.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds numbers only, units allowed."""
        return [
            bool(self.rows) and index > 0 and all(NUMBER.fullmatch(row[index]) for row in self.rows)
            for index in range(len(self.columns))
        ]


@dataclass(slots=True)
class Section:
    """One heading and what stands under it, in this order."""

    key: str
    title: str
    lead: str = ""
    notices: list[str] = field(default_factory=list)
    """What is wrong."""
    remarks: list[str] = field(default_factory=list)
    """What is worth knowing."""
    bars: list[Bar] = field(default_factory=list)
    bars_caption: str = ""
    facts: list[Fact] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    samples: list[list[Sample]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    codes: list[Code] = field(default_factory=list)
    missing: str = ""
    """What would make it, where there is nothing to show; such a section is left out of the page."""

    @property
    def empty(self) -> bool:
        """Whether there is nothing under the heading but words."""
        return not (self.bars or self.facts or self.figures or self.tables or self.samples or self.links or self.codes)


def present(sections: Sequence[Section]) -> list[Section]:
    """The sections that have something to show, and a last one that says what would make the others."""
    shown = [section for section in sections if not section.missing]
    absent = [(section.title, section.missing) for section in sections if section.missing]
    if absent:
        table = Table("Not on this page", ("part", "what makes it"), absent)
        shown.append(Section("missing", "Not here", "These were not made for this run.", tables=[table]))
    return shown


def compact(value: float) -> str:
    """A large count in three digits: 1.95M, 15.3M, 300M; small ones in full."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e5, "k")):
        if abs(value) >= limit * 0.9995:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.3g}{unit}" if scaled < 1000 else f"{scaled:,.0f}{unit}"
    return f"{value:,.0f}"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def scientific(value: float) -> str:
    """A small difference: 0, 3.1e-05, 0.0042."""
    return f"{value:.2g}" if abs(value) < 1 else quantity(value)


def power(value: float) -> str:
    """A huge count: 3.5·10¹⁴."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def visible(text: str) -> str:
    """Text that HTML can hold: control characters as their pictures, halves of surrogate pairs replaced."""
    shown = "".join(
        chr(0x2400 + ord(mark)) if ord(mark) < 32 and mark not in "\n\t" else "\u2421" if mark == "\x7f" else mark
        for mark in text.replace("\r\n", "\n")
    )
    return shown.encode("utf-8", "replace").decode("utf-8")
