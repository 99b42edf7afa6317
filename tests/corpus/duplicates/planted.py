"""Pairs of documents whose Jaccard similarity is known: planted by construction, and counted again in plain Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slm.corpus.duplicates.config import DuplicatesConfig
from slm.corpus.duplicates.search import Figures, UnitSketches, find_duplicates
from slm.corpus.duplicates.signatures import FILE
from slm.corpus.duplicates.sketch import Scheme, Sketcher, write_sketches

SHINGLE_WORDS = 5


def planted_pair(similarity: Fraction, size: int, generator: random.Random) -> tuple[str, str]:
    """Two texts of about `size` shingles each, exactly as alike as asked: a common text with ends of their own.

    With x common shingles and y of each alone the similarity is x / (x + 2y).
    """
    step_x, step_y = (2 * similarity / (1 - similarity)).as_integer_ratio() if similarity < 1 else (1, 0)
    times = max(1, round(size / (step_x + step_y)))
    common = words(times * step_x + SHINGLE_WORDS - 1, generator)
    one, other = (" ".join(common + words(times * step_y, generator)) for _ in range(2))
    found = plain_jaccard(one, other)
    assert found == similarity, f"planted {similarity}, counted {found}"
    return one, other


def words(count: int, generator: random.Random) -> list[str]:
    return [f"{generator.choice('abcdefgh')}{generator.randrange(10**9)}" for _ in range(count)]


def plain_jaccard(one: str, other: str) -> Fraction:
    first, second = (
        {tuple(text.split()[begin : begin + SHINGLE_WORDS]) for begin in range(len(text.split()) - SHINGLE_WORDS + 1)}
        for text in (one, other)
    )
    return Fraction(len(first & second), len(first | second))


def drops(
    documents: Sequence[tuple[str, str]], folder: Path, config: DuplicatesConfig | None = None, parts: int = 1
) -> tuple[dict[str, tuple[str, float]], Figures]:
    """Which ids are left out, for which other and how alike, of (id, text) divided over `parts` files."""
    config = config or DuplicatesConfig()
    scheme = Scheme.of(config)
    sketcher = Sketcher(scheme)
    folder.mkdir(parents=True)
    units = []
    for number, rows in enumerate(np.array_split(np.arange(len(documents)), parts)):
        part = [documents[row] for row in rows]
        (folder / f"{number}").mkdir()
        sketches = sketcher.sketch([id for id, _ in part], [text for _, text in part])
        write_sketches(folder / f"{number}" / FILE, scheme, [sketches])
        units.append(UnitSketches(folder / f"{number}", len(part), 0))

    def texts(numbers: NDArray[np.int64]) -> list[str]:
        assert (np.diff(numbers) > 0).all()
        return [documents[number][1] for number in numbers]

    found, _, figures = find_duplicates(units, texts, config, folder / "work")
    assert not list((folder / "work").iterdir())
    named = {documents[one][0]: (documents[other][0], alike) for one, other, alike, _ in found.tolist()}
    assert len(named) == len(found)
    return named, figures
