"""Randomness keyed by purpose: one recipe seed, one independent stream per (seed, purpose, step)."""

from __future__ import annotations

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose; equal arguments give equal seeds on every platform.

    `derive(recipe.seed, "init")` and `derive(recipe.seed, "order", epoch)` never share a stream.
    """
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
