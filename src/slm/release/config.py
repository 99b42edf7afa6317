"""What a release must keep, and what of a run it publishes."""

from __future__ import annotations

from pydantic import Field, model_validator

from slm.core.config import Config, neutral
from slm.export.config import Format

PERMISSIVE = (
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC-BY-3.0", "CC-BY-4.0", "CC0-1.0", "CDLA-Permissive-2.0",
    "ISC", "MIT", "ODC-By-1.0", "PDDL-1.0", "PSF-2.0", "Unlicense",
)  # fmt: skip
"""Licences that ask for no more than attribution."""


class Budget(Config):
    """A figure of the evaluation and what it must not be beyond."""

    figure: str = Field(min_length=1)
    """The figure's dotted place in results.json of the evaluation, such as validation.bits_per_byte; of a task it is
    tasks.NAME.METRIC."""
    at_most: float | None = None
    """The largest value that may be released."""
    at_least: float | None = None
    """The smallest value that may be released."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Budget:
        if self.at_most is None and self.at_least is None:
            raise ValueError(f"{self.figure} has no bound; give at_most, at_least or both")
        return self


class ReleaseConfig(Config):
    """A run to a bundle, behind a gate."""

    formats: tuple[Format, ...] = ()
    """Which files of the export are published, each after passing the golden prompts itself; empty publishes all."""
    licence: str = ""
    """SPDX expression under which the weights are published; a release needs one."""
    allowed_licences: tuple[str, ...] = PERMISSIVE
    """SPDX identifiers that text may have been taken under; by default those that ask for attribution at most."""
    quality: tuple[Budget, ...] = ()
    """Bounds of the evaluation's figures; a release needs one, or a baseline."""
    baseline: str = ""
    """Folder of the evaluation of a run that this one must not be worse than, on the same held-out documents."""
    max_increase: float = Field(0.01, ge=0)
    """How many bits per byte worse than the baseline it might be: the upper end of the paired 95 % interval."""
    max_contaminated: float = Field(0.05, ge=0, le=1)
    """Share of an evaluation's items that documents read for the corpus held; such documents were left out or cut."""
    repository: str = neutral("")
    """The Git repository that must be clean and tagged; empty takes the one that this program runs from."""
