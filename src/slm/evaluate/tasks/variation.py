"""Tasks asked again in other formats and orders: how far their scores move with what changes nothing.

In: the tasks that were run and those that `evaluate.robustness` names. Out: for each the spread over formats and over
orders of the choices (`slm.evaluate.robustness`), and the number of items left out of each since a variant of theirs
did not fit the context. Few-shot examples stay as they are. It asks about eight times as much as the task itself;
answers of an evaluation that was stopped are kept like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from slm.core.console import table
from slm.evaluate.robustness import FORMAT, ORDER, Variant, spread, variants
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.choice import run_choice
from slm.evaluate.tasks.config import TaskConfig
from slm.evaluate.tasks.items import Numbered
from slm.evaluate.tasks.run import Planned

Asked = tuple[Numbered, Variant]


def robustness(tasks: Planned, scorer: Scorer, seed: int) -> dict[str, Any]:
    """By task: its spreads, and how many of its items are in none of the kind."""
    found = {
        config.name: _of_task(scorer, config, items, examples, seed)
        for config, items, examples in tasks.files
        if config.name in tasks.config.robustness
    }
    rows = []
    for name, figures in found.items():
        for one in figures["spreads"]:
            rates = sorted(one["accuracies"].values(), key=lambda rate: float(rate["value"]))
            apart = (one["distance"], one["distance_by_chance"])
            shown = (_interval(rate) for rate in (rates[0], rates[-1], one["agreeing"]))
            rows.append((name, one["kind"], *shown, *apart))
    columns = ("task", "over", "worst [95 %]", "best [95 %]", "items answered alike [95 %]", "apart", "by chance, 95 %")
    if rows:
        table("Accuracy over variants that change nothing", columns, rows)
    return found


def _interval(found: dict[str, Any]) -> str:
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)


def _of_task(scorer: Scorer, config: TaskConfig, items: Sequence[Numbered], examples: str, seed: int) -> dict[str, Any]:
    taken: dict[str, dict[str, int]] = {}
    kinds: dict[str, str] = {}
    asked: dict[str, list[Asked]] = {}
    for one in items:
        for variant in variants(one.item.prompt, one.item.choices, one.item.gold):
            asked.setdefault(variant.name, []).append((one, variant))
            kinds[variant.name] = variant.kind
    for name, pairs in asked.items():
        changed = [
            replace(one, item=replace(one.item, prompt=way.prompt, choices=way.choices, gold=way.gold))
            for one, way in pairs
        ]
        ways = {one.id: way for one, way in pairs}
        outcome = run_choice(scorer, config, changed, examples)
        taken[name] = {
            row.item: ways[row.item].original_C[int(np.argmax(row.choice_logprobs))]
            for row in outcome.results
            if row.metric == "acc"
        }
    spreads, left_out = [], dict[str, int]()
    for kind in (FORMAT, ORDER):
        names = [name for name in asked if kinds[name] == kind and len(asked[name]) == len(items)]
        common = [one for one in items if all(one.id in taken[name] for name in names)]
        if len(names) > 1 and len(common) > 1:
            answers = {name: np.array([taken[name][one.id] for one in common], dtype=np.int64) for name in names}
            gold = np.array([one.item.gold for one in common], dtype=np.int64)
            spreads.append(asdict(spread(kind, answers, gold, seed)))
            left_out[kind] = len(items) - len(common)
    return {"items": len(items), "left_out": left_out, "spreads": spreads}
