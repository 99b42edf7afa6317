"""Shape of the vocabulary."""

from __future__ import annotations

from pydantic import Field

from slm.core.config import Config, neutral


class TokenizerConfig(Config):
    """Documents to a frozen SentencePiece model."""

    vocab_size: int = Field(2048, ge=320, le=1_000_000)
    """Ids in all: 6 control tokens, 256 bytes and learned pieces."""
    sample_bytes: int = Field(100_000_000, ge=100_000)
    """How much training text the vocabulary is learned from, in UTF-8 bytes."""
    split_digits: bool = True
    """Every digit is a token of its own, which small models need for arithmetic."""
    split_scripts: bool = True
    """Pieces keep to one script, so that words and punctuation stay apart; off, code takes 5 % fewer, worse tokens."""
    whitespace_pieces: bool = True
    """Allow pieces of spaces, tabs and line ends with the indentation after them, so that either is one token."""
    threads: int = neutral(2, ge=1)
    """Threads that encode; learning uses one."""
