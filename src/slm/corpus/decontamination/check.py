"""Which evaluation items a document holds, and what is left of it.

In: documents after cleaning. Out: each as it was, or nothing (`drop`), or its pieces around the cuts (`cut`); and in
`found` what was found, by evaluation and item. Documents are seen one batch at a time; the order of documents and
their division among processes change nothing but which example stands first.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from slm.core.errors import UserError
from slm.corpus.config import CorpusConfig, SourceConfig
from slm.corpus.decontamination.benchmarks import read_items
from slm.corpus.decontamination.config import GOLDEN, BenchmarkConfig, DecontaminationConfig
from slm.corpus.decontamination.index import Hit, Index
from slm.corpus.decontamination.report import Findings
from slm.corpus.decontamination.rows import suffix_of
from slm.corpus.document import Document, Dropped
from slm.corpus.words import joined_words
from slm.evaluate.config import EvaluateConfig, TaskConfig

TASK_FIELDS: dict[str, tuple[str, ...]] = {
    "query": ("query", "choices"),
    "arc": ("question.stem", "question.choices.text"),
    "hellaswag": ("ctx", "endings"),
    "xnli": ("sentence1", "sentence2"),
    "gsm8k": ("question", "answer"),
    "squad": ("question",),
    "humaneval": ("prompt", "canonical_solution"),
    "mbpp": ("text", "code"),
    "mt_bench": ("turns",),
    "text": ("text",),
}
"""The fields that must not be trained on, by the layout of a task's file. SQuAD's paragraphs are Wikipedia's, and of
them the questions alone are the evaluation's."""
EXCERPT_CHARACTERS = 160
NAMED_ITEMS = 5
_token = re.compile(r"\S+")


def read_index(config: DecontaminationConfig) -> Index:
    """The index of all evaluations that `config` names; read once a process unless a file changes."""
    return _index_of(config, tuple(_stamp(Path(one.path).expanduser()) for one in config.against))


def with_evaluations(config: CorpusConfig, evaluate: EvaluateConfig) -> CorpusConfig:
    """The settings with every file of items that the evaluate section names among the evaluations.

    A task that `against` already names is looked for as it says there.
    """
    named = {one.name for one in config.decontamination.against}
    more = [_of_task(task) for task in evaluate.task_files if task.name not in named]
    if evaluate.golden:
        _require_file("evaluate.golden", evaluate.golden)
        more.append(BenchmarkConfig(name=GOLDEN, path=evaluate.golden, fields=("prompt",), id_field="name"))
    if not more:
        return config
    checks = config.decontamination
    all_of_them = checks.model_copy(update={"against": (*checks.against, *more)})
    return config.model_copy(update={"decontamination": all_of_them})


def _of_task(task: TaskConfig) -> BenchmarkConfig:
    _require_file(f"evaluate.task_files: {task.name}", task.path)
    lines = suffix_of(Path(task.path)) == ".txt"
    return BenchmarkConfig(
        name=task.name,
        path=task.path,
        fields=() if lines else TASK_FIELDS[task.layout],
        id_field="" if lines else task.id_field,
        items="data.paragraphs.qas" if task.layout == "squad" else "",
        remove="^Question:" if task.layout == "query" else "",
    )


def _require_file(key: str, path: str) -> None:
    if not Path(path).expanduser().is_file():
        raise UserError(
            f"{key} ({path}) is not a file, so its items cannot be kept out of the corpus; correct the path, or leave "
            "it out"
        )


def identity(config: DecontaminationConfig) -> dict[str, Any]:
    """What shapes the result beside the settings: the content of the evaluation files; asked at every start."""
    return {"index": read_index(config).digest()} if config.against else {}


@functools.lru_cache(maxsize=2)
def _index_of(config: DecontaminationConfig, stamps: tuple[tuple[int, int], ...]) -> Index:
    del stamps  # part of the key
    index = Index(((one.name, read_items(one)) for one in config.against), config.ngram_words, config.min_words)
    for one, benchmark in zip(config.against, index.benchmarks, strict=True):
        if one.name != GOLDEN and len(benchmark.unchecked) == len(benchmark.ids):
            raise UserError(
                f"corpus.decontamination.against: none of the {len(benchmark.ids):,} items of {one.name} ({one.path}) "
                f"has min_words ({config.min_words}) words in {', '.join(one.fields) or 'a line'}, so nothing of it "
                "could be found; name fields with more text, lower min_words, or remove the evaluation"
            )
    return index


def _stamp(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (0, 0)


class Decontaminator:
    """The check against an index; counts what it finds in `found`."""

    def __init__(self, config: DecontaminationConfig, index: Index) -> None:
        self._config, self._index = config, index
        self.found = Findings()

    @staticmethod
    def of(config: DecontaminationConfig, source: SourceConfig) -> Decontaminator:
        """The check of a source's documents; where it is off, it is off for text that people wrote alone."""
        against = config.enabled or source.synthetic is not None
        return Decontaminator(config, read_index(config) if against else Index((), 1, 1))

    def clean(self, documents: Sequence[Document]) -> list[Sequence[Document | Dropped]]:
        """What is left of each document: itself, pieces with ids such as `source/file#2`, or why nothing is."""
        if not len(self._index):
            return [[document] for document in documents]
        hits_by_document: dict[int, list[Hit]] = {}
        for hit in self._index.hits([document.text for document in documents]):
            hits_by_document.setdefault(hit.document, []).append(hit)
        self.found.documents += len(documents)
        return [
            self._treat(document, hits_by_document[number]) if number in hits_by_document else [document]
            for number, document in enumerate(documents)
        ]

    def _treat(self, document: Document, hits: list[Hit]) -> Sequence[Document | Dropped]:
        spans = word_spans(document.text)
        places = [(spans[hit.first][0], spans[hit.first + hit.words - 1][1]) for hit in hits]
        first: dict[int, tuple[int, int]] = {}
        for hit, place in zip(hits, places, strict=True):
            first.setdefault(hit.item, place)
        for item, (begin, end) in first.items():
            excerpt = document.text[begin : min(end, begin + EXCERPT_CHARACTERS)]
            self.found.add(*self._index.name_of(item), document.id, begin, excerpt)
        pieces = [] if self._config.action == "drop" else list(self._pieces(document, merged(places)))
        if pieces:
            self.found.cut += 1
            return pieces
        self.found.dropped += 1
        names = [" ".join(self._index.name_of(item)) for item in first]
        return [Dropped("contaminated", ", ".join(names[:NAMED_ITEMS]) + (" ..." if names[NAMED_ITEMS:] else ""))]

    def _pieces(self, document: Document, places: list[tuple[int, int]]) -> Iterator[Document]:
        config = self._config
        if len(places) > config.max_cuts:
            return
        margin, begin, number = config.cut_characters, 0, 0
        for first, last in [*places, (len(document.text) + margin, 0)]:
            piece = document.text[begin : max(begin, first - margin)]
            begin = last + margin
            if len(piece) >= config.min_piece_characters and not piece.isspace():
                number += 1
                metadata = {**document.metadata, "cut_from": document.id}
                yield dataclasses.replace(document, text=piece, id=f"{document.id}#{number}", metadata=metadata)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `joined_words(text)` stands; those of one token between white space share its place."""
    return [match.span() for match in _token.finditer(text) for _ in joined_words(match.group())]


def merged(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping places as one, in order."""
    result: list[tuple[int, int]] = []
    for begin, end in sorted(places):
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result
