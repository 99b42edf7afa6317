"""Which files leave, and how close they must be to the model they came from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from slm.core.config import Config, neutral
from slm.serve.config import Timing

Format = Literal[
    "hf", "gguf_f32", "gguf_f16", "gguf_bf16", "gguf_q8_0", "gguf_q6_k", "gguf_q5_k_m", "gguf_q5_0", "gguf_q4_k_m",
    "gguf_q4_0", "awq", "onnx", "onnx_int8", "onnx_int4",
]  # fmt: skip
OF_INTEGERS: tuple[Format, ...] = ("awq", "onnx_int4")
"""Formats that carry integers of the compress stage."""

COSTS: dict[str, float] = {
    "hf": 1e-3, "gguf_f32": 1e-3, "gguf_f16": 5e-3, "gguf_bf16": 0.01, "gguf_q8_0": 0.01, "gguf_q6_k": 0.02,
    "gguf_q5_k_m": 0.05, "gguf_q5_0": 0.05, "onnx": 1e-3,
}  # fmt: skip
"""Budgets of bits per byte, and of KL in nats a token."""
OTHER_COSTS = (0.1, 0.2)
"""The same of formats that round to 4 bits; those of `slm.compress.config.Variant`."""


class Quality(Config):
    """What each file may cost on held-out text, as the engine that opens it computes."""

    documents: int = Field(16, ge=0)
    """Held-out documents over which it is measured, at even distances; 0 measures nothing."""
    positions: int = Field(256, ge=1)
    """Held-out positions over which KL and the likeliest token are compared."""
    tasks: bool = False
    """Ask every file the choice tasks of evaluate.tasks too, and compare item by item."""
    max_bits_per_byte_increase: dict[Format, float] = Field({})
    """By format: fail if held-out text costs so much more than in float32, where not the format's own budget holds."""
    max_kl: dict[Format, float] = Field({})
    """By format: fail if the mean KL divergence from the float32 model, in nats a token, is above this."""

    def budgets(self, name: Format) -> dict[str, float]:
        """The key of each budget of a format, and the budget."""
        bits, kl = (COSTS[name], COSTS[name]) if name in COSTS else OTHER_COSTS
        return {
            "max_bits_per_byte_increase": self.max_bits_per_byte_increase.get(name, bits),
            "max_kl": self.max_kl.get(name, kl),
        }


class ExportConfig(Config):
    """Checkpoint to files that other programs open, each with its parity proof."""

    formats: tuple[Format, ...] = Field(("hf", "gguf_f32", "gguf_f16", "gguf_bf16", "gguf_q8_0"), min_length=1)
    """What to write."""
    prompts: tuple[str, ...] = Field(
        ("def main():\n", "import os\n", "class Node:\n    def __init__(self", "The quick brown"), min_length=1
    )
    """Texts over which parity is proved, beside the golden prompts."""
    greedy_tokens: int = Field(24, ge=1)
    """Length of the greedy continuations that must be identical (HF, F32, ONNX, F16)."""
    max_positions: int = Field(64, ge=1)
    """Positions of each prompt at which all logits are compared, spread evenly up to and with the last."""
    max_logit_delta_hf: float = Field(1e-4, gt=0)
    """Largest |difference| of logits to transformers, fp32."""
    max_logprob_delta_f32: float = Field(1e-4, gt=0)
    """Largest |difference| of log-probabilities, whole vocabulary, to llama.cpp with an F32 file and F32 cache."""
    max_logprob_delta_f16: float = Field(5e-3, gt=0)
    """F16: the same, of the tokens of the text: the next in the prompt and the model's likeliest."""
    max_logprob_delta_bf16: float = Field(0.1, gt=0)
    """BF16: as F16."""
    max_logprob_delta_q8_0: float = Field(0.5, gt=0)
    """Q8_0: as F16."""
    max_logprob_delta_q6: float = Field(1.0, gt=0)
    """Q6_K: as F16."""
    max_logprob_delta_q5: float = Field(2.0, gt=0)
    """Q5_K_M and Q5_0: as F16."""
    max_logprob_delta_q4: float = Field(4.0, gt=0)
    """Q4_K_M and Q4_0: as F16."""
    max_logprob_delta_onnx: float = Field(1e-4, gt=0)
    """ONNX: largest |difference| of log-probabilities, whole vocabulary, to ONNX Runtime, fp32."""
    max_logprob_delta_onnx_int8: float = Field(0.5, gt=0)
    """ONNX in 8-bit integers: as F16."""
    max_logprob_delta_onnx_int4: float = Field(0.5, gt=0)
    """ONNX in 4-bit integers: as F16, of the model that its integers stand for, since activations are rounded too."""
    max_logit_delta_awq: float = Field(1e-2, gt=0)
    """AWQ: largest |difference| of logits to the model that its integers stand for; their own cost is compress's."""
    max_shard_bytes: int = Field(4 * 10**9, ge=1)
    """Largest safetensors file of hf and awq; what does not fit goes into more, with an index."""
    quality: Quality = Quality()
    timing: Timing = Timing()
    """How fast the files answer."""
    max_gguf_bytes: int = Field(0, ge=0)
    """Largest GGUF file; a larger model goes into parts, which llama.cpp opens by the first. 0 writes one file."""
    imatrix: bool = False
    """Weigh errors of GGUF's quantized types by the inputs over compress.calibration's text; adds imatrix.gguf."""
    variant: str = "int4"
    """The variant of the compress stage that awq and onnx_int4 carry."""
    gguf_variant: str = ""
    """A variant of the compress stage, of method scale, that GGUF files are made of; empty takes the checkpoint."""
    threads: int = neutral(2, ge=1)
    """Threads for the engines that prove parity."""

    @field_validator("formats")
    @classmethod
    def _each_once(cls, formats: tuple[Format, ...]) -> tuple[Format, ...]:
        twice = [name for name in dict.fromkeys(formats) if formats.count(name) > 1]
        if twice:
            raise ValueError(f"{', '.join(twice)} is named twice; name each format once")
        return formats

    @model_validator(mode="after")
    def _settings_take_effect(self) -> ExportConfig:
        if self.imatrix and not any(name.startswith("gguf_q") for name in self.formats):
            raise ValueError("imatrix has no effect without a quantized GGUF; add one, such as gguf_q4_k_m, to formats")
        if self.gguf_variant and not any(name.startswith("gguf_") for name in self.formats):
            raise ValueError(f"gguf_variant ({self.gguf_variant}) has no effect without a GGUF among formats; add one")
        return self

    def budget(self, name: Format) -> tuple[str, float]:
        """The key of a format's budget, and the budget."""
        of_format = {
            "hf": ("max_logit_delta_hf", self.max_logit_delta_hf),
            "gguf_f32": ("max_logprob_delta_f32", self.max_logprob_delta_f32),
            "gguf_f16": ("max_logprob_delta_f16", self.max_logprob_delta_f16),
            "gguf_bf16": ("max_logprob_delta_bf16", self.max_logprob_delta_bf16),
            "gguf_q8_0": ("max_logprob_delta_q8_0", self.max_logprob_delta_q8_0),
            "gguf_q6_k": ("max_logprob_delta_q6", self.max_logprob_delta_q6),
            "gguf_q5_k_m": ("max_logprob_delta_q5", self.max_logprob_delta_q5),
            "gguf_q5_0": ("max_logprob_delta_q5", self.max_logprob_delta_q5),
            "gguf_q4_k_m": ("max_logprob_delta_q4", self.max_logprob_delta_q4),
            "gguf_q4_0": ("max_logprob_delta_q4", self.max_logprob_delta_q4),
            "onnx": ("max_logprob_delta_onnx", self.max_logprob_delta_onnx),
            "onnx_int8": ("max_logprob_delta_onnx_int8", self.max_logprob_delta_onnx_int8),
            "onnx_int4": ("max_logprob_delta_onnx_int4", self.max_logprob_delta_onnx_int4),
            "awq": ("max_logit_delta_awq", self.max_logit_delta_awq),
        }
        key, budget = of_format[name]
        return f"export.{key}", budget
