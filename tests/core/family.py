"""Artifacts that are one another's parents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from slm.core.artifact import Artifact, Draft, Spec, make
from slm.core.config import Config, neutral


class Shape(Config):
    size: int = 3
    threads: int = neutral(1)


def writer(content: str = "abc") -> Callable[[Draft], None]:
    def build(draft: Draft) -> None:
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "b.bin").write_bytes(bytes(range(256)))
        (draft.path / "a.txt").write_text(content, encoding="utf-8")
        draft.counts["letters"] = len(content)

    return build


def family(folder: Path) -> dict[str, Artifact]:
    """corpus -> tokenizer, shards (corpus, tokenizer) -> train (shards)."""
    corpus = make(folder / "corpus", Spec("corpus", Shape()), writer())
    tokenizer = make(folder / "tokenizer", Spec("tokenizer", Shape(), {"corpus": corpus}), writer())
    shards = make(folder / "shards", Spec("shards", Shape(), {"corpus": corpus, "tokenizer": tokenizer}), writer())
    train = make(folder / "train" / "step-1", Spec("train", Shape(), {"shards": shards}), writer())
    return {"corpus": corpus, "tokenizer": tokenizer, "shards": shards, "train": train}
