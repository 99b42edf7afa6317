"""What the model is asked to learn: (model, batch) -> `Loss`. Adding one is a module and a line in the table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from slm.objective.config import ObjectiveConfig
    from slm.objective.loss import Objective

OBJECTIVES = {
    "next_token": "slm.objective.next_token",
    "distill": "slm.objective.distill",
    "preference": "slm.objective.preference",
}
"""Kind of objective to the module whose `build(config)` makes it; imported when asked for, since it needs torch."""


def build(config: ObjectiveConfig) -> Objective:
    """The objective that `config.kind` names."""
    return cast("Objective", importlib.import_module(OBJECTIVES[config.kind]).build(config))
