"""A run with flavours whose figures are the test's own: what manifests say of them, without any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slm.compress.config import CompressConfig
from slm.core.artifact import Spec, create, open_artifact
from slm.export.config import ExportConfig
from slm.train.config import TrainConfig

COST = {"bits_per_byte": 1.5, "interval_95": (-0.001, 0.004), "mean_kl": 0.002, "top1_agreement": 0.97, "positions": 64,
        "perplexity": 30.0, "perplexity_increase": 0.02, "perplexity_interval_95": (-0.01, 0.05)}  # fmt: skip


def speed(decode: float, peak_bytes: int = 50_000_000) -> dict[str, Any]:
    waits = {f"{key}_{kind}": 0.2 for key in ("load_seconds", "first_token_seconds") for kind in ("cold", "warm")}
    rates = {"prefill_tokens_per_second": 10 * decode, "decode_tokens_per_second": decode}
    ratios = {"prefill_ratio": decode / 100, "decode_ratio": decode / 100}
    return {**waits, **rates, **ratios, "peak_bytes": peak_bytes, "joules_per_token": "no counter"}


def flavour(size_bytes: int, increase: float, decode: float | None, file: str = "file", **more: Any) -> dict[str, Any]:
    found = {"file": file, "engine": "some engine", "size_bytes": size_bytes, "cost": {**COST, "increase": increase}}
    return {**found, **({"speed": speed(decode)} if decode else {}), **more}


def publish_run(run: Path, flavours: Mapping[str, Any], variants: Mapping[str, Any] | None = None) -> Path:
    """The run's export, and its compress stage where there are variants."""
    step = run / "train" / "step-1"
    if not step.is_dir():
        with create(step, Spec("train", TrainConfig())) as draft:
            draft.counts["step"] = 1
    parents = {"train": open_artifact(step)}
    with create(run / "export", Spec("export", ExportConfig(), parents)) as draft:
        draft.counts["flavours"] = dict(flavours)
        if any("speed" in found for found in flavours.values()):
            draft.counts["checkpoint"] = {"size_bytes": 60_000_000, "speed": speed(100)}
    if variants:
        with create(run / "compress", Spec("compress", CompressConfig(), parents)) as draft:
            draft.counts["variants"] = dict(variants)
    return run
