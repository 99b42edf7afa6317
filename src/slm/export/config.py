"""Which files leave, and how close they must be to the model they came from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from slm.core.config import Config, neutral


class ExportConfig(Config):
    """Checkpoint to files that other programs open, each with its parity proof."""

    formats: tuple[Literal["hf", "gguf_f32", "gguf_f16", "gguf_bf16", "gguf_q8_0"], ...] = (
        "hf", "gguf_f32", "gguf_f16", "gguf_bf16", "gguf_q8_0",
    )  # fmt: skip
    """What to write."""
    prompts: tuple[str, ...] = ("def main():\n", "import os\n", "class Node:\n    def __init__(self", "The quick brown")
    """Texts over which parity is proved, beside the golden prompts."""
    greedy_tokens: int = Field(24, ge=1)
    """Length of the greedy continuations that must be identical (F32, F16)."""
    max_logprob_delta_hf: float = Field(1e-4, gt=0)
    """Largest |difference| of logits to transformers, fp32."""
    max_logprob_delta_f32: float = Field(1e-4, gt=0)
    """Largest |difference| of log-probabilities to llama.cpp with an F32 file and F32 cache."""
    max_logprob_delta_f16: float = Field(5e-3, gt=0)
    """The same for F16."""
    max_logprob_delta_bf16: float = Field(0.1, gt=0)
    """The same for BF16."""
    max_logprob_delta_q8_0: float = Field(0.5, gt=0)
    """The same for Q8_0."""
    threads: int = neutral(2, ge=1)
    """Threads for the engines that prove parity."""
