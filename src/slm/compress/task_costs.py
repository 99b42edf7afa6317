"""What compressing cost on choice tasks: the same items asked of both models, and the paired difference.

In: the recipe's choice tasks and, for each model, a `Scorer`: ours, or one that asks another engine (`EngineScorer`).
Out: per task and metric the value, the difference to the model in float32, its interval and its p value, over items (or
over the texts that several items ask about). Other tasks, whose answers are generated, are the evaluate stage's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slm.compress.measure import Logits
from slm.core.artifact import Artifact
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.config import CHOICE
from slm.evaluate.likelihood import Likelihood
from slm.evaluate.measurements import shared_documents
from slm.evaluate.scorer import Scorer
from slm.evaluate.statistics.paired import difference
from slm.evaluate.tasks.choice import run_choice
from slm.evaluate.tasks.items_table import Result
from slm.evaluate.tasks.run import Planned, plan_tasks
from slm.evaluate.tree import Request
from slm.recipe import Recipe

Results = Mapping[tuple[str, str], Sequence[Result]]
"""By task and metric."""


@dataclass(frozen=True, slots=True)
class EngineScorer(Scorer):
    """Another engine that holds the model, asked one request after the other; `model` tells the length alone."""

    logits: Logits | None = None

    def likelihoods(self, requests: Sequence[Request], name: str) -> list[Likelihood]:
        """Of each request, in order."""
        del name
        assert self.logits is not None
        found = []
        for request in requests:
            scores_SV = self.logits(request.ids[:-1].tolist())[request.first - 1 :].astype(np.float64)
            targets_S = request.ids[request.first :]
            top_S = scores_SV.max(axis=1)
            of_targets_S = scores_SV[np.arange(len(targets_S)), targets_S]
            logprobs_S = of_targets_S - top_S - np.log(np.exp(scores_SV - top_S[:, None]).sum(axis=1))
            found.append(Likelihood(float(logprobs_S.sum()), bool((of_targets_S == top_S).all())))
        return found


def plan_choices(recipe: Recipe, corpus: Artifact) -> Planned:
    """The choice tasks that evaluate.tasks names, read; `UserError` where it names none."""
    config = recipe.evaluate
    names = [one.name for one in config.task_files if one.layout in CHOICE and one.name in config.tasks]
    if not names:
        raise UserError(
            "what compressing costs on tasks is asked for, but evaluate.tasks names no multiple-choice task of "
            "evaluate.task_files; name one there, or leave tasks out"
        )
    return plan_tasks(config.model_copy(update={"tasks": tuple(names)}), corpus)


def ask(tasks: Planned, scorer: Scorer) -> Results:
    """What a model answers."""
    found: dict[tuple[str, str], list[Result]] = {}
    for task, items, examples in tasks.files:
        for result in run_choice(scorer, task, items, examples).results:
            found.setdefault((result.task, result.metric), []).append(result)
    return found


def differences(reference: Results, found: Results) -> list[dict[str, Any]]:
    """Plain JSON per task and metric; a negative difference is a loss."""
    rows = []
    for (task, metric), ours in reference.items():
        a_N, b_N = (np.array([one.value for one in results]) for results in (ours, found[task, metric]))
        clusters_N = shared_documents([one.prompt for one in ours])
        gap = difference(a_N, b_N, None, clusters_N, seed=derive(0, "tasks", task, metric))
        rows.append(
            {
                "task": task, "metric": metric, "value": float(b_N.mean()), "difference": gap.value,
                "interval_95": [gap.low, gap.high], "p_value": gap.p_value, "items": gap.items,
            }
        )  # fmt: skip
    return rows
