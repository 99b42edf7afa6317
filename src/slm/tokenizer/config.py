"""Shape of the vocabulary."""

from __future__ import annotations

from pydantic import Field, field_validator

from slm.core.config import Config, neutral


class TokenizerConfig(Config):
    """Documents to a frozen SentencePiece model."""

    vocab_size: int = Field(2048, ge=320, le=1_000_000)
    """Ids in all: 6 control tokens, 256 bytes and learned pieces."""
    sample_bytes: int = Field(100_000_000, ge=100_000)
    """How much training text the vocabulary is learned from at most, in UTF-8 bytes."""
    weights: dict[str, float] = Field(default_factory=dict)
    """Share of that text per source name, relative to each other; empty takes each source by what the stages of
    `shards.mixture` read of it, and without a mixture by its size."""
    memory_bytes: int = Field(6_000_000_000, ge=500_000_000)
    """Memory that learning may take, whatever the text; less is learned from where it would not do for sample_bytes.
    The bound is for words that never repeat: of prose, a tenth is used."""
    split_digits: bool = True
    """Every digit is a token of its own, which small models need for arithmetic."""
    split_scripts: bool = True
    """Pieces keep to one script, so that words and punctuation stay apart; off, code takes 5 % fewer, worse tokens."""
    whitespace_pieces: bool = True
    """Allow pieces of spaces, tabs and line ends with the indentation after them, so that either is one token."""
    threads: int = neutral(2, ge=1)
    """Threads that encode; learning uses one."""

    @field_validator("weights")
    @classmethod
    def _weights_are_shares(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if weight <= 0:
                raise ValueError(f"{name} ({weight:g}) must be above 0; leave the source out of the corpus instead")
        return weights
