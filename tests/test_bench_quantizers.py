"""What the benchmark of quantizers says follows from what its sides wrote: one scorer, paired intervals, its bars."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from slm.evaluate.score import score
from slm.model.config import ModelConfig
from slm.model.transformer import build

SCRIPTS = Path(__file__).parents[1] / "scripts"
CONFIG = ModelConfig(
    vocab_size=64, width=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn_width=48, max_seq_len=32, attention="sdpa"
)


@pytest.fixture(scope="module", name="bench")
def the_script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(SCRIPTS))  # it takes the environments of its neighbour, as when it is run
    spec = importlib.util.spec_from_file_location("bench_quantizers", SCRIPTS / "bench_quantizers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPTS))


def test_all_models_are_scored_as_evaluation_scores_them(bench: ModuleType) -> None:
    one, other = (build(CONFIG, seed).eval() for seed in (1, 2))
    ids = torch.randint(64, (75,), generator=torch.Generator().manual_seed(0)).tolist()
    said = bench.score_document({"": one, "other": other}, ids, 32)
    for name, model in (("", one), ("other", other)):
        nats = score(model, [np.array(ids, dtype=np.int32)], context=32, stride=32, batch_tokens=64)
        assert said[name]["nats"] == pytest.approx(nats[0], rel=1e-5)
    assert said["tokens"] == 74
    assert said[""]["kl"] == pytest.approx(0, abs=1e-6)
    assert said[""]["top1"] == 74
    assert said["other"]["kl"] > 0
    assert said["other"]["top1"] < 74


def said_of(**nats: float) -> list[dict[str, Any]]:
    """Forty documents of 100 tokens on which sides cost so many nats a token more than 3, give or take a little."""
    draw = np.random.default_rng(3)
    shared = draw.normal(0, 0.5, 40)
    return [
        {"": {"nats": 300 + 100 * base}, "tokens": 100}
        | {name: {"nats": 300 + 100 * (base + more + draw.normal(0, 0.002))} for name, more in nats.items()}
        for base in shared
    ]


def judged(bench: ModuleType, said: list[dict[str, Any]], **seconds: float) -> list[str]:
    names = [name for name in said[0] if name not in ("", "tokens")]
    sides = {name: {"seconds": seconds.get(name, 1.0), "processor_seconds": 1.0 + (name != "AWQ")} for name in names}
    result: dict[str, Any] = {"sides": sides, "bad": []}
    bench.judge("AWQ", result, said)
    return result["bad"]  # type: ignore[no-any-return]


def test_a_rise_of_perplexity_is_that_of_the_sums_and_lies_in_its_interval(bench: ModuleType) -> None:
    said = said_of(AWQ=0.01)
    found = bench.perplexity(said, "", "AWQ")
    before, after = (math.exp(sum(one[name]["nats"] for one in said) / 4000) for name in ("", "AWQ"))
    assert found["rise"] == pytest.approx(after - before)
    assert found["rise_95"][0] < before * math.expm1(0.01) < found["rise_95"][1]


def test_each_bar_that_is_missed_is_named(bench: ModuleType) -> None:
    assert judged(bench, said_of(RTN=0.03, AWQ=0.01, GPTQ=0.01, AutoAWQ=0.02), AutoAWQ=2.0) == []
    assert judged(bench, said_of(RTN=0.01, AWQ=0.01)) == ["AWQ is not better than RTN beyond chance"]
    assert judged(bench, said_of(RTN=0.03, AWQ=0.02, GPTQ=0.01)) == ["AWQ is worse than GPTQ"]
    assert judged(bench, said_of(AWQ=0.01, AutoAWQ=0.02)) == ["AWQ takes more seconds than AutoAWQ"]
