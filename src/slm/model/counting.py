"""What a shape costs before it is built: parameters, floating-point operations, bytes.

All figures are arithmetic on the configuration, no tensor is made. They count what the model has to do;
what a run does beyond it (recomputation, the loss, the optimizer's own arithmetic) is left out, and
activations are not estimated, because they depend on the micro-batch and on what the backend keeps.
"""

from __future__ import annotations

from slm.model.config import LoraConfig, ModelConfig

PARTS = ("embedding", "attention", "ffn", "norms", "head")


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Parameters of `embedding`, `attention`, `ffn`, `norms` and `head`; a tied head counts under embedding."""
    q_width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    norms_in_block = 2 * config.width + (2 * config.head_dim if config.qk_norm else 0)
    return {
        "embedding": config.vocab_size * config.width,
        "attention": config.layers * config.width * (2 * q_width + 2 * kv_width),
        "ffn": config.layers * 3 * config.width * config.ffn_width,
        "norms": config.layers * norms_in_block + config.width,
        "head": 0 if config.tie_embeddings else config.vocab_size * config.width,
    }


def num_parameters(config: ModelConfig) -> int:
    """Parameters in all; a tied matrix counts once."""
    return sum(parameters_by_part(config).values())


def flops_per_token(config: ModelConfig, seq_len: int, lora: LoraConfig | None = None) -> float:
    """Floating-point operations of forward and backward per token, in rows of one document of `seq_len` tokens.

    6 * (matrix parameters + head) + 12 * layers * heads * head_dim * visible, where a multiply-add is two
    operations, the backward costs twice the forward, and `visible` is the mean number of keys that a
    token sees: (seq_len + 1) / 2 for causal attention, less with a sliding window. The embedding is a
    look-up and costs nothing; as the head (tied or not) it is a product. Norms, rotations, softmax and
    activations are left out, as everywhere.

    This is what has to be computed. Many tables count the upper triangle too (12 * layers * width *
    seq_len, as PaLM's appendix B), which is up to twice as much attention. What adapters beside frozen
    matrices (`lora`) change, `matrix_flops_per_token` says.
    """
    attention = 12 * config.layers * config.heads * config.head_dim * visible_tokens(config, seq_len)
    return matrix_flops_per_token(config, lora) + attention


def matrix_flops_per_token(config: ModelConfig, lora: LoraConfig | None = None) -> int:
    """Those of the matrices and the head alone.

    Beside adapters the matrices are frozen: they take 4 instead of 6 for a number, since no gradient of theirs is
    computed, and each number of an adapter 6. DoRA's lengths of rows are left out.
    """
    parts = parameters_by_part(config)
    matrices = parts["attention"] + parts["ffn"] + config.vocab_size * config.width
    if lora is None:
        return 6 * matrices
    q_width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim
    both_sides = {
        "attention.q": config.width + q_width, "attention.k": config.width + kv_width,
        "attention.v": config.width + kv_width, "attention.o": q_width + config.width,
        "ffn.gate": config.width + config.ffn_width, "ffn.up": config.width + config.ffn_width,
        "ffn.down": config.ffn_width + config.width,
    }  # fmt: skip
    adapters = config.layers * lora.rank * sum(both_sides[target] for target in lora.targets)
    return 4 * matrices + 6 * adapters


def visible_tokens(config: ModelConfig, seq_len: int) -> float:
    """Keys that a token of a row of `seq_len` sees, itself included, on average."""
    window = min(config.sliding_window or seq_len, seq_len)
    return (window * (window + 1) / 2 + (seq_len - window) * window) / seq_len


def training_bytes(config: ModelConfig, *, weight_bytes: int = 4, optimizer_numbers: int = 2) -> dict[str, int]:
    """Bytes of `weights`, `gradients` and `optimizer` state, activations not included.

    `optimizer_numbers` float32 numbers a parameter: 2 for AdamW, 1 for Muon's matrices.
    """
    count = num_parameters(config)
    return {
        "weights": count * weight_bytes,
        "gradients": count * weight_bytes,
        "optimizer": count * optimizer_numbers * 4,
    }


def kv_cache_bytes_per_token(config: ModelConfig, number_bytes: int = 2) -> int:
    """Bytes that one cached token takes, by default in 16-bit numbers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * number_bytes
