"""What the vocabulary is worth on the corpus: the numbers of `report.json`.

In: a tokenizer and the corpus it was learned from. Out: bytes per token, byte-fallback rate and rare-token rate
of the train and validation splits, overall, by domain, by source and by language where it is recorded, and of
the probes, which are the same for every vocabulary; pieces that are hardly ever used; the longest ones.
Up to `AUDIT_BYTES` of each split are encoded, by a hash of the documents' ids: 6 s a core for each.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from operator import itemgetter
from typing import Any

import numpy
from numpy.typing import NDArray

from slm.core.artifact import Artifact
from slm.core.console import Progress, table
from slm.corpus import SPLITS, Document, Split, read_documents
from slm.tokenizer.model_file import NORMAL
from slm.tokenizer.probes import PROBES
from slm.tokenizer.sample import META_SPACE
from slm.tokenizer.tokenizer import FIRST_BYTE, Tokenizer
from slm.tokenizer.training import CONTROL_TOKENS, NUM_FIXED

AUDIT_BYTES = 32_000_000
RARE_BELOW = 10
"""A piece seen less often than this is hardly trained: its embedding stays near its random start."""
LISTED = 20
BATCH_DOCUMENTS = 256
COUNTED_TOGETHER = 1 << 18
"""Ids that a tally holds back: counting is a pass over the vocabulary, too slow for each document."""
GROUPS = ("domains", "sources", "languages")

Report = dict[str, Any]
Counts = NDArray[numpy.int64]


class Tally:
    """Sums over documents; how often each id came, since which are rare is known only in the end."""

    def __init__(self, vocab_size: int) -> None:
        self.documents = self.num_bytes = 0
        self._seen_V: Counts = numpy.zeros(vocab_size, numpy.int64)
        self._uncounted: list[NDArray[numpy.int32]] = []
        self._uncounted_tokens = 0

    def add(self, num_bytes: int, ids: NDArray[numpy.int32]) -> None:
        self.documents += 1
        self.num_bytes += num_bytes
        self._uncounted.append(ids)
        self._uncounted_tokens += len(ids)
        if self._uncounted_tokens >= COUNTED_TOGETHER:
            self._count()

    @property
    def seen(self) -> Counts:
        """How often each id came [V]."""
        self._count()
        return self._seen_V

    def _count(self) -> None:
        if self._uncounted:
            self._seen_V += numpy.bincount(numpy.concatenate(self._uncounted), minlength=len(self._seen_V))
        self._uncounted, self._uncounted_tokens = [], 0

    def figures(self, rare_V: NDArray[numpy.bool_]) -> Report:
        """`rare_V` says which ids are rare."""
        seen_V = self.seen
        tokens, spelt, rare = (int(part.sum()) for part in (seen_V, seen_V[FIRST_BYTE:NUM_FIXED], seen_V[rare_V]))
        return {
            "documents": self.documents,
            "bytes": self.num_bytes,
            "tokens": tokens,
            "bytes_per_token": round(self.num_bytes / max(tokens, 1), 4),
            "byte_fallback_rate": round(spelt / max(tokens, 1), 6),
            "rare_token_rate": round(rare / max(tokens, 1), 6),
        }


Groups = dict[str, dict[str, Tally]]
"""Tallies by the way of grouping (`domains`, `sources`, `languages`) and by name."""


def audit(tokenizer: Tokenizer, corpus: Artifact, threads: int) -> Report:
    """The figures of `tokenizer` on `corpus`."""
    measured = {split: _measure(tokenizer, corpus, split, threads) for split in SPLITS}
    used_V = measured["train"][0].seen
    learned_V = numpy.array([kind == NORMAL for _, _, kind in tokenizer.pieces()])
    rare_V = learned_V & (used_V < RARE_BELOW)
    return {
        "vocabulary": _vocabulary(tokenizer),
        "splits": {
            split: {
                **total.figures(rare_V),
                "whole_split": total.documents == corpus.counts[split]["documents"],
                **{
                    kind: {name: tallies[name].figures(rare_V) for name in sorted(tallies)}
                    for kind, tallies in groups.items()
                },
            }
            for split, (total, groups) in measured.items()
        },
        "probes": {name: tally.figures(rare_V) for name, tally in _probe(tokenizer).items()},
        "rare": _rare(tokenizer, used_V, rare_V),
        "longest_pieces": _longest(tokenizer),
    }


def print_report(report: Report) -> None:
    """A short table for people."""
    rows: list[list[object]] = []
    for split, figures in report["splits"].items():
        named = {"all": figures}
        for kind in GROUPS:  # a group of one is the whole; domains that are the sources need no second row
            if len(figures[kind]) > 1 and not (kind == "sources" and figures[kind] == figures["domains"]):
                named |= figures[kind]
        rows += [[f"{split}: {name}", *_cells(values)] for name, values in named.items()]
    rows += [[f"probe: {name}", *_cells(values)] for name, values in report["probes"].items()]
    size, rare = report["vocabulary"]["size"], report["rare"]
    table(
        f"Tokenizer: {size:,} ids, {rare['share_of_vocabulary']:.1%} of them seen fewer than {RARE_BELOW} times",
        ["text", "documents", "bytes", "tokens", "bytes per token", "spelt in bytes", "rare tokens"],
        rows,
    )


def _cells(values: Report) -> list[object]:
    rates = (f"{100 * values[name]:.2f} %" for name in ("byte_fallback_rate", "rare_token_rate"))
    return [values["documents"], values["bytes"], values["tokens"], values["bytes_per_token"], *rates]


def _measure(tokenizer: Tokenizer, corpus: Artifact, split: Split, threads: int) -> tuple[Tally, Groups]:
    """One split: the whole of it, and its groups."""
    size = tokenizer.vocab_size
    total, groups = Tally(size), Groups({kind: {} for kind in GROUPS})
    recorded = corpus.counts[split]
    with Progress(f"tokenizer: measuring {split}", recorded["documents"], "documents") as progress:
        chosen = _chosen(read_documents(corpus, split), recorded["bytes"], progress)
        while batch := list(itertools.islice(chosen, BATCH_DOCUMENTS)):
            encoded = tokenizer.encode_documents([document.text for document in batch], threads)
            for document, ids in zip(batch, encoded, strict=True):
                num_bytes = len(document.text.encode())
                total.add(num_bytes, ids)
                for kind, name in _names(document).items():
                    if name not in groups[kind]:
                        groups[kind][name] = Tally(size)
                    groups[kind][name].add(num_bytes, ids)
    return total, groups


def _names(document: Document) -> dict[str, str]:
    """The group of a document by each way of grouping; without a language where none is recorded."""
    named = {"domains": document.metadata.get("domain", document.source), "sources": document.source}
    language = document.metadata.get("language", "")
    return {**named, "languages": language} if language else named


def _probe(tokenizer: Tokenizer) -> dict[str, Tally]:
    tallies = {}
    for name, text in PROBES.items():
        tally = tallies[name] = Tally(tokenizer.vocab_size)
        tally.add(len(text.encode()), numpy.array(tokenizer.encode(text), numpy.int32))
    return tallies


def _chosen(documents: Iterable[Document], total_bytes: int, progress: Progress) -> Iterator[Document]:
    threshold = min(1.0, AUDIT_BYTES / max(total_bytes, 1)) * (1 << 32)
    for document in documents:
        progress.advance()
        if zlib.crc32(document.id.encode()) < threshold:
            yield document


def _vocabulary(tokenizer: Tokenizer) -> Report:
    learned = [text for text, _, kind in tokenizer.pieces() if kind == NORMAL]
    return {
        "size": tokenizer.vocab_size,
        "control": len(CONTROL_TOKENS),
        "bytes": 256,
        "characters": sum(len(text) == 1 for text in learned),
        "merged": sum(len(text) > 1 for text in learned),
        "model_bytes": len(tokenizer.model),
        "hash": tokenizer.hash,
    }


def _rare(tokenizer: Tokenizer, used_V: Counts, rare_V: NDArray[numpy.bool_]) -> Report:
    """Learned pieces that the train split hardly uses; control tokens and bytes do not count as such."""
    pieces = tokenizer.pieces()
    rare = sorted(((int(used_V[index]), pieces[index][0]) for index in numpy.flatnonzero(rare_V)), key=itemgetter(0))
    return {
        "seen_less_than": RARE_BELOW,
        "pieces": len(rare),
        "share_of_vocabulary": round(len(rare) / tokenizer.vocab_size, 6),
        "never_seen": sum(count == 0 for count, _ in rare),
        "examples": [{"piece": _readable(text), "seen": count} for count, text in rare[:LISTED]],
    }


def _longest(tokenizer: Tokenizer) -> list[str]:
    learned = [text for text, _, kind in tokenizer.pieces() if kind == NORMAL]
    return [_readable(text) for text in sorted(learned, key=len, reverse=True)[:LISTED]]


def _readable(piece: str) -> str:
    return piece.replace(META_SPACE, " ")
