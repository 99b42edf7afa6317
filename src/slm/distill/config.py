"""What is stored of a teacher's distributions, and how it is computed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slm.core.config import Config, neutral


class DistillConfig(Config):
    """A teacher's distributions of the rows, for students with objective.distill.source=store, whose settings of
    objective.distill also name the teacher and the temperature."""

    method: Literal["samples", "top_k"] = "samples"
    """The likeliest token and draws of the others, which train right in expectation; or the likeliest tokens with their
    probabilities, all others counting as one."""
    kept: int = Field(16, ge=1)
    """Draws, or likeliest tokens, kept of each distribution: with up to 65,536 ids 2 bytes a draw and 6 beside them, or
    4 bytes a likeliest token."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the teacher."""
    batch_tokens: int = Field(4_096, ge=1)
    """Positions in one forward pass of the teacher."""
    unit_tokens: int = Field(1 << 22, ge=1)
    """Positions in one file of the store: what a kill loses at most."""
    part: str = neutral("", pattern=r"^([0-9]+/[1-9][0-9]*)?$")
    """`2/8` makes every eighth file, from the third on, and stops; without, what is still missing is made and all is
    put together. For several GPUs or machines at once."""
    device: Literal["auto", "cpu", "cuda"] = neutral("auto")
    """Where the teacher computes; auto takes a GPU where there is one."""
    threads: int = neutral(0, ge=0)
    """CPU threads; 0 leaves torch's choice."""
