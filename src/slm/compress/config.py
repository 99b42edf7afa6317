"""Which low-bit variants of a checkpoint to make, from what text, and what each may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from slm.core.artifact import file_sha256
from slm.core.config import Config, neutral
from slm.core.errors import UserError
from slm.serve.config import Timing

Method = Literal["rtn", "awq", "gptq", "sparse", "scale"]
Pruning = Literal["magnitude", "wanda", "sparsegpt"]


class Calibration(Config):
    """The text over which activations are observed."""

    text: str = ""
    """A text file to calibrate on; empty takes rows of the training shards."""
    tokens: int = Field(65_536, ge=1)
    """How many tokens, cut into rows; more cost time in proportion and little memory."""
    row_tokens: int = Field(0, ge=0)
    """Length of a row of `text`; 0 takes the row length trained at. Rows of the shards have theirs."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the blocks' products while they are observed; auto takes bf16 where the hardware multiplies it."""
    batch_rows: int = neutral(8, ge=1)
    """Rows that go through a block together."""

    def text_hash(self) -> str:
        """The hash of `text`; of training rows, whose shards have theirs, nothing."""
        if self.text and not Path(self.text).is_file():
            raise UserError(
                f"compress.calibration.text ({self.text}) is not a file; correct the path, or leave it empty to "
                "calibrate on training rows"
            )
        return file_sha256(Path(self.text)) if self.text else ""


class Variant(Config):
    """One way to store the weights."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    """Name of its folder, and what exports and tables call it."""
    method: Method = "awq"
    """`rtn` rounds to the nearest; `awq` scales and clips first; `gptq` lets weights make up for each other's error;
    `sparse` sets two of each four neighbours to 0, then rounds to the nearest; `scale` is awq's scaling for a grid that
    the export rounds to (export.gguf_variant): all weights stay float32."""
    bits: Literal[2, 3, 4, 8, 32] = 4
    """Width of the integers of the blocks' matrices; 32, for sparse alone, leaves them as float32."""
    group_size: Literal[0, 32, 64, 128, 256] = 128
    """Neighbouring weights of a row that share a scale; 0 for one scale a row."""
    symmetric: bool = False
    """Zero points in the middle; otherwise where each group wants its own."""
    clip: bool = True
    """awq: narrow ranges where that lowers the error of the outputs."""
    compensate: bool = True
    """awq: on the grid so found, let weights make up for each other's error as gptq does; false rounds to the nearest,
    as AutoAWQ does."""
    prune_by: Pruning = "sparsegpt"
    """sparse: which two of four weights go; `slm.compress.sparse` says how."""
    outside_bits: Literal[4, 8, 16, 32] = 8
    """Width for the embedding and the head; 16 keeps them as float16, 32 as they are."""
    max_bits_per_byte_increase: float = Field(0.1, gt=0)
    """Fail if held-out text costs so much more than in float32."""
    max_kl: float = Field(0.2, gt=0)
    """Fail if the mean KL divergence from the float32 model, in nats a token, is above this."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> Variant:
        for key in ("clip", "compensate"):
            if self.method != "awq" and not getattr(self, key):
                raise ValueError(f"{key} (false) has no effect on {self.method}; leave it out")
        if self.method != "sparse" and self.prune_by != "sparsegpt":
            raise ValueError(f"prune_by ({self.prune_by}) has no effect on {self.method}; leave it out")
        if self.bits == 32 and self.method != "sparse":
            raise ValueError(f"bits (32) rounds nothing, so {self.method} has nothing to do; take 2 to 8")
        return self

    @property
    def rounds(self) -> bool:
        """Whether the blocks' matrices become integers."""
        return self.bits != 32

    @property
    def reads_text(self) -> bool:
        """Whether it looks at what the model computes over the calibration text."""
        return self.method in ("awq", "gptq", "scale") or (self.method == "sparse" and self.prune_by != "magnitude")


class CompressConfig(Config):
    """Checkpoint to integers, with what it cost."""

    variants: tuple[Variant, ...] = ()
    """What to make; a pipeline leaves the stage out where there is none."""
    calibration: Calibration = Calibration()
    on_misfit: Literal["refuse", "next"] = "refuse"
    """A row that no whole number of groups fills: refuse it, or take the next smaller group that fits and say so."""
    max_documents: int = Field(0, ge=0)
    """Held-out documents over which the cost is measured, at even distances; 0 takes all."""
    positions: int = Field(512, ge=1)
    """Held-out positions over which KL and the likeliest token are compared."""
    tasks: bool = False
    """Ask every variant the choice tasks of evaluate.tasks too, and compare item by item."""
    timing: Timing = Timing()
    """How fast the variants answer in our own engine, which computes in float32 whatever is stored."""
    device: Literal["auto", "cpu", "cuda"] = neutral("auto")
    """Where blocks are observed and rounded; auto takes a GPU where there is one. The cost is measured on the CPU."""
    threads: int = neutral(0, ge=0)
    """CPU threads; 0 leaves torch's choice."""

    @field_validator("variants")
    @classmethod
    def _each_once(cls, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        names = [variant.name for variant in variants]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice; give each variant a name of its own")
        return variants
