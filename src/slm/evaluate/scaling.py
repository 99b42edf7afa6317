"""A ladder of runs, read back as points of a scaling law.

In: evaluate artifacts of runs on the same held-out documents. Out: for each its parameters, tokens, computation and
bits per byte with the interval. Computation is `slm.model.counting`'s for rows of the length trained at: what had to
be computed, whatever the machine did. Bits per byte is the loss, since it does not depend on the vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slm.core.artifact import Artifact, open_artifact
from slm.core.errors import UserError
from slm.core.seeds import derive
from slm.evaluate.measurements import BITS_PER_BYTE, matched, name_of, read_measurements
from slm.evaluate.statistics.intervals import Estimate, estimate
from slm.evaluate.statistics.power_law import Point
from slm.model.config import ModelConfig
from slm.model.counting import flops_per_token, num_parameters


@dataclass(frozen=True, slots=True)
class Rung:
    """One run of the ladder."""

    name: str
    path: Path
    """Of its train stage."""
    point: Point
    bits: Estimate


def rungs(evaluations: Sequence[Artifact]) -> list[Rung]:
    """The runs by computation; `UserError` where two are one, or were measured on different documents."""
    found: list[Rung] = []
    first = read_measurements(evaluations[0])[BITS_PER_BYTE]
    for evaluation in evaluations:
        mine = read_measurements(evaluation)[BITS_PER_BYTE]
        matched(first, mine, (str(evaluations[0].path), str(evaluation.path)))
        bits = estimate(mine.numerators_N, mine.denominators_N, seed=derive(0, "scaling"))
        checkpoint = checkpoint_of(evaluation)
        model = ModelConfig.model_validate(checkpoint.section["model"])
        tokens = int(checkpoint.counts["tokens"])
        seq_len = int(checkpoint.manifest["parents"]["shards"]["settings"]["seq_len"])
        point = Point(num_parameters(model), tokens, flops_per_token(model, seq_len) * tokens, bits.value)
        found.append(Rung(name_of(evaluation), checkpoint.path.parent, point, bits))
    names = [one.name for one in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"two runs are named {min(twice)}; give each run once, and runs of other names")
    return sorted(found, key=lambda one: one.point.flops)


def checkpoint_of(evaluation: Artifact) -> Artifact:
    """The checkpoint that was evaluated; `UserError` where it is gone or another."""
    recorded = evaluation.manifest["parents"]["train"]
    checkpoint = open_artifact(Path(os.path.normpath(evaluation.path.absolute() / recorded["path"])), "train")
    if checkpoint.fingerprint != recorded["fingerprint"]:
        raise UserError(
            f"{evaluation.path} was made from checkpoint {recorded['fingerprint'][:12]}, but {checkpoint.path} is now "
            f"{checkpoint.fingerprint[:12]}; evaluate again with redo=true"
        )
    return checkpoint
