"""To and from Hugging Face folders: names both ways, configuration both ways, files both ways.

Every configuration has an architecture of transformers in which its logits are equal (1e-4 in float32,
tested): Qwen3ForCausalLM with QK-norm, MistralForCausalLM with a sliding window (or a width that is no
multiple of the heads, which LlamaConfig refuses), LlamaForCausalLM else. A tensor without a name on the
other side is an error in both directions. Weights are read as float32 (exact for bfloat16 and float16).

What it does not read: pickled `pytorch_model.bin`, quantized weights, biases, rope types other than
default, linear and llama3, and models that mix full and sliding layers; each is refused by name.
What it does not write: the tokenizer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from slm.core.errors import DamagedError, UserError
from slm.model.config import ModelConfig
from slm.model.load import INDEX, MAX_SHARD_BYTES, ONE_FILE, load_tensors, model_from, read_json, save_tensors
from slm.model.transformer import Transformer

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"

_OUTSIDE = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.o": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
}
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_CONFIG_CLASSES = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen3": "Qwen3Config"}
_READABLE_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def to_hf_name(name: str) -> str:
    """Hugging Face's name of one of our tensors."""
    return _renamed(name, _OUTSIDE, r"blocks\.(\d+)\.(.+)\.weight", _IN_BLOCK, "model.layers")


def from_hf_name(name: str) -> str:
    """Our name of one of Hugging Face's tensors."""
    outside = {theirs: ours for ours, theirs in _OUTSIDE.items()}
    in_block = {theirs: ours for ours, theirs in _IN_BLOCK.items()}
    return _renamed(name, outside, r"model\.layers\.(\d+)\.(.+)\.weight", in_block, "blocks")


def to_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names; the tensors are the same."""
    return {to_hf_name(name): tensor for name, tensor in state.items()}


def from_hf(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's state dict under our names; rotary frequencies, which some old folders store, are left out."""
    return {from_hf_name(name): tensor for name, tensor in state.items() if not name.endswith(".rotary_emb.inv_freq")}


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of the architecture that computes the same logits, token ids left out."""
    kind = _model_type(config)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope |= {"rope_type": config.rope_scaling.kind, "factor": config.rope_scaling.factor}
        if config.rope_scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": config.rope_scaling.low_freq_factor,
                "high_freq_factor": config.rope_scaling.high_freq_factor,
                "original_max_position_embeddings": config.rope_scaling.original_max_seq_len,
            }
    written: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn_width,
        "max_position_embeddings": config.max_seq_len,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "rope_parameters": rope,
        # transformers before 5, and programs written for it, read these two instead.
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_scaling else None,
    }
    if kind == "llama":
        written["mlp_bias"] = False
    if kind == "mistral":
        written["sliding_window"] = config.sliding_window or None
    if kind == "qwen3":
        windowed = bool(config.sliding_window)
        written |= {
            "use_sliding_window": windowed,
            "sliding_window": config.sliding_window or None,
            "max_window_layers": 0 if windowed else config.layers,
            "layer_types": ["sliding_attention" if windowed else "full_attention"] * config.layers,
        }
    return written


def config_from_hf(content: Mapping[str, Any]) -> ModelConfig:
    """The ModelConfig that computes the same logits as `content`, a `config.json` of any transformers version."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    kind = str(content.get("model_type", "none"))
    if kind not in _ARCHITECTURES:
        raise UserError(
            f"config.json: model_type ({kind}) must be one of {', '.join(_ARCHITECTURES)}; "
            "other architectures compute something else, so convert the model or choose another"
        )
    architectures = content.get("architectures") or [_ARCHITECTURES[kind]]
    if _ARCHITECTURES[kind] not in architectures:
        raise UserError(
            f"config.json: architectures ({', '.join(map(str, architectures))}) must name {_ARCHITECTURES[kind]}; "
            "choose a folder that holds a causal language model"
        )
    try:
        theirs = getattr(transformers, _CONFIG_CLASSES[kind])(**content)
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"config.json is not a valid {_CONFIG_CLASSES[kind]} ({reason}); correct it") from error
    _refuse_unknown(theirs)
    try:
        return ModelConfig(
            vocab_size=theirs.vocab_size,
            width=theirs.hidden_size,
            layers=theirs.num_hidden_layers,
            heads=theirs.num_attention_heads,
            kv_heads=theirs.num_key_value_heads,
            head_dim=theirs.head_dim,
            ffn_width=theirs.intermediate_size,
            max_seq_len=theirs.max_position_embeddings,
            rope_theta=theirs.rope_parameters["rope_theta"],
            rope_scaling=_scaling_from_hf(theirs.rope_parameters),
            norm_eps=theirs.rms_norm_eps,
            qk_norm=kind == "qwen3",
            tie_embeddings=theirs.tie_word_embeddings,
            sliding_window=_window_from_hf(theirs),
        )
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UserError(f"config.json describes a model that cannot be built ({problems}); correct it") from error


def save_pretrained(
    model: Transformer,
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    bos_id: int | None = 1,
    eos_id: int | None = 2,
    pad_id: int | None = 3,
) -> None:
    """Write config.json, generation_config.json and safetensors that `AutoModelForCausalLM` opens.

    The token ids are those of this project's tokenizers unless given. One file is called
    `model.safetensors`, several come with an index.
    """
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    save_configuration(model.config, folder, model.embedding.weight.dtype, ids)
    save_tensors(to_hf(model.state_dict()), folder, max_shard_bytes, index_one_file=False)


def save_configuration(
    config: ModelConfig,
    folder: Path,
    dtype: torch.dtype,
    ids: Mapping[str, int | None],
    quantization: Mapping[str, Any] | None = None,
) -> None:
    """Write config.json and generation_config.json; `ids` are token ids under transformers' names."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {key: value if value is not None and value < config.vocab_size else None for key, value in ids.items()}
    written = hf_config(config) | known | {"dtype": str(dtype).removeprefix("torch.")}
    if quantization is not None:
        written["quantization_config"] = dict(quantization)
    (folder / CONFIG).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    (folder / GENERATION_CONFIG).write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def from_pretrained(folder: Path) -> Transformer:
    """The model in a Hugging Face folder (Llama, Mistral or Qwen3), on the CPU, float32."""
    content = read_json(folder / CONFIG)
    if content.get("quantization_config"):
        raise UserError(
            f"{folder / CONFIG}: quantization_config is set, but only plain weights are read; "
            "take the unquantized model"
        )
    config = config_from_hf(content)
    if not (folder / INDEX).is_file() and not (folder / ONE_FILE).is_file():
        pickled = any(folder.glob("*.bin"))
        found = "only pickled .bin weights, which can run code when opened" if pickled else "no weights"
        raise UserError(
            f"{folder} holds {found}, but {ONE_FILE} or {INDEX} is needed; download or convert to safetensors"
        )
    tensors = load_tensors(folder)
    for name, tensor in tensors.items():
        if tensor.dtype not in _READABLE_TYPES:
            raise UserError(
                f"{folder}: {name} has type {str(tensor.dtype).removeprefix('torch.')}, but float32, bfloat16 or "
                "float16 is needed; take the unquantized model"
            )
    state = {name: tensor.float() for name, tensor in from_hf(tensors).items()}
    if config.tie_embeddings:
        _drop_tied_head(state, folder)
    return model_from(config, state, folder)


def _renamed(name: str, outside: Mapping[str, str], pattern: str, in_block: Mapping[str, str], stem: str) -> str:
    if name in outside:
        return outside[name]
    match = re.fullmatch(pattern, name)
    if match is None or match[2] not in in_block:
        raise UserError(
            f"tensor {name} has no counterpart in Llama, Mistral or Qwen3 without biases; "
            "choose a model of one of these architectures"
        )
    return f"{stem}.{match[1]}.{in_block[match[2]]}.weight"


def _model_type(config: ModelConfig) -> str:
    if config.qk_norm:
        return "qwen3"
    return "mistral" if config.sliding_window or config.width % config.heads else "llama"


def _refuse_unknown(theirs: Any) -> None:
    """Refuse settings that change the logits and that our model does not have."""
    rope = theirs.rope_parameters
    rope_type = rope.get("rope_type", "none")
    layer_types = set(getattr(theirs, "layer_types", None) or []) if theirs.model_type == "qwen3" else set()
    refused = {
        "hidden_act": (theirs.hidden_act, theirs.hidden_act != "silu", "silu"),
        "attention_bias": (getattr(theirs, "attention_bias", False), getattr(theirs, "attention_bias", False), "false"),
        "mlp_bias": (getattr(theirs, "mlp_bias", False), getattr(theirs, "mlp_bias", False), "false"),
        "rope_type": (rope_type, rope_type not in ("default", "linear", "llama3"), "default, linear or llama3"),
        "partial_rotary_factor": (rope.get("partial_rotary_factor"), rope.get("partial_rotary_factor", 1) != 1, "1"),
        "layer_types": (" and ".join(sorted(layer_types)), len(layer_types) > 1, "the same for all layers"),
    }
    for key, (found, wrong, rule) in refused.items():
        if wrong:
            raise UserError(f"config.json: {key} ({found}) must be {rule}; choose a model that has it so")


def _scaling_from_hf(rope: Mapping[str, Any]) -> dict[str, Any] | None:
    if rope["rope_type"] == "default" or rope["factor"] == 1:
        return None
    scaling = {"kind": rope["rope_type"], "factor": rope["factor"]}
    if rope["rope_type"] == "llama3":
        scaling |= {key: rope[key] for key in ("low_freq_factor", "high_freq_factor")}
        scaling["original_max_seq_len"] = rope["original_max_position_embeddings"]
    return scaling


def _window_from_hf(theirs: Any) -> int:
    if theirs.model_type == "llama":
        return 0
    if theirs.model_type == "qwen3" and "sliding_attention" not in theirs.layer_types:
        return 0
    return int(theirs.sliding_window or 0)


def _drop_tied_head(state: dict[str, Tensor], folder: Path) -> None:
    head = state.pop("head.weight", None)
    if head is None or "embedding.weight" not in state:
        return
    if not torch.equal(head, state["embedding.weight"]):
        raise DamagedError(
            f"{folder}: lm_head.weight differs from the embedding although config.json ties them; "
            "set tie_word_embeddings to false"
        )
