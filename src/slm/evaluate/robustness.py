"""How far a multiple-choice score moves with things that change nothing about the question.

In: an item, that is its prompt as the model sees it, its choices and the number of the right one. Out: variants of it
that a reader would answer alike: other formats of the prompt (cues in capitals or left out, lines apart, the answer on
a line of its own), and the choices listed in the prompt by letter in every cyclic order, where the letter is what is
scored. A model that has learned the question gives one answer to all; one that leans on a format or a position does
not. In the cloze form alone the order of choices changes nothing, since each is scored by itself.

From the answers, `spread` makes the table: each variant with its interval, how far the best and worst lie apart, and
on how many items all variants of a kind agree. Best and worst are chosen after the fact, so their distance is compared
with what chance makes of as many variants that are equally good: answers shuffled between them, item by item.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slm.evaluate.statistics.intervals import Estimate, Integers, estimate

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORMAT, ORDER = "format", "order"
CUE = re.compile(r"\b(Question|Q|Answer|A|Context|Passage|Premise|Hypothesis)(?=:)")
SHUFFLES = 1_000


@dataclass(frozen=True, slots=True)
class Variant:
    """An item asked in another way; `original_C` says which of the item's choices each of these is."""

    kind: str
    name: str
    prompt: str
    choices: tuple[str, ...]
    gold: int
    original_C: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Spread:
    """The variants of one kind side by side."""

    kind: str
    accuracies: dict[str, Estimate]
    distance: float
    """Between the best and the worst variant."""
    distance_by_chance: float
    """What 95 % of equally good variants stay below."""
    agreeing: Estimate
    """Share of items to which all variants give the same answer, right or wrong."""


def _as_it_is(prompt: str) -> str:
    return prompt


def _capital_cues(prompt: str) -> str:
    return CUE.sub(lambda found: found.group().upper(), prompt)


def _without_cues(prompt: str) -> str:
    return re.sub(rf"{CUE.pattern}: ?", "", prompt).rstrip()


def _lines_apart(prompt: str) -> str:
    return prompt.replace("\n", "\n\n")


FORMATS: dict[str, Callable[[str], str]] = {
    "as it is": _as_it_is,
    "cues in capitals": _capital_cues,
    "without cues": _without_cues,
    "lines apart": _lines_apart,
}


def variants(prompt: str, choices: Sequence[str], gold: int) -> list[Variant]:
    """The item in all formats and orders; formats that change nothing of this prompt are left out."""
    straight = tuple(range(len(choices)))
    found = [Variant(FORMAT, name, make(prompt), tuple(choices), gold, straight) for name, make in FORMATS.items()]
    found = [one for number, one in enumerate(found) if number == 0 or one.prompt != prompt]
    bare = tuple(choice.strip() for choice in choices)
    found.append(Variant(FORMAT, "answer on a line of its own", f"{prompt}\n", bare, gold, straight))
    for shift in range(len(choices)):
        order = straight[shift:] + straight[:shift]
        listed = "\n".join(f"{LETTERS[place]}. {bare[original]}" for place, original in enumerate(order))
        body, cue = re.fullmatch(r"(.*?)(\n[^\n]*:)?\s*", prompt, re.DOTALL).groups()  # type: ignore[union-attr]
        asked = f"{body}\n{listed}{cue or ''}"
        letters = tuple(f" {letter}" for letter in LETTERS[: len(choices)])
        found.append(Variant(ORDER, f"first choice at {LETTERS[-shift % len(choices)]}", asked, letters,
                             order.index(gold), order))  # fmt: skip
    return found


def spread(kind: str, answers: Mapping[str, Integers], gold_N: Integers, seed: int) -> Spread:
    """The table of one kind: `answers` gives for each variant the item's own number of the choice taken, [N]."""
    chosen_VN = np.stack(list(answers.values()))
    correct_VN = (chosen_VN == gold_N).astype(np.float64)
    agreeing_N = (chosen_VN == chosen_VN[0]).all(axis=0).astype(np.float64)
    generator = np.random.Generator(np.random.Philox(seed))
    shuffled = [_distance(generator.permuted(correct_VN, axis=0)) for _ in range(SHUFFLES)]
    return Spread(
        kind,
        {name: estimate(row, seed=seed) for name, row in zip(answers, correct_VN, strict=True)},
        _distance(correct_VN),
        float(np.quantile(shuffled, 0.95)),
        estimate(agreeing_N, seed=seed),
    )


def _distance(correct_VN: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    rates_V = correct_VN.mean(axis=1)
    return float(rates_V.max() - rates_V.min())
