"""What the model is asked to learn."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slm.core.config import Config


class ObjectiveConfig(Config):
    """(model, batch) to loss."""

    kind: Literal["next_token"] = "next_token"
    """Cross-entropy of the next token of the same document."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over the vocabulary; the loss that is reported stays without."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of log(Z)^2, which keeps logits from drifting (PaLM uses 1e-4)."""
