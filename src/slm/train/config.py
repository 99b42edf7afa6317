"""How long, how fast and how safely to train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from slm.core.config import Config, neutral
from slm.model.config import LoraConfig


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


class DropoutConfig(Config):
    """What training leaves out or blurs at random; evaluation, generation and export never do."""

    rate: float = Field(0.0, ge=0, le=0.95)
    """Share of the entries of each attention's and each feed-forward's output that is set to zero."""
    embedding_rate: float = Field(0.0, ge=0, le=0.95)
    """The same for the embeddings."""
    embedding_noise: float = Field(0.0, ge=0)
    """NEFTune's alpha, 5 to 15: noise on embeddings, up to alpha / sqrt(entries of the document) (arXiv 2310.05914)."""
    drop_path: float = Field(0.0, ge=0, le=0.95)
    """Chance that the last layer's attention, or feed-forward, is left out for a row; lower layers linearly less."""
    schedule: Literal["constant", "linear", "early"] = "constant"
    """How these change with tokens: not; linearly; or there at first and then not at all."""
    from_share: float = Field(1.0, ge=0, le=1)
    """linear: the factor on all of them at the beginning."""
    to_share: float = Field(0.0, ge=0, le=1)
    """linear: the factor that is reached after `over` and kept."""
    over: float = Field(1.0, gt=0, le=1)
    """linear, early: the share of the training's tokens that it takes."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> DropoutConfig:
        effective = {"constant": set[str](), "linear": {"from_share", "to_share", "over"}, "early": {"over"}}
        rates = (self.rate, self.embedding_rate, self.drop_path, self.embedding_noise)
        if self.schedule != "constant" and not any(rates):
            raise ValueError(f"schedule ({self.schedule}) has no effect without a rate, drop_path or noise; set one")
        for name in ("from_share", "to_share", "over"):
            value = getattr(self, name)
            if value != type(self).model_fields[name].default and name not in effective[self.schedule]:
                raise ValueError(f"{name} ({value}) has no effect with schedule {self.schedule}; change one")
        if self.schedule == "early" and self.over == 1:
            raise ValueError("over (1.0) must be less than 1 with schedule early; lower it or take constant")
        if self.schedule == "linear" and self.from_share == self.to_share:
            raise ValueError(f"from_share ({self.from_share}) must not equal to_share; change one or take constant")
        return self


class QuantizationConfig(Config):
    """Quantization-aware training: forward sees matrices as `slm.compress` with method rtn will round them."""

    bits: Literal[0, 2, 3, 4, 8] = 0
    """Width of the integers of the blocks' matrices; 0 rounds nothing."""
    group_size: Literal[0, 32, 64, 128, 256] = 128
    """Neighbouring weights of a row that share a scale; 0 for one scale a row."""
    symmetric: bool = False
    """Zero points in the middle; otherwise where each group wants its own."""
    outside_bits: Literal[4, 8, 16] = 8
    """Width for the embedding and the head; 16 rounds them to float16."""
    on_misfit: Literal["refuse", "next"] = "refuse"
    """A row that no whole number of groups fills: refuse it, or take the next smaller group that fits and say so."""
    from_tokens: int = Field(0, ge=0)
    """Tokens that are trained on in full precision first."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> QuantizationConfig:
        for name in sorted(self.model_fields_set - {"bits"}):
            if not self.bits and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} ({getattr(self, name)}) has no effect without bits (0); set bits")
        return self


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


class BatchRampConfig(Config):
    """Small steps first; the learning rate stays a function of tokens and is not scaled with them."""

    start_tokens: int = Field(0, ge=0)
    """Positions in the first steps, a divisor of batch_tokens; 0 has full steps throughout."""
    ramp_tokens: int = Field(0, ge=0)
    """Tokens over which steps grow to batch_tokens, in whole multiples of start_tokens."""

    @model_validator(mode="after")
    def _both_or_neither(self) -> BatchRampConfig:
        if bool(self.start_tokens) != bool(self.ramp_tokens):
            raise ValueError(
                f"start_tokens ({self.start_tokens:,}) has no effect without ramp_tokens ({self.ramp_tokens:,}), "
                "nor the reverse; set both or neither"
            )
        return self


class SourceSamplingConfig(Config):
    """Shares of the sources that follow their training loss, from the shards' weights on."""

    every_steps: int = Field(0, ge=0)
    """Steps between two changes of the shares; 0 keeps those of the shards."""
    strength: float = Field(1.0, gt=0, le=10)
    """A source with one nat more loss over its floor than another gains e to this power on it."""
    ema_decay: float = Field(0.9, ge=0, lt=1)
    """Decay of the average of each source's loss, per step."""
    min_share: float = Field(0.02, ge=0.002, lt=0.5)
    """The share that every source keeps, to one row in 1,024."""
    floors: dict[str, float] = Field(default_factory=dict)
    """By source the loss in nats that cannot be undercut, such as an earlier model's; 0 where there is none."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> SourceSamplingConfig:
        given = self.model_fields_set - {"every_steps"}
        changed = sorted(
            name
            for name in given
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)
        )
        if changed and not self.every_steps:
            raise ValueError(f"{changed[0]} has no effect without every_steps (0); set every_steps, or leave it out")
        return self


class CurriculumConfig(Config):
    """Short rows first: each step's rows cut into shorter ones, with the same tokens in a step."""

    lengths: tuple[int, ...] = ()
    """Row lengths to begin with, rising, each a divisor of shards.seq_len; empty has whole rows throughout."""
    shares: tuple[float, ...] = ()
    """The share of all tokens that each of these lengths takes; what is left over has whole rows."""

    @model_validator(mode="after")
    def _phases_fit(self) -> CurriculumConfig:
        if len(self.lengths) != len(self.shares):
            raise ValueError(
                f"lengths ({len(self.lengths)} of them) must be as many as shares ({len(self.shares)}); "
                "give each length its share"
            )
        if any(share <= 0 for share in self.shares) or sum(self.shares) >= 1:
            raise ValueError(
                f"shares ({', '.join(f'{share:g}' for share in self.shares)}) must each be above 0 and together "
                "below 1, since training ends on whole rows; lower them"
            )
        if sorted(set(self.lengths)) != list(self.lengths) or (self.lengths and self.lengths[0] < 2):
            raise ValueError(
                f"lengths ({', '.join(map(str, self.lengths))}) must be at least 2 and rise; put the shortest first"
            )
        return self


class CheckpointConfig(Config):
    """How checkpoints are written, how many stay, and where else they go. Nothing of it changes the weights."""

    keep_last: int = Field(2, ge=1)
    """Checkpoints kept; the newest that verifies is never deleted."""
    keep_every_steps: int = Field(0, ge=0)
    """Checkpoints at multiples of this many steps are kept for good; 0 keeps none for good."""
    asynchronous: bool = False
    """Write in a thread while training goes on, from a copy that takes as much memory again as the state."""
    remote: str = ""
    """Address that checkpoints are also uploaded to and resumed from: s3://, gs://, az://, file://; empty is none."""
    remote_wait_seconds: float = Field(600.0, ge=0)
    """How long a finished run waits for its last uploads."""

    @model_validator(mode="after")
    def _remote_fits(self) -> CheckpointConfig:
        if self.remote and "://" not in self.remote:
            raise ValueError(f"remote ({self.remote}) is no address; write it as s3://bucket/folder or file:///folder")
        if not self.remote and self.remote_wait_seconds != 600:
            raise ValueError(
                f"remote_wait_seconds ({self.remote_wait_seconds:g}) has no effect without remote; leave it out"
            )
        return self


class LrRangeConfig(Config):
    """What `slm lr_range` sweeps; the rate is Muon's where it updates the matrices, else AdamW's."""

    lowest: float = Field(1e-5, gt=0)
    """Learning rate of the first step."""
    highest: float = Field(10.0, gt=0)
    """Learning rate of the last step, if the loss has not diverged before."""
    steps: int = Field(100, ge=10)
    """Steps in between, each larger by the same factor."""

    @model_validator(mode="after")
    def _grows(self) -> LrRangeConfig:
        if self.highest <= self.lowest:
            raise ValueError(f"highest ({self.highest:g}) must be above lowest ({self.lowest:g}); raise it")
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
    initial: str = neutral("")
    """Checkpoint whose published weights the run begins with: a run's folder, its train folder or one step of it, or
    the folder of a variant in 32 bits; empty begins with fresh ones. The run is made from its fingerprint, not path."""
    max_flops: float = Field(0.0, ge=0)
    """Floating-point operations that the training may take, by `slm.model.counting`; ends it at the last step that
    fits, learning rate brought down as at any end, where that is before `tokens`. 0 is no limit. Time is limited by
    `deadline_minutes`."""
    batch_tokens: int = Field(8192, ge=1)
    """Positions in one optimizer step, over all processes and micro-batches."""
    micro_batch_rows: Annotated[int | Literal["auto"], BeforeValidator(_rows_or_auto)] = 8
    """Rows in one forward and backward; auto takes what suits the device. Results differ by rounding only."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch_ramp: BatchRampConfig = BatchRampConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    sources: tuple[str, ...] = ()
    """Sources of the shards to read, in the shares that the others leave them; empty reads all."""
    source_sampling: SourceSamplingConfig = SourceSamplingConfig()
    clip_norm: float = Field(1.0, ge=0)
    """Longest gradient; 0 leaves it alone."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, which is then what is evaluated and published; 0 keeps none."""
    dropout: DropoutConfig = DropoutConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    sparsity: Literal["none", "2:4"] = "none"
    """2:4 keeps at 0 what is 0 in the blocks' matrices of `initial`, which must have two zeros in each four weights."""
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the matrices of `initial` and nothing else; checkpoints hold the merged model too.
    `{}` takes the defaults."""
    guard: GuardConfig = GuardConfig()
    precision: Literal["auto", "fp32", "bf16", "bf16_weights"] = "auto"
    """fp32, bf16 autocast, or bf16_weights (a bf16 copy of fp32 masters); auto takes bf16 where it is fast."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """What backward computes again instead of keeping it: all of a block but products and attention, or all of it."""
    compile: bool = False
    """Train the blocks by torch.compile: half a minute at start, then faster. Results differ by rounding only."""
    device: Literal["auto", "cpu", "cuda"] = neutral("auto")
    """Where to compute."""
    parallel: Literal["auto", "single", "ddp", "full_shard", "shard_grad_op", "hybrid_shard"] = neutral("auto")
    """How processes share the model; auto is single for one process and ddp for several."""
    shard_processes: int = neutral(0, ge=0)
    """hybrid_shard: processes that hold one copy of the model together; 0 takes those of one machine."""
    offload_optimizer: bool = neutral(False)
    """Keep AdamW's state in the computer's memory instead of the GPU's, for models that do not fit otherwise."""
    threads: int = neutral(0, ge=0)
    """CPU threads; 0 leaves torch's choice."""
    prefetch_steps: int = neutral(1, ge=0)
    """Steps whose batches a thread builds ahead; 0 builds each when it is asked for."""
    log_every_steps: int = neutral(10, ge=1)
    """Steps between two rows of metrics.jsonl."""
    statistics_every_steps: int = neutral(0, ge=0)
    """Steps between two rows of sizes by layer: activations, weights, gradients, updates; 0 takes none."""
    noise_scale_every_steps: int = neutral(0, ge=0)
    """Steps between two measurements of the gradient noise scale, from micro-batches against steps; 0 takes none."""
    evaluate_every_steps: int = neutral(200, ge=0)
    """Steps between two evaluations on held-out rows; 0 evaluates only at the end."""
    evaluate_rows: int = neutral(256, ge=1)
    """Held-out rows in such an evaluation."""
    tasks: tuple[str, ...] = neutral(())
    """Tasks scored at each evaluation: names of evaluate.task_files of multiple choice or text."""
    task_items: int = neutral(100, ge=1)
    """Items of each of them, at even distances."""
    save_every_steps: int = neutral(200, ge=1)
    """Steps between two checkpoints. They are also what the guard rewinds to, in a run that needs it."""
    checkpoints: CheckpointConfig = neutral(CheckpointConfig())
    deadline_minutes: float = neutral(0.0, ge=0)
    """Save and leave with status 85 before this command has run so long; 0 is no limit but SLURM_JOB_END_TIME."""
    deadline_margin_seconds: float = neutral(30.0, ge=0)
    """How much earlier than such an end, besides the measured time of a step and a save."""
    profile: int = neutral(0, ge=0)
    """Steps to profile, after two that warm up: a Chrome trace and a table of operators; 0 is off."""
    sample_prompts: tuple[str, ...] = neutral(())
    """Prompts continued at each evaluation, for the report."""
    lr_range: LrRangeConfig = neutral(LrRangeConfig())
    probe: bool = neutral(True)
    """`slm plan` measures a short step on this machine; false leaves it out."""
    processes: int = neutral(1, ge=1)
    """Processes that `slm plan` reckons with; a run has those that its launcher started."""
    price_per_hour: float = neutral(0.0, ge=0)
    """What an hour of all that computes costs, in any currency, for `slm plan` and a run's end; 0 is unknown."""
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
        if self.quantization.from_tokens >= self.tokens:
            raise ValueError(
                f"quantization.from_tokens ({self.quantization.from_tokens:,}) must be less than tokens "
                f"({self.tokens:,}), or nothing is rounded; lower it"
            )
        if self.checkpoints.keep_every_steps % self.save_every_steps:
            raise ValueError(
                f"checkpoints.keep_every_steps ({self.checkpoints.keep_every_steps:,}) must be a multiple of "
                f"save_every_steps ({self.save_every_steps:,}), or nothing is there to keep; change one"
            )
        if self.offload_optimizer and self.optimizer.kind == "muon":
            raise ValueError(
                "offload_optimizer (true) must go with optimizer.kind adamw, since Muon's matrix products are slow on "
                "a CPU; leave it out, or set optimizer.kind=adamw"
            )
        if self.sources and self.source_sampling.every_steps:
            raise ValueError(
                f"sources ({', '.join(self.sources)}) and source_sampling.every_steps "
                f"({self.source_sampling.every_steps}) would both set the shares; leave one of them out"
            )
        if self.shard_processes and self.parallel != "hybrid_shard":
            raise ValueError(
                f"shard_processes ({self.shard_processes}) has no effect with parallel {self.parallel}; "
                "set parallel=hybrid_shard, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _compile_fits(self) -> TrainConfig:
        if self.compile and self.activation_checkpointing == "selective":
            raise ValueError(
                "activation_checkpointing (selective) has no effect with compile, which chooses by itself what to "
                "keep; set activation_checkpointing to none or full, or compile to false"
            )
        for name in ("rate", "drop_path"):
            if self.compile and getattr(self.dropout, name):
                raise ValueError(
                    f"dropout.{name} ({getattr(self.dropout, name)}) cannot be compiled, for its masks come from seeds "
                    "that change with every step; set it to 0, or compile to false"
                )
        return self

    @model_validator(mode="after")
    def _lora_fits(self) -> TrainConfig:
        if self.lora is None:
            return self
        if not self.initial:
            raise ValueError("lora trains beside the matrices of initial, which is empty; name a checkpoint there")
        against = {
            "optimizer.kind=muon": self.optimizer.kind == "muon",
            "ema_decay": bool(self.ema_decay),
            "sparsity": self.sparsity != "none",
            "quantization": bool(self.quantization.bits),
            "precision=bf16_weights": self.precision == "bf16_weights",
            f"parallel={self.parallel} (lora.base is {self.lora.base})": self.lora.base != "float"
            and self.parallel not in ("auto", "single", "ddp"),
        }
        if found := [name for name, given in against.items() if given]:
            raise ValueError(f"lora cannot be combined with {', '.join(found)}; leave one of them out")
        return self

    @model_validator(mode="after")
    def _sparsity_fits(self) -> TrainConfig:
        if self.sparsity != "none" and not self.initial:
            raise ValueError(
                f"sparsity ({self.sparsity}) keeps the zeros of initial, which is empty; name a variant that "
                "slm.compress made by method sparse with 32 bits"
            )
        if self.sparsity != "none" and self.noise_scale_every_steps:
            raise ValueError(
                f"noise_scale_every_steps ({self.noise_scale_every_steps}) would measure gradients that sparsity "
                f"({self.sparsity}) throws away; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _ramp_fits(self) -> TrainConfig:
        start, over = self.batch_ramp.start_tokens, self.batch_ramp.ramp_tokens
        if start and (self.batch_tokens % start or start == self.batch_tokens):
            raise ValueError(
                f"batch_ramp.start_tokens ({start:,}) must divide batch_tokens ({self.batch_tokens:,}) and be less; "
                "change one"
            )
        if over > self.tokens:
            raise ValueError(
                f"batch_ramp.ramp_tokens ({over:,}) must not exceed tokens ({self.tokens:,}), or steps never reach "
                "batch_tokens; lower it"
            )
        return self
