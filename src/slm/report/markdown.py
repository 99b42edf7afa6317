"""A page's parts as Markdown, for a repository or a hub: the same words and figures, charts as tables,
without the parts that were not made.

In: what `render.page` takes. Out: text in GitHub's Markdown. Nothing that comes from a corpus can break out of its
place: cells lose line ends and have bars and markup escaped, texts stand in fences longer than any that they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from slm.report.page import Fact, Section, Table, visible

MARKUP = re.compile(r"([\\`*_\[\]<>|#&])")


def markdown(
    title: str,
    kind: str,
    summary: str,
    headline: Sequence[Fact],
    sections: Sequence[Section],
    images: Mapping[str, str],
) -> str:
    """The page; `images` names a picture file for the sections that have one, by their key."""
    lines = [f"# {escaped(title)}: {kind}", "", escaped(summary), "", *_facts(headline)]
    for section in sections:
        if section.missing:
            continue
        lines += [f"## {escaped(section.title)}", ""]
        for text in (section.lead, *section.notices, *section.remarks):
            lines += [escaped(text), ""] if text else []
        if section.key in images:
            lines += [f"![{escaped(section.title)}]({images[section.key]})", ""]
        lines += _parts(section)
    return "\n".join(lines).rstrip("\n") + "\n"


def escaped(text: str) -> str:
    """Text on one line in which nothing is markup."""
    return MARKUP.sub(r"\\\1", " ".join(visible(text).split()))


def _parts(section: Section) -> Iterator[str]:
    if section.bars:
        rows = [(f"{bar.label} {bar.note}".strip(), bar.value) for bar in section.bars]
        yield from _table(Table(section.bars_caption, ("", ""), rows))
    yield from _facts(section.facts)
    for table in section.tables:
        yield from _table(table)
    for sample in (sample for group in section.samples for sample in group):
        yield from (f"**{escaped(sample.label)}**", "", *_fenced(sample.prompt + sample.text))
    for link in section.links:
        yield f"- {link.stage} `{link.fingerprint}`: {escaped(link.details)}"
    yield from [""] if section.links else []
    for code in section.codes:
        yield from (f"**{escaped(code.title)}**", "", *_fenced(code.text))


def _facts(facts: Sequence[Fact]) -> Iterator[str]:
    for fact in facts:
        note = f" ({escaped(fact.note)})" if fact.note else ""
        yield f"- {escaped(fact.label)}: {escaped(fact.value)}{note}"
    yield from [""] if facts else []


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield from (f"**{escaped(table.caption)}**", "")
    yield f"| {' | '.join(map(escaped, table.columns))} |"
    yield f"|{'|'.join(' ---: ' if number else ' --- ' for number in table.numeric)}|"
    for row in table.rows:
        yield f"| {' | '.join(map(escaped, row))} |"
    yield ""


def _fenced(text: str) -> Iterator[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (fence, visible(text).rstrip("\n"), fence, "")
