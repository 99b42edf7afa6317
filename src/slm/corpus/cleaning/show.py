"""`slm corpus audit RUN [PAGE.html]`: what was kept beside what was dropped, and what steps changed, before and after.

In: a corpus with its samples of what was left out and changed. Out: text in the terminal, or a page. For every reason,
the dropped documents stand at the right of kept ones, of the same source where there are any: those of the first
documents whose ids have the lowest hashes. For every step that changed documents, what it made of them stands at the
right of what it was given, from shortly before the first change on.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slm.core.artifact import Artifact, open_artifact, write_atomically
from slm.core.console import say, speaking
from slm.core.errors import DamagedError, ProblemsError, UserError
from slm.corpus import read_documents
from slm.corpus.build import CHANGED, DROPPED
from slm.corpus.cleaning import cleaner
from slm.corpus.cleaning.audit_page import Pairs, Shown, page, plain
from slm.corpus.conversations import MESSAGES
from slm.corpus.document import Document

KEPT_OF_A_SOURCE = 12
LOOKED_AT = 5_000
"""Documents of the training split that kept ones are taken from."""
MAX_CHARACTERS = 2_000
"""Of a kept text, this much is shown on the page; samples of dropped ones are cut to as much when they are made."""
TERMINAL_CHARACTERS = 400
"""Of a text, this much is shown in the terminal; the page shows all that the audit has."""
TERMINAL_PAIRS = 3
SIDES = ("before", "after")


def show(arguments: Sequence[str]) -> None:
    """Print the audit of a run's corpus, or write it as a page where a second word names one."""
    if not 1 <= len(arguments) <= 2 or any("=" in word for word in arguments):
        raise ProblemsError(["usage: slm corpus audit RUN [PAGE.html], such as slm corpus audit runs/quickstart"])
    corpus = corpus_of(Path(arguments[0]))
    found = sections(corpus)
    if len(arguments) == 2:
        write_atomically(Path(arguments[1]), page(str(corpus.path), found))
        say(f"audit: {arguments[1]}, {len(found)} reasons and steps")
    else:
        _print(str(corpus.path), found)


def corpus_of(path: Path) -> Artifact:
    """The corpus at `path`, or of the run at `path`."""
    folder = next((place for place in (path / "corpus", path) if (place / "manifest.json").is_file()), None)
    if folder is None:
        raise UserError(f"{path} holds no corpus; give a run or its corpus, such as runs/quickstart")
    return open_artifact(folder, "corpus")


def sections(corpus: Artifact) -> list[Pairs]:
    """Every reason with kept documents beside dropped ones, then every step with what it changed; most first."""
    return [*_dropped(corpus), *_changed(corpus)]


def _dropped(corpus: Artifact) -> list[Pairs]:
    counts: Mapping[str, int] = corpus.counts["skipped"]
    dropped: dict[str, list[tuple[str, Shown]]] = defaultdict(list)
    for record in _records(corpus.file(DROPPED)):
        note = f"; {record['note']}" if record["note"] else ""
        shown = Shown(f"dropped: {record['id']} ({record['characters']:,} characters{note})", record["text"])
        dropped[record["reason"]].append((record["source"], shown))
    kept = kept_by_source(itertools.islice(read_documents(corpus, "train"), LOOKED_AT)) if dropped else {}
    anybody = [shown for of_source in kept.values() for shown in of_source]
    result: list[Pairs] = []
    for reason in sorted(dropped, key=lambda name: (-counts.get(name, 0), name)):
        number = counts.get(reason, len(dropped[reason]))
        beside = [kept.get(source) or anybody for source, _ in dropped[reason]]
        pairs = [
            (of[at % len(of)], shown) for at, (of, (_, shown)) in enumerate(zip(beside, dropped[reason], strict=True))
        ]
        result.append(Pairs(f"{reason}: {number:,} document{'s' * (number != 1)} dropped", pairs))
    return result


def _changed(corpus: Artifact) -> list[Pairs]:
    counts: Mapping[str, int] = corpus.counts.get("cleaning", {})
    changed: dict[str, list[tuple[Shown, Shown]]] = defaultdict(list)
    for record in _records(corpus.file(CHANGED)):
        begin = f", from character {record['from']:,} on" if record["from"] else ""
        pair = [
            Shown(
                f"{side}: {record['id']} ({characters:,} characters{begin})",
                text,
                len(text) + record["from"] < characters,
            )
            for side, characters, text in zip(
                SIDES, record["characters"], (record[side] for side in SIDES), strict=True
            )
        ]
        changed[record["step"]].append((pair[0], pair[1]))
    numbers = {step: counts.get(f"{step}/{cleaner.CHANGED}", len(pairs)) for step, pairs in changed.items()}
    return [
        Pairs(f"{step}: {numbers[step]:,} document{'s' * (numbers[step] != 1)} changed", changed[step], marked=True)
        for step in sorted(changed, key=lambda step: (-numbers[step], step))
    ]


def kept_by_source(documents: Iterator[Document]) -> dict[str, list[Shown]]:
    """Of each source the documents whose ids have the lowest hashes."""
    lowest: dict[str, list[tuple[int, str, Shown]]] = defaultdict(list)
    for document in documents:
        key = int.from_bytes(hashlib.blake2b(document.id.encode(), digest_size=8).digest(), "big")
        chosen = lowest[document.source]
        if len(chosen) < KEPT_OF_A_SOURCE or -key > chosen[0][0]:
            push = heapq.heappush if len(chosen) < KEPT_OF_A_SOURCE else heapq.heapreplace
            push(chosen, (-key, document.id, _kept(document)))
    return {source: [shown for _, _, shown in sorted(chosen)[::-1]] for source, chosen in lowest.items()}


def _kept(document: Document) -> Shown:
    metadata = "".join(f", {key} {value}" for key, value in sorted(document.metadata.items()) if key != MESSAGES)
    return Shown(f"kept: {document.id} ({len(document.text):,} characters{metadata})", document.text[:MAX_CHARACTERS])


def _records(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DamagedError(f"{path}:{number} is not JSON ({error}); make the corpus anew, redo=true") from error


def _print(title: str, found: Sequence[Pairs]) -> None:
    if not speaking():
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 140, markup=False, highlight=False)
    what = "what was kept beside what was dropped, and what was changed" if found else "nothing was dropped or changed"
    console.print(f"{title}: {what}")
    for of in found:
        grid = Table(box=box.SIMPLE_HEAD, show_header=False, show_lines=True, expand=True, title=of.title)
        grid.title_justify = "left"
        grid.add_column(ratio=1, overflow="fold")
        grid.add_column(ratio=1, overflow="fold")
        for pair in of.pairs[:TERMINAL_PAIRS]:
            grid.add_row(*(f"{shown.title}\n{_cut(shown.text)}" for shown in pair))
        console.print(grid)


def _cut(text: str) -> str:
    """A text cut to size, with nothing in it that would move the cursor."""
    shown = plain(text).replace("\t", " ")
    return shown if len(shown) <= TERMINAL_CHARACTERS else f"{shown[:TERMINAL_CHARACTERS]} …"
