"""How tokens are packed into rows and in which order rows are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from slm.core.config import Config, neutral


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
    weights: dict[str, float] = Field(default_factory=dict)
    """Share of rows per source name, relative to each other; empty reads every row once an epoch."""
    threads: int = neutral(2, ge=1)
    """Threads that tokenize."""

    @field_validator("weights")
    @classmethod
    def _weights_are_shares(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if weight <= 0:
                raise ValueError(f"{name} ({weight:g}) must be above 0; leave the source out of the corpus instead")
        return weights
