"""A small corpus of code and of prose in many scripts, and the tokenizer learned from it."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.core.artifact import Artifact, Spec, create, open_artifact
from slm.corpus import SPLITS
from slm.corpus.config import CorpusConfig
from slm.recipe import Recipe, build_recipe
from slm.tokenizer import Tokenizer, run

MODULES = (
    "abc", "argparse", "ast", "bdb", "bisect", "calendar", "cmd", "codecs", "colorsys", "configparser", "contextlib",
    "copy", "csv", "dataclasses", "datetime", "difflib", "dis", "enum", "fractions", "ftplib", "functools", "getopt",
    "gettext", "glob", "graphlib", "gzip", "heapq", "hmac", "imaplib", "inspect", "io",
)  # fmt: skip
PROSE = (
    "Der schnelle braune Fuchs springt über den faulen Hund; 3.14 und 2,718.",
    "素早い茶色の狐がのろまな犬を飛び越える。漢字とかなの文。",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "Быстрая коричневая лиса прыгает через ленивую собаку.",
    '\tif (x < 10) {\r\n\t\treturn "tab and CRLF";\r\n\t}',
    "Emoji 😀🎉 and a family 👩‍👩‍👧‍👦, and cafe\u0301.",
)
ADVERSARIAL = (
    "", " ", "  ", " a", "  a   b", "a ", "a  ", "\n", "\n\n", "\n\n\n\n\n", "\r\n", "\r\n\r\n  x\r\n", "\t",
    "\t\tx\n\t\ty", " \t \t", " \n \n", "def f(x):\n        return x\n\n\n    def g(self):\n\t\tpass\n",
    "\U0001f600", "\U0001f469\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea\ufe0f",
    "漢字かなカナ", "مرحبا بالعالم", "e\u0301 \u0301", "Ǆǆ ﬀ ½ ²", "a\0b", "\0", "\0\0 \0\n\0",
    "<s>", "</s>", "<s>a</s>", "<unk><pad>", "<0x41>", "<0x0A><0x0a>", "▅", "\U0010fffd\U0010fffc",
    "\ue000\ufffe\uffff", "\u2028\u2029\u00a0\u3000\u200b\ufeff",
    "x" * 1000, " " * 333, "\n" * 99, "\t" * 50,
    "-" * 777, "=" * 35, "ab" * 300, "_" * 65, "0123456789" * 20, "1e-05 0x1F",
    "<|", "|>", "<|im_start", "im_end|>", "< |bos|>", "<||>",
    "naïve façade — “quotes” … ±∞", "\x7f\x80\x9f\xad", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "\U0001f9ff\U000e0041",
    "a\u0300\u0301\u0302\u0303" * 9,
)  # fmt: skip
"""Texts without control names or U+2581: every engine must give the same ids."""
CONTROL_TEXTS = (
    "<|bos|>", "<|eos|>", "<|unk|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "a<|im_start|>user\nhi<|im_end|>\n",
    "<|bos|><|bos|>", "x <|eos|> y",
)  # fmt: skip


def documents() -> list[tuple[str, str]]:
    """(text, domain) of the corpus: 30 modules of the standard library, and prose."""
    library = Path(sysconfig.get_paths()["stdlib"])
    code = [(library / f"{name}.py").read_text(encoding="utf-8") for name in MODULES]
    prose = ["\n".join([line] * 8) for line in PROSE]
    return [(text, "code") for text in code] + [(text, "prose") for text in prose]


def write_corpus(path: Path, train: list[tuple[str, str]], validation: list[tuple[str, str]]) -> Artifact:
    """A corpus artifact with the given (text, domain) documents."""
    with create(path, Spec("corpus", CorpusConfig())) as draft:
        for split, rows in (("train", train), ("validation", validation)):
            columns = {
                "text": [text for text, _ in rows],
                "id": [f"{split}/{index}" for index in range(len(rows))],
                **{name: [name] * len(rows) for name in ("source", "licence", "origin")},
                "metadata": [json.dumps({"domain": domain} if domain else {}) for _, domain in rows],
            }
            typed = {name: pa.array(values, pa.string()) for name, values in columns.items()}
            pq.write_table(pa.table(typed), draft.path / f"{split}-00000.parquet")
            num_bytes = sum(len(text.encode()) for text, _ in rows)
            draft.counts[split] = {"documents": len(rows), "bytes": num_bytes}
        whole = {name: sum(draft.counts[split][name] for split in SPLITS) for name in ("documents", "bytes")}
        draft.counts["sources"] = {"source": whole}
    return open_artifact(path, "corpus")


def recipe_in(runs: Path, **tokenizer: object) -> Recipe:
    """A recipe whose run lies in `runs`."""
    settings = {"vocab_size": 1024, **tokenizer}
    model = {"vocab_size": settings["vocab_size"]}
    return build_recipe({"run": "r", "runs_dir": str(runs), "tokenizer": settings, "model": model})


@pytest.fixture(scope="session")
def rows() -> list[tuple[str, str]]:
    """(text, domain) of the documents."""
    return documents()


@pytest.fixture
def corpus_of(tmp_path: Path) -> Callable[..., Artifact]:
    """A corpus artifact of the given (text, domain) train and validation documents."""
    return lambda train, validation: write_corpus(tmp_path / "corpus", train, validation)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [text for text, _ in documents()]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tokenizer stage run once for all tests; nobody may change its files."""
    runs = tmp_path_factory.mktemp("runs")
    rows = documents()
    write_corpus(runs / "r" / "corpus", rows[2:], rows[:2])
    return run(recipe_in(runs))


@pytest.fixture(scope="session")
def tokenizer(artifact: Artifact) -> Tokenizer:
    return Tokenizer.load(artifact.path)


@pytest.fixture(scope="session")
def adversarial() -> tuple[str, ...]:
    """Texts on which engines like to differ."""
    return ADVERSARIAL


@pytest.fixture(scope="session")
def control_texts() -> tuple[str, ...]:
    """Texts that spell control tokens."""
    return CONTROL_TEXTS


@pytest.fixture
def recipe_of(tmp_path: Path) -> Callable[..., Recipe]:
    """A recipe with a corpus of the given texts, not yet tokenized."""

    def make(train: list[str], validation: list[str] | None = None, **settings: object) -> Recipe:
        held_out = [(text, "") for text in validation or ["held out\n"]]
        write_corpus(tmp_path / "runs" / "r" / "corpus", [(text, "") for text in train], held_out)
        return recipe_in(tmp_path / "runs", **settings)

    return make
