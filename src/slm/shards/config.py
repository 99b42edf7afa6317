"""How tokens are packed into rows and in which order rows are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from slm.core.config import Config, neutral


class MixtureSource(Config):
    """How much of one source a stage takes: a weight or epochs."""

    source: str
    """The name of a source of the corpus."""
    weight: float = Field(0, ge=0)
    """Share of the rows, relative to the stage's other sources."""
    epochs: float = Field(0, ge=0)
    """How often its rows are read in the stage."""

    @model_validator(mode="after")
    def _one_of_both(self) -> MixtureSource:
        if bool(self.weight) == bool(self.epochs):
            raise ValueError(
                f"{self.source} has weight {self.weight:g} and epochs {self.epochs:g}; give one of them, above 0, or "
                "leave the source out of the stage"
            )
        return self


class MixtureStage(Config):
    """A stretch of the training with shares of its own."""

    name: str = "main"
    """What the stage is called, such as main or anneal."""
    tokens: int = Field(0, ge=0)
    """After so many tokens the next stage begins; 0 ends it after its epochs, and the last never."""
    sources: tuple[MixtureSource, ...] = Field(min_length=1)
    """The sources that are read, all by weight or all by epochs; the others rest."""

    @model_validator(mode="after")
    def _sources_fit_together(self) -> MixtureStage:
        names = [entry.source for entry in self.sources]
        if len(set(names)) < len(names):
            raise ValueError(f"stage {self.name} names a source twice ({', '.join(names)}); add the two up")
        if len({bool(entry.epochs) for entry in self.sources}) > 1:
            raise ValueError(f"stage {self.name} mixes weights and epochs; give all its sources one or the other")
        return self


class ShardsConfig(Config):
    """Documents to token-packed rows."""

    seq_len: int = Field(256, ge=8)
    """Tokens in a row."""
    packing: Literal["best_fit", "concat"] = "best_fit"
    """Best fit keeps documents whole where they fit in a row; concat cuts wherever a row ends."""
    window_documents: int = Field(10_000, ge=1)
    """Documents that are packed together, and at least 1,024 rows; more waste less and take more memory."""
    rows_per_file: int = Field(65_536, ge=1)
    """Rows in one Arrow file."""
    mixture: tuple[MixtureStage, ...] = ()
    """Which sources are read in which shares, stage by stage; empty reads every row of all once an epoch."""
    threads: int = neutral(2, ge=1)
    """Threads that tokenize, in each process."""
    unit_bytes: int = neutral(64_000_000, ge=1_000)
    """About how much text is tokenized at a time: what a kill loses at most, what parts and workers take in turn."""
    part: str = neutral("", pattern=r"^([0-9]+/[1-9][0-9]*)?$")
    """`2/8` tokenizes every eighth unit, from the third on, and stops; without, what is still missing is tokenized and
    all is packed. The result does not depend on it."""
    workers: int = neutral(1, ge=1)
    """Processes that tokenize."""
    executor: Literal["processes", "ray"] = neutral("processes")
    """Where the workers run: here, or on a Ray cluster that sees the same folders (`pip install '.[ray]'`)."""
    keep_units: bool = neutral(False)
    """Keep what was tokenized beside the shards, so that rows of another length need no tokenizing; it takes as much
    disk as the shards."""

    @field_validator("mixture")
    @classmethod
    def _stages_end(cls, mixture: tuple[MixtureStage, ...]) -> tuple[MixtureStage, ...]:
        for stage in mixture[:-1]:
            if not stage.tokens and not stage.sources[0].epochs:
                raise ValueError(
                    f"stage {stage.name} has weights but no tokens, so the stages after it would never begin; say "
                    "after how many tokens it ends, or give its sources epochs instead of weights"
                )
        return mixture
