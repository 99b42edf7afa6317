"""What a release is judged by: the artifacts of the run, each opened once, and what could not be opened.

A stage that was not run, or whose files are damaged, becomes a failed check like any other, so that one list says all
that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from slm.core.artifact import Artifact
from slm.core.errors import DamagedError, UserError
from slm.core.lineage import Chain, lineage
from slm.export.config import Format
from slm.recipe import Recipe, Stage
from slm.release.check import Check, failed
from slm.release.repository import State, state

NEEDED: tuple[Stage, ...] = ("corpus", "tokenizer", "train", "evaluate", "export", "safety")
JUDGED: tuple[Stage, ...] = ("export", "evaluate", "safety")
"""The ends of the lineage: everything else that counts is among their ancestors."""


@dataclass(frozen=True)
class Evidence:
    """All that the gate looks at."""

    recipe: Recipe
    artifacts: dict[Stage, Artifact]
    missing: list[Check]
    repository: State

    @property
    def formats(self) -> tuple[Format, ...]:
        """What is to be published: the recipe's choice, or all that the export holds."""
        if self.recipe.release.formats or "export" not in self.artifacts:
            return self.recipe.release.formats
        return tuple(self.artifacts["export"].section["formats"])

    @property
    def golden(self) -> Path | None:
        """The table of golden prompts, if the recipe names one."""
        return Path(self.recipe.evaluate.golden) if self.recipe.evaluate.golden else None

    @cached_property
    def chains(self) -> dict[Stage, Chain | UserError]:
        """The lineage of each end, every file of it hashed."""
        found: dict[Stage, Chain | UserError] = {}
        for stage in JUDGED:
            if stage in self.artifacts:
                try:
                    found[stage] = lineage(self.artifacts[stage].path, verify="full")
                except UserError as error:
                    found[stage] = error
        return found

    @cached_property
    def ancestors(self) -> list[Artifact]:
        """Every artifact of the lineage once, the ends included."""
        chains = [chain for chain in self.chains.values() if not isinstance(chain, UserError)]
        linked = [link for chain in chains for _, link in chain if isinstance(link, Artifact)]
        return list({artifact.fingerprint: artifact for artifact in linked}.values())

    @cached_property
    def results(self) -> dict[str, Any]:
        """`results.json` of the evaluation."""
        return read_json(self.artifacts["evaluate"], "results.json")


def collect(recipe: Recipe) -> Evidence:
    """Open what the release needs."""
    artifacts: dict[Stage, Artifact] = {}
    missing: list[Check] = []
    for stage in NEEDED:
        try:
            artifacts[stage] = recipe.artifact(stage)
        except DamagedError as error:
            missing.append(failed("hashes", str(error), ""))
        except UserError as error:
            missing.append(failed(stage, str(error), ""))
    return Evidence(recipe, artifacts, missing, state(recipe.release.repository))


def read_json(artifact: Artifact, name: str) -> dict[str, Any]:
    """A file of an artifact that holds a JSON object."""
    import json

    return dict(json.loads(artifact.file(name).read_text(encoding="utf-8")))
