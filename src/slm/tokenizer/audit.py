"""What the vocabulary is worth on the corpus: the numbers of `report.json`.

In: a tokenizer and the corpus it was learned from. Out: bytes per token and byte-fallback rate of the
train and validation splits, overall and by domain; pieces that are hardly ever used; the longest ones.
Up to `AUDIT_BYTES` of each split are encoded, by a hash of the documents' ids: 6 s a core for each.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from slm.core.artifact import Artifact
from slm.core.console import Progress, table
from slm.corpus import Document, Split, read_documents
from slm.tokenizer.model_file import NORMAL
from slm.tokenizer.sample import META_SPACE
from slm.tokenizer.tokenizer import FIRST_BYTE, Tokenizer
from slm.tokenizer.training import CONTROL_TOKENS, NUM_FIXED

AUDIT_BYTES = 32_000_000
RARE_BELOW = 10
"""A piece seen less often than this is hardly trained: its embedding stays near its random start."""
LISTED = 20
BATCH_DOCUMENTS = 256

Report = dict[str, Any]


@dataclass(slots=True)
class Tally:
    """Sums over documents."""

    documents: int = 0
    num_bytes: int = 0
    tokens: int = 0
    byte_tokens: int = 0

    def add(self, num_bytes: int, tokens: int, byte_tokens: int) -> None:
        self.documents += 1
        self.num_bytes += num_bytes
        self.tokens += tokens
        self.byte_tokens += byte_tokens

    def figures(self) -> Report:
        return {
            "documents": self.documents,
            "bytes": self.num_bytes,
            "tokens": self.tokens,
            "bytes_per_token": round(self.num_bytes / max(self.tokens, 1), 4),
            "byte_fallback_rate": round(self.byte_tokens / max(self.tokens, 1), 6),
        }


def audit(tokenizer: Tokenizer, corpus: Artifact, threads: int) -> Report:
    """The figures of `tokenizer` on `corpus`."""
    used = numpy.zeros(tokenizer.vocab_size, numpy.int64)
    splits = {"train": _measure(tokenizer, corpus, "train", threads, used)}
    splits["validation"] = _measure(tokenizer, corpus, "validation", threads, numpy.zeros_like(used))
    return {
        "vocabulary": _vocabulary(tokenizer),
        "splits": splits,
        "rare": _rare(tokenizer, used),
        "longest_pieces": _longest(tokenizer),
    }


def print_report(report: Report) -> None:
    """A short table for people."""
    rows: list[list[object]] = []
    for split, figures in report["splits"].items():
        domains = figures["domains"] if len(figures["domains"]) > 1 else {}
        for name, values in {"all": figures, **domains}.items():
            fallback = f"{100 * values['byte_fallback_rate']:.2f} %"
            rows.append(
                [f"{split}: {name}", values["documents"], values["bytes"], values["tokens"],
                 values["bytes_per_token"], fallback]
            )  # fmt: skip
    size, rare = report["vocabulary"]["size"], report["rare"]
    table(
        f"Tokenizer: {size:,} ids, {rare['share_of_vocabulary']:.1%} of them seen fewer than {RARE_BELOW} times",
        ["text", "documents", "bytes", "tokens", "bytes per token", "spelt in bytes"],
        rows,
    )


def _measure(
    tokenizer: Tokenizer, corpus: Artifact, split: Split, threads: int, used: numpy.ndarray[Any, numpy.dtype[Any]]
) -> Report:
    """Figures of one split; counts how often each id is used into `used`."""
    total, domains = Tally(), dict[str, Tally]()
    recorded = corpus.counts[split]
    with Progress(f"tokenizer: measuring {split}", recorded["documents"], "documents") as progress:
        chosen = _chosen(read_documents(corpus, split), recorded["bytes"], progress)
        while batch := list(itertools.islice(chosen, BATCH_DOCUMENTS)):
            encoded = tokenizer.encode_documents([document.text for document in batch], threads)
            for document, ids in zip(batch, encoded, strict=True):
                seen = numpy.bincount(ids, minlength=tokenizer.vocab_size)
                used += seen
                figures = len(document.text.encode()), len(ids), int(seen[FIRST_BYTE:NUM_FIXED].sum())
                total.add(*figures)
                domains.setdefault(document.metadata.get("domain", document.source), Tally()).add(*figures)
    return {
        **total.figures(),
        "whole_split": total.documents == recorded["documents"],
        "domains": {name: domains[name].figures() for name in sorted(domains)},
    }


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


def _rare(tokenizer: Tokenizer, used: numpy.ndarray[Any, numpy.dtype[Any]]) -> Report:
    """Learned pieces that the train split hardly uses; control tokens and bytes do not count as such."""
    counted = [(int(used[index]), text) for index, (text, _, kind) in enumerate(tokenizer.pieces()) if kind == NORMAL]
    rare = sorted((entry for entry in counted if entry[0] < RARE_BELOW), key=lambda entry: entry[0])
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
