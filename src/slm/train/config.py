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
    parametrization: Literal["standard", "mup", "completep"] = "standard"
    """What width (mup) or width and depth (completep) do to learning rates and initial weights."""
    base_width: int = Field(0, ge=0)
    """mup, completep: the width that the settings were found at."""
    base_layers: int = Field(0, ge=0)
    """completep: the depth that the settings were found at."""

    @model_validator(mode="after")
    def _bases_fit(self) -> OptimizerConfig:
        wanted = {"standard": (), "mup": ("base_width",), "completep": ("base_width", "base_layers")}
        for name in ("base_width", "base_layers"):
            value, needed = getattr(self, name), name in wanted[self.parametrization]
            if bool(value) != needed:
                rule = "must be given" if needed else "has no effect"
                raise ValueError(f"{name} ({value}) {rule} with parametrization {self.parametrization}; change one")
        return self


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


class GuardConfig(Config):
    """Steps that must not change the weights. Skips and rewinds are rows of the metrics; a clean run has neither."""

    enabled: bool = True
    """Skip steps that are not finite or spike; without it the first one that is not finite ends the run."""
    sigma: float = Field(6.0, gt=0)
    """A loss or gradient norm this many standard deviations above the mean is a spike."""
    window: int = Field(128, ge=2)
    """Accepted steps that the mean is taken over."""
    warm_in: int = Field(64, ge=2)
    """Accepted steps before anything finite counts as a spike."""
    max_skips: int = Field(8, ge=1)
    """After so many skips in a row the run goes back to its last regular checkpoint, past the offending rows."""

    @model_validator(mode="after")
    def _warm_in_fits(self) -> GuardConfig:
        if self.warm_in > self.window:
            raise ValueError(f"warm_in ({self.warm_in}) must not exceed window ({self.window}); lower it")
        return self


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
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, which is then what is evaluated and published; 0 keeps none."""
    guard: GuardConfig = GuardConfig()
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
    """Steps between two checkpoints. They are also what the guard rewinds to, in a run that needs it."""
    keep_last: int = neutral(2, ge=1)
    """Checkpoints kept; the newest that verifies is never deleted."""
    deadline_minutes: float = neutral(0.0, ge=0)
    """Save and leave with status 85 before this command has run so long; 0 is no limit but SLURM_JOB_END_TIME."""
    deadline_margin_seconds: float = neutral(30.0, ge=0)
    """How much earlier than such an end, besides the measured time of a step and a save."""
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
