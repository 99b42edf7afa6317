"""The decoder: attention, rope, norm, mlp, block, transformer, cache, and its way to and from files."""
