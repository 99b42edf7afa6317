"""`items.parquet`: one row per task, item and metric, from which every figure and comparison is computed.

| column | meaning |
|---|---|
| task, item, metric | what was asked, which item (a given id or a hash of the prompt), how it was judged |
| value | e.g. 1 or 0 for acc; bits per byte for text; a judge's 1 to 10 |
| chance | what guessing would give, or null |
| random_value, unigram_value | what the controls of `evaluate.controls` came to on the item, or null |
| prompt, choices, gold | as the model saw them; gold is the right choice's number, -1 where there are no choices |
| choice_logprobs, choice_bytes | nats and UTF-8 bytes of each choice |
| answer | what was generated, or the choice taken |
| prompt_tokens | with the start token |
| clean | true if the corpus was checked for the item and held it nowhere, false if it held it, null if not looked for |
| source, language | where known |
| rare_token_rate | share of the prompt's tokens that training rows hardly hold, or null |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from slm.core.seeds import derive
from slm.evaluate.config import Control
from slm.evaluate.measurements import shared_documents
from slm.evaluate.stage import ITEMS
from slm.evaluate.statistics.intervals import estimate

SCHEMA = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("chance", pa.float64()),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        pa.field("gold", pa.int32(), nullable=False),
        pa.field("choice_logprobs", pa.list_(pa.float64()), nullable=False),
        pa.field("choice_bytes", pa.list_(pa.int32()), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("clean", pa.bool_()),
        pa.field("source", pa.string()),
        pa.field("language", pa.string()),
        pa.field("rare_token_rate", pa.float64()),
        pa.field("random_value", pa.float64()),
        pa.field("unigram_value", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one item came to under one metric: a row."""

    task: str
    item: str
    metric: str
    value: float
    prompt: str
    prompt_tokens: int
    chance: float | None = None
    choices: Sequence[str] = ()
    gold: int = -1
    choice_logprobs: Sequence[float] = ()
    choice_bytes: Sequence[int] = ()
    answer: str = ""
    clean: bool | None = None
    source: str | None = None
    language: str | None = None
    controls: Mapping[Control, float] = field(default_factory=dict)
    """What each control came to on this item; columns of their own in the table."""


def write_items(results: Iterable[Result], folder: Path, rare: Callable[[str], float | None]) -> None:
    """Write the table; without results it has no rows. `rare` gives the share of rare tokens in a prompt."""
    rows = []
    for result in results:
        row = {**asdict(result), "value": float(result.value), "rare_token_rate": rare(result.prompt)}
        rows.append(row | {f"{name}_value": value for name, value in row.pop("controls").items()})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / ITEMS)


def summaries(results: Sequence[Result], seed: int) -> list[dict[str, Any]]:
    """Per task and metric: mean with interval and number of items, of all and of those known to be clean."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.task, result.metric), []).append(result)
    return [
        {
            "task": task,
            "metric": metric,
            **_figures(group, derive(seed, "tasks", task, metric)),
            "items": len(group),
            "chance": _mean([one.chance for one in group if one.chance is not None]),
            **_clean([one for one in group if one.clean], derive(seed, "clean tasks", task, metric)),
            "clean_items": sum(one.clean is True for one in group),
            "contaminated_items": sum(one.clean is False for one in group),
            "unchecked_items": sum(one.clean is None for one in group),
        }
        for (task, metric), group in groups.items()
    ]


def _figures(group: Sequence[Result], seed: int) -> dict[str, Any]:
    """Over items, or over the texts that they ask about; of one alone there is no error."""
    clusters = shared_documents([one.prompt for one in group])
    found = estimate(np.array([one.value for one in group]), None, clusters, seed=seed)
    error = found.standard_error if math.isfinite(found.standard_error) else None
    return {"value": found.value, "interval_95": [found.low, found.high], "standard_error": error}


def _clean(group: Sequence[Result], seed: int) -> dict[str, Any]:
    found = _figures(group, seed) if group else {"value": None, "interval_95": None}
    return {"clean_value": found["value"], "clean_interval_95": found["interval_95"]}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
