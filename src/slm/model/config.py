"""Shape of the decoder; every configuration maps to a Hugging Face and to a llama.cpp architecture."""

from __future__ import annotations

import math
from typing import Literal, get_args

from pydantic import Field, model_validator

from slm.core.config import Config, neutral

Backend = Literal["sdpa", "flash_attn", "varlen", "flex"]
"""What computes attention over whole rows."""


class RopeScaling(Config):
    """Stretching of rotary positions beyond the length trained at."""

    kind: Literal["linear", "llama3"]
    """`linear` divides positions by `factor`; `llama3` stretches only the low frequencies (Llama 3.1)."""
    factor: float = Field(gt=1)
    """How much longer the context becomes."""
    low_freq_factor: float = Field(1.0, gt=0)
    """llama3: wavelengths above original_max_seq_len / this are stretched fully."""
    high_freq_factor: float = Field(4.0, gt=0)
    """llama3: wavelengths below original_max_seq_len / this are left alone."""
    original_max_seq_len: int = Field(8192, ge=1)
    """llama3: the length that the model was trained at."""

    @model_validator(mode="after")
    def _settings_take_effect(self) -> RopeScaling:
        if self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"high_freq_factor ({self.high_freq_factor}) must be larger than low_freq_factor "
                f"({self.low_freq_factor})"
            )
        if self.kind == "linear":
            for name in ("low_freq_factor", "high_freq_factor", "original_max_seq_len"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} ({getattr(self, name)}) has no effect on linear scaling; leave it out")
        return self


Matrix = Literal["attention.q", "attention.k", "attention.v", "attention.o", "ffn.gate", "ffn.up", "ffn.down"]
"""A matrix of a block."""
MATRICES: tuple[Matrix, ...] = get_args(Matrix)


class LoraConfig(Config):
    """Low-rank adapters: what is trained beside frozen matrices (arXiv 2106.09685)."""

    rank: int = Field(16, ge=1)
    """Columns of the narrow matrices; peft's r."""
    alpha: float = Field(32, gt=0)
    """The product is added alpha / rank times, or alpha / sqrt(rank) times with rslora."""
    targets: tuple[Matrix, ...] = Field(MATRICES, min_length=1)
    """The matrices of each block that get an adapter."""
    dora: bool = False
    """Train the length of each row apart from its direction (DoRA, arXiv 2402.09353)."""
    rslora: bool = False
    """Scale by sqrt(rank), so that higher ranks learn as fast (arXiv 2312.03732)."""
    base: Literal["float", "int4", "nf4"] = "float"
    """How the frozen matrices are held while adapters are trained: as they are, or in 4 bits a weight (QLoRA, arXiv
    2305.14314), on the grid of `compress` or the quantiles of a normal distribution. Checkpoints then hold what these
    stand for, with the adapter merged."""

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    @model_validator(mode="after")
    def _each_once(self) -> LoraConfig:
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets ({', '.join(self.targets)}) names a matrix twice; name each once")
        return self


class ModelConfig(Config):
    """A Llama-family decoder: RMSNorm, SwiGLU, rotary positions, grouped-query attention."""

    vocab_size: int = Field(2048, ge=2)
    """Rows of the embedding; equals tokenizer.vocab_size."""
    width: int = Field(256, ge=8)
    """Residual stream (Hugging Face: hidden_size)."""
    layers: int = Field(4, ge=1)
    """Blocks."""
    heads: int = Field(4, ge=1)
    """Query heads."""
    kv_heads: int = Field(2, ge=1)
    """Key and value heads; heads must be a multiple."""
    head_dim: int = Field(64, ge=2)
    """Width of a head; even."""
    ffn_width: int = Field(768, ge=8)
    """Inner width of the SwiGLU (intermediate_size)."""
    max_seq_len: int = Field(512, ge=8)
    """Longest context that the model is meant for."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary frequencies."""
    rope_scaling: RopeScaling | None = None
    """Stretching of positions, or none."""
    norm_eps: float = Field(1e-5, gt=0)
    """Added to the mean square in RMSNorm."""
    qk_norm: bool = False
    """RMSNorm on each query and key head; exports as Qwen3 instead of Llama."""
    tie_embeddings: bool = True
    """One matrix serves as embedding and as output head."""
    sliding_window: int = Field(0, ge=0)
    """Attend to at most this many tokens back, itself included; 0 attends to all."""
    residual_init: Literal["scaled", "zero"] = "scaled"
    """Fresh weights of attention.o and ffn.down: scaled by 1 / sqrt(2 * layers), or zero; only a new model reads it."""
    attention: Literal["auto", "sdpa", "flash_attn", "varlen", "flex"] = neutral("auto")
    """Backend: torch's sdpa, flash_attn or varlen (GPU), flex; auto takes flash_attn or varlen where they compute."""

    @model_validator(mode="after")
    def _heads_fit(self) -> ModelConfig:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even for rotary positions")
        return self
