"""A warning where learning preferences makes the chosen answers unlikely, too.

In: the figures of each logged step. Out: one sentence, once a run, when the tokens of chosen answers have become less
likely than e to the -1 times what they were at the first step. Losses that look at the difference of two answers
alone are content when both sink (Pal et al. 2024, arXiv 2402.13228); what a model then says is neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slm.core.console import say
from slm.train.metrics import METRICS, read_metrics

MOST_NATS = 1.0
"""A token of chosen answers may lose so much before a person is told; steps scatter by a tenth of it."""


class CollapseWatch:
    """Knows where the run began, also when it goes on."""

    def __init__(self, folder: Path) -> None:
        rows = (row for row in read_metrics(folder / METRICS) if row["kind"] == "train")
        self._first = next((found for row in rows if (found := nats_of_chosen(row)) is not None), None)
        self._told = False

    def look(self, step: int, figures: Mapping[str, float]) -> None:
        """Judge one logged step."""
        nats = nats_of_chosen(figures)
        if nats is None or self._told:
            return
        if self._first is None:
            self._first = nats
        if nats > self._first + MOST_NATS:
            self._told = True
            say(
                f"train: at step {step:,} the chosen answers take {nats:.2f} nats a token, {self._first:.2f} at the "
                "beginning: they are losing with the rejected ones; lower train.optimizer.lr or muon_lr, raise "
                "objective.preference.beta, or take loss=orpo, which keeps them likely"
            )


def nats_of_chosen(figures: Mapping[str, float]) -> float | None:
    """Nats a token of the chosen answers; None where the objective knows no answers or there were none."""
    tokens = figures.get("chosen_tokens", 0.0)
    return -figures["chosen_log_prob"] / tokens if tokens else None
