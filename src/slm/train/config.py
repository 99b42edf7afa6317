"""How long, how fast and how safely to train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from slm.core.config import Config, neutral


class OptimizerConfig(Config):
    """AdamW for everything, or Muon for the matrices of the blocks and AdamW for the rest."""

    kind: Literal["adamw", "muon"] = "adamw"
    """Which optimizer updates the matrices."""
    lr: float = Field(3e-3, gt=0)
    """Peak learning rate of AdamW."""
    muon_lr: float = Field(0.02, gt=0)
    """Peak learning rate of Muon."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of AdamW's first moment."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of AdamW's second moment."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's epsilon."""
    momentum: float = Field(0.95, ge=0, lt=1)
    """Muon's momentum."""
    weight_decay: float = Field(0.1, ge=0)
    """Decay of the matrices; norms and embeddings never decay."""


class ScheduleConfig(Config):
    """Learning rate as a share of its peak, as a function of tokens seen."""

    kind: Literal["wsd", "cosine", "linear", "constant"] = "wsd"
    """Warm-up, stable, decay; cosine; linear; or constant after the warm-up."""
    warmup_tokens: int = Field(0, ge=0)
    """Tokens of linear warm-up."""
    decay_fraction: float = Field(0.2, gt=0, le=1)
    """wsd: the last share of all tokens, decayed linearly."""
    final_lr_fraction: float = Field(0.0, ge=0, le=1)
    """Learning rate at the end, as a share of the peak."""


def _rows_or_auto(value: object) -> object:
    """One sentence for a wrong value, where a union would give one for each of its members."""
    if value != "auto" and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        raise ValueError("must be a whole number of rows, at least 1, or auto")
    return value


class TrainConfig(Config):
    """The one loop."""

    tokens: int = Field(1_000_000, ge=1)
    """Positions to train on in all (rows times row length); rounded up to whole steps."""
    batch_tokens: int = Field(8192, ge=1)
    """Positions in one optimizer step, over all processes and micro-batches."""
    micro_batch_rows: Annotated[int | Literal["auto"], BeforeValidator(_rows_or_auto)] = 8
    """Rows in one forward and backward; auto takes what suits the device. Results differ by rounding only."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_norm: float = Field(1.0, ge=0)
    """Longest gradient; 0 leaves it alone."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of forward and backward: bf16 autocast, or fp32; auto takes bf16 where it is fast."""
    device: Literal["auto", "cpu", "cuda"] = neutral("auto")
    """Where to compute."""
    threads: int = neutral(0, ge=0)
    """CPU threads; 0 leaves torch's choice."""
    log_every_steps: int = neutral(10, ge=1)
    """Steps between two rows of metrics.jsonl."""
    evaluate_every_steps: int = neutral(200, ge=0)
    """Steps between two evaluations on held-out rows; 0 evaluates only at the end."""
    evaluate_rows: int = neutral(256, ge=1)
    """Held-out rows in such an evaluation."""
    save_every_steps: int = neutral(200, ge=1)
    """Steps between two checkpoints."""
    keep_last: int = neutral(2, ge=1)
    """Checkpoints kept; the newest that verifies is never deleted."""
    profile: int = neutral(0, ge=0)
    """Steps to profile, after two that warm up: a Chrome trace and a table of operators; 0 is off."""
    sample_prompts: tuple[str, ...] = neutral(())
    """Prompts continued at each evaluation, for the report."""
    probe: bool = neutral(True)
    """`slm plan` measures a short step on this machine; false leaves it out."""
    price_per_hour: float = neutral(0.0, ge=0)
    """What an hour of the device costs, in any currency, for `slm plan`; 0 is unknown."""
    wandb: Literal["off", "offline", "online"] = neutral("off")
    """Weights & Biases; online falls back to offline without a key."""
    tensorboard: bool = neutral(False)
    """Write TensorBoard event files beside the metrics."""

    @model_validator(mode="after")
    def _tokens_fit(self) -> TrainConfig:
        if self.schedule.warmup_tokens >= self.tokens:
            raise ValueError(
                f"schedule.warmup_tokens ({self.schedule.warmup_tokens:,}) must be less than tokens ({self.tokens:,})"
            )
        return self
