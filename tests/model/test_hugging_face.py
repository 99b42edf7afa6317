from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from slm.core.errors import UserError
from slm.model.config import ModelConfig
from slm.model.hugging_face import (
    config_from_hf,
    from_hf,
    from_pretrained,
    hf_config,
    save_pretrained,
    to_hf,
)
from slm.model.transformer import Transformer, build

transformers.utils.logging.disable_progress_bar()

LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_max_seq_len": 16}
OURS: list[tuple[str, dict[str, Any]]] = [
    ("LlamaForCausalLM", {"kv_heads": 4}),
    ("LlamaForCausalLM", {"kv_heads": 2, "tie_embeddings": False, "rope_theta": 500_000.0}),
    ("LlamaForCausalLM", {"kv_heads": 1, "rope_scaling": {"kind": "linear", "factor": 4.0}}),
    ("LlamaForCausalLM", {"rope_scaling": LLAMA3, "head_dim": 24}),
    ("Qwen3ForCausalLM", {"qk_norm": True, "norm_eps": 1e-6}),
    ("Qwen3ForCausalLM", {"qk_norm": True, "kv_heads": 1, "tie_embeddings": False, "rope_scaling": LLAMA3}),
    ("Qwen3ForCausalLM", {"qk_norm": True, "sliding_window": 5}),
    ("MistralForCausalLM", {"sliding_window": 5, "tie_embeddings": False}),
    ("MistralForCausalLM", {"sliding_window": 5, "rope_scaling": {"kind": "linear", "factor": 2.0}}),
    ("MistralForCausalLM", {"heads": 5, "kv_heads": 5}),
]
SMALL = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3_THEIRS = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR_THEIRS = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("Llama", {"num_key_value_heads": 4}),
    ("Llama", {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_parameters": LLAMA3_THEIRS}),
    ("Llama", {"num_key_value_heads": 1, "head_dim": 16, "rope_parameters": LINEAR_THEIRS}),
    ("Qwen3", {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True}),
    (
        "Qwen3",
        {
            "num_key_value_heads": 4,
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 6,
            "max_window_layers": 0,
        },
    ),
    ("Mistral", {"num_key_value_heads": 2, "sliding_window": 6}),
    ("Mistral", {"num_key_value_heads": 1, "sliding_window": None, "tie_word_embeddings": True}),
]


def assert_equal_logits(ours: Transformer, theirs: Any, ids: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs.eval()(ids).logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("architecture", "options"), OURS, ids=str)
def test_what_is_saved_has_equal_logits_in_transformers_and_comes_back(
    shape: Callable[..., ModelConfig],
    tokens: Callable[..., Tensor],
    tmp_path: Path,
    architecture: str,
    options: dict[str, Any],
) -> None:
    model = build(shape(**options), 0)
    save_pretrained(model, tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs).__name__ == architecture
    assert not any(report.values()), report
    assert theirs.generation_config.eos_token_id == 2
    assert_equal_logits(model, theirs, tokens(2, 40))
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("family", "options"), THEIRS, ids=str)
@pytest.mark.parametrize("max_shard_size", ["5GB", "30KB"])
def test_what_transformers_saves_is_read_with_equal_logits(
    tokens: Callable[..., Tensor], tmp_path: Path, family: str, options: dict[str, Any], max_shard_size: str
) -> None:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(SMALL | options))
    theirs = getattr(transformers, f"{family}ForCausalLM")(config)
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 2) == (max_shard_size == "30KB")
    assert_equal_logits(from_pretrained(tmp_path), theirs, tokens(2, 40))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("max_shard_size", ["5GB", "15KB"])
def test_a_checkpoint_of_smollms_shape_in_bfloat16_is_read_with_equal_logits(
    tokens: Callable[..., Tensor], tmp_path: Path, max_shard_size: str, tied: bool
) -> None:
    """Fewer key heads, a large rotary base, bfloat16 on disk, as in HuggingFaceTB/SmolLM2-135M's config.json."""
    torch.manual_seed(0)
    shape = SMALL | {"num_attention_heads": 6, "num_key_value_heads": 2, "rope_theta": 100_000.0}
    config = transformers.LlamaConfig(**shape, tie_word_embeddings=tied)
    theirs = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    ours = from_pretrained(tmp_path)
    assert ours.config.tie_embeddings is tied
    assert (tmp_path / "model.safetensors.index.json").is_file() == (max_shard_size == "15KB")
    assert_equal_logits(ours, theirs.float(), tokens(2, 40))


def test_configurations_of_older_transformers_are_read() -> None:
    old = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        **SMALL,
        "rope_theta": 250_000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    }
    found = config_from_hf(old)
    assert found.rope_theta == 250_000.0
    assert found.rope_scaling is not None
    assert (found.rope_scaling.kind, found.rope_scaling.factor) == ("linear", 4.0)
    assert (found.kv_heads, found.head_dim, found.norm_eps) == (4, 12, 1e-6)
    assert not found.tie_embeddings


@pytest.mark.parametrize("options", [options for _, options in OURS])
def test_names_and_configuration_go_both_ways(shape: Callable[..., ModelConfig], options: dict[str, Any]) -> None:
    config = shape(**options)
    assert config_from_hf(hf_config(config)) == config
    state = build(config, 0).state_dict()
    there = to_hf(state)
    assert not set(there) & set(state)
    back = from_hf(there)
    assert list(back) == list(state)
    assert all(back[name] is state[name] for name in state)


def test_a_window_is_told_to_transformers_that_know_no_layer_types(shape: Callable[..., ModelConfig]) -> None:
    config = shape(qk_norm=True, sliding_window=4)
    content = hf_config(config)
    del content["layer_types"]
    assert config_from_hf(content) == config


def test_scaling_by_one_is_none(shape: Callable[..., ModelConfig]) -> None:
    content = hf_config(shape()) | {"rope_scaling": None}
    content["rope_parameters"] = LINEAR_THEIRS | {"factor": 1.0}
    assert config_from_hf(content).rope_scaling is None


@pytest.mark.parametrize("name", ["blocks.0.attention.q.bias", "lm_head.weight", "blocks.x.ffn.up.weight", ""])
def test_a_tensor_of_ours_without_a_name_there_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"tensor {name} has no counterpart in .+; choose"):
        to_hf({name: torch.zeros(1)})


@pytest.mark.parametrize(
    "name", ["model.layers.0.self_attn.q_proj.bias", "embedding.weight", "model.layers.0.x.weight"]
)
def test_a_tensor_of_theirs_without_a_name_here_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"tensor {name} has no counterpart in .+; choose"):
        from_hf({name: torch.zeros(1)})


def test_stored_rotary_frequencies_are_left_out() -> None:
    assert from_hf({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}) == {}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "gpt2"}, r"model_type \(gpt2\) must be one of llama, mistral, qwen3; other"),
    (
        {"architectures": ["LlamaForSequenceClassification"]},
        r"architectures \(LlamaForSeq\w+\) must name LlamaForCausalLM",
    ),
    ({"hidden_act": "gelu"}, r"hidden_act \(gelu\) must be silu; choose"),
    ({"attention_bias": True}, r"attention_bias \(True\) must be false; choose"),
    ({"mlp_bias": True}, r"mlp_bias \(True\) must be false; choose"),
    (
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        r"rope_type \(dynamic\) must be default",
    ),
    ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor \(0.5\) must be 1; choose"),
    ({"num_key_value_heads": 3}, r"cannot be built \(.*heads \(4\) must be a multiple of kv_heads \(3\)\); correct"),
    ({"hidden_size": 50}, r"not a valid LlamaConfig \(.+\); correct it"),
    ({"hidden_size": "wide"}, r"not a valid LlamaConfig \(.+\); correct it"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_configuration_that_would_compute_something_else_is_refused(
    shape: Callable[..., ModelConfig], change: dict[str, Any], message: str
) -> None:
    content = {key: value for key, value in hf_config(shape()).items() if not key.startswith("rope_")}
    with pytest.raises(UserError, match=message) as caught:
        config_from_hf(content | change)
    assert "\n" not in str(caught.value)


def test_layers_of_two_kinds_are_refused(shape: Callable[..., ModelConfig]) -> None:
    content = hf_config(shape(qk_norm=True, sliding_window=4))
    content["layer_types"] = ["sliding_attention", "full_attention"]
    with pytest.raises(UserError, match=r"layer_types \(full_attention and sliding_attention\) must be the same"):
        config_from_hf(content)


@pytest.fixture
def folder(shape: Callable[..., ModelConfig], tmp_path: Path) -> Path:
    """A Hugging Face folder of one file."""
    save_pretrained(build(shape(), 0), tmp_path)
    return tmp_path


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


BROKEN: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (lambda t: t.pop("model.norm.weight"), r"lacks norm\.weight, which"),
    (
        lambda t: t.update({"model.layers.7.mlp.up_proj.weight": torch.zeros(1)}),
        r"holds blocks\.7\.ffn\.up\.weight, which",
    ),
    (lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.zeros(1)}), r"up_proj\.bias has no counterpart"),
    (lambda t: t["model.norm.weight"][:1].fill_(torch.nan), r"norm\.weight holds NaN or infinity"),
    (lambda t: t.update({"model.norm.weight": torch.zeros(48, dtype=torch.int8)}), r"norm\.weight has type int8, but"),
    (lambda t: t.update({"lm_head.weight": torch.zeros(97, 48)}), r"lm_head\.weight differs from the embedding"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message[:30] for _, message in BROKEN])
def test_weights_that_do_not_fit_are_refused_by_name(
    folder: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    change_tensors(folder, change)
    with pytest.raises(UserError, match=message):
        from_pretrained(folder)


def test_an_equal_copy_of_a_tied_head_is_dropped(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert from_pretrained(folder).head is None


def test_half_precision_weights_are_widened(folder: Path) -> None:
    change_tensors(folder, lambda t: t.update({name: tensor.bfloat16() for name, tensor in t.items()}))
    assert from_pretrained(folder).embedding.weight.dtype == torch.float32


def test_pickled_quantized_and_missing_weights_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    with pytest.raises(UserError, match="quantization_config is set, but only plain weights are read; take"):
        from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights, but model\.safetensors or .+ is needed"):
        from_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"only pickled \.bin weights, which can run code when opened"):
        from_pretrained(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"there is no model in .+ \(no config\.json\)"):
        from_pretrained(folder)


def test_token_ids_outside_the_vocabulary_are_left_out(shape: Callable[..., ModelConfig], tmp_path: Path) -> None:
    save_pretrained(build(shape(vocab_size=3), 0), tmp_path, bos_id=None)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written == {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": None}
