"""Shards written from synthetic ids, without a corpus or a tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slm.core.artifact import Artifact, Draft, Spec, make
from slm.shards import write
from slm.shards.config import ShardsConfig
from slm.shards.stage import count
from slm.shards.units import Encoded
from slm.shards.write import Layout, ShardWriter, file_stems

HASH = "ab" * 32


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Layout]:
    """A small layout, with changes; windows may be small too."""
    monkeypatch.setattr(write, "WINDOW_ROWS", 1)

    def build(**changes: Any) -> Layout:
        values: dict[str, Any] = {
            "seq_len": 16,
            "packing": "best_fit",
            "window_documents": 50,
            "rows_per_file": 100,
            "vocab_size": 1000,
            "pad_id": 3,
            "tokenizer_hash": HASH,
        }
        return Layout(**{**values, **changes})

    return build


@pytest.fixture
def documents() -> Callable[..., list[np.ndarray]]:
    """Random documents [bos] ids [eos]; ids 4 and above are text."""

    def build(number: int, *, seed: int = 0, longest: int = 60, vocab_size: int = 1000) -> list[np.ndarray]:
        generator = np.random.default_rng(seed)
        lengths = generator.integers(1, longest, number)
        texts = [generator.integers(4, vocab_size, length) for length in lengths]
        return [np.concatenate([[1], text, [2]]).astype(np.int32) for text in texts]

    return build


def weighted(weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The sources of a stage with these weights."""
    return [{"source": name, "weight": weight} for name, weight in weights.items()]


@pytest.fixture
def make_shards(tmp_path: Path, layout: Callable[..., Layout]) -> Callable[..., Artifact]:
    """Writes an artifact from documents per source, as the stage does."""

    def build(
        sources: Mapping[str, Sequence[np.ndarray]],
        validation: Sequence[np.ndarray] = (),
        *,
        weights: Mapping[str, float] | None = None,
        mixture: Sequence[Mapping[str, Any]] = (),
        name: str = "shards",
        **changes: Any,
    ) -> Artifact:
        shape = layout(**changes)

        def write_files(draft: Draft) -> None:
            tallies = {}
            stems = {**file_stems(sources), "": "validation"}
            for source, items in [*sources.items(), ("", validation)]:
                with ShardWriter(draft.path, stems[source], shape) as writer:
                    for number, ids in enumerate(items):
                        writer.add(Encoded(ids, 3 * len(ids), f"{source}/{number}", source, "", ""))
                tallies[source] = writer.tally
            held_out = tallies.pop("")
            draft.counts.update(count(tallies, held_out, shape))

        config = ShardsConfig(
            seq_len=shape.seq_len,
            packing=shape.packing,
            window_documents=shape.window_documents,
            rows_per_file=shape.rows_per_file,
            mixture=mixture or ([{"sources": weighted(weights)}] if weights else []),
        )
        return make(tmp_path / name, Spec("shards", config), write_files)

    return build
