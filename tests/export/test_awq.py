"""AutoAWQ's layout: written as the format says, word by word, and read back to the integers' own numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.compress.config import Variant
from slm.compress.files import read_integers
from slm.core.errors import DamagedError, UserError
from slm.export import awq
from slm.export.config import ExportConfig
from slm.export.parity import Reference, prove
from slm.export.subject import Subject
from slm.model.config import ModelConfig
from slm.model.hugging_face import from_hf_name

PROMPTS = ("def main():\n", "import os\n    ")


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}])
@pytest.mark.parametrize("symmetric", [False, True])
def test_transformers_computes_from_the_folder_what_the_integers_stand_for(
    compressed: Callable[..., Subject],
    changes: dict[str, object],
    symmetric: bool,
    tmp_path: Path,
    export_config: ExportConfig,
) -> None:
    subject = compressed(Variant(name="int4", method="rtn", group_size=32, symmetric=symmetric), **changes)
    reference = Reference(subject, export_config, PROMPTS)
    written = awq.write(subject, tmp_path, "awq")
    with awq.engine(written.path, end_ids=subject.end_ids, context_tokens=0, threads=1) as engine:
        found = prove(reference, engine, export_config, "awq", 1)
    assert 0 < found.max_delta <= 1e-2
    assert found.quantity == "logits, whole vocabulary"
    content = json.loads((written.path / "config.json").read_text())
    assert content["quantization_config"] == {
        "quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 32, "zero_point": True,
        "modules_to_not_convert": ["lm_head"] if changes else None,
    }  # fmt: skip
    assert content["dtype"] == "float16"


def test_each_nibble_is_where_the_format_has_it(compressed: Callable[..., Subject], tmp_path: Path) -> None:
    subject = compressed()
    assert subject.variant is not None
    stored = load_file(awq.write(subject, tmp_path, "awq").path / "model.safetensors")
    found = read_integers(subject.variant)[0]["blocks.1.ffn.down.weight"]
    outputs, inputs = found.values_OI.shape
    stem = "model.layers.1.mlp.down_proj"
    words = stored[f"{stem}.qweight"].numpy().view("uint32")
    zeros = stored[f"{stem}.qzeros"].numpy().view("uint32")
    assert words.shape == (inputs, outputs // 8)
    assert torch.equal(stored[f"{stem}.scales"], found.scales_OG.T)
    shift_of_output = {0: 0, 1: 16, 2: 4, 3: 20, 4: 8, 5: 24, 6: 12, 7: 28}  # as AutoAWQ's unpacking kernel has it
    for i in range(0, inputs, 7):
        for o in range(outputs):
            shift = shift_of_output[o % 8]
            assert (int(words[i, o // 8]) >> shift) & 15 == int(found.values_OI[o, i])
            assert (int(zeros[i // 32, o // 8]) >> shift) & 15 == int(found.zeros_OG[o, i // 32])


def vllm_layers(content: dict[str, Any]) -> dict[str, tuple[int, dict[str, int]]]:
    """vLLM's linear layers of a block, as its Llama has them: inputs, and the outputs of what stands side by side."""
    width, ffn, size = content["hidden_size"], content["intermediate_size"], content["head_dim"]
    heads, kv_heads = content["num_attention_heads"] * size, content["num_key_value_heads"] * size
    return {
        "self_attn.qkv_proj": (
            width, {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads, "self_attn.v_proj": kv_heads}
        ),
        "self_attn.o_proj": (heads, {"self_attn.o_proj": width}),
        "mlp.gate_up_proj": (width, {"mlp.gate_proj": ffn, "mlp.up_proj": ffn}),
        "mlp.down_proj": (ffn, {"mlp.down_proj": width}),
    }  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tie_embeddings": False}])
def test_the_folder_meets_what_vllms_loader_checks(
    compressed: Callable[..., Subject], changes: dict[str, object], tmp_path: Path
) -> None:
    """Written from its published rules (vllm/model_executor/layers/quantization/awq.py and awq_marlin.py): the keys it
    reads, the shapes it makes room for, every stored tensor with a place and every place filled, and what its kernel
    makes of them beside the integers."""
    subject = compressed(**changes)
    folder = awq.write(subject, tmp_path, "awq").path
    content, stored = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    config = content["quantization_config"]
    bits, group, zero_point = (config[key] for key in ("bits", "group_size", "zero_point"))
    assert (config["quant_method"], bits, zero_point) == ("awq", 4, True)
    assert content["dtype"] == "float16"
    packed = 32 // bits
    modules = {kind: set[str]() for kind in (torch.float16, torch.int32)}
    for key, tensor in stored.items():
        modules[tensor.dtype].add(key.rsplit(".", 1)[0])
    without = modules[torch.float16] - modules[torch.int32]
    skipped = config["modules_to_not_convert"] or without  # it takes those without integers where none are named
    ours = read_integers(subject.variant or tmp_path)[0]
    used = set()
    for layer in range(content["num_hidden_layers"]):
        for fused, (inputs, parts) in vllm_layers(content).items():
            assert not any(name in f"model.layers.{layer}.{fused}" for name in skipped)
            outputs = sum(parts.values())
            assert inputs % group == 0
            assert outputs % packed == 0
            room = {
                "qweight": torch.full((inputs, outputs // packed), -7, dtype=torch.int32),
                "qzeros": torch.full((inputs // group, outputs // packed), -7, dtype=torch.int32),
                "scales": torch.full((inputs // group, outputs), torch.nan, dtype=torch.float16),
            }
            start = 0
            for part, size in parts.items():
                assert size % packed == 0
                for kind, tensor in room.items():
                    key, by = f"model.layers.{layer}.{part}.{kind}", 1 if kind == "scales" else packed
                    assert stored[key].dtype == tensor.dtype
                    tensor[:, start // by : (start + size) // by] = stored[key]  # refuses another shape
                    used.add(key)
                start += size
            order = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])  # AWQ_REVERSE_ORDER of its dequantizing kernel
            q_IO, z_GO = (
                torch.stack([(room[kind] >> (4 * place)) & 15 for place in order.tolist()], -1).flatten(1)
                for kind in ("qweight", "qzeros")
            )
            weight_IO = (q_IO - z_GO.repeat_interleave(group, 0)) * room["scales"].float().repeat_interleave(group, 0)
            names = [from_hf_name(f"model.layers.{layer}.{part}.weight") for part in parts]
            assert torch.equal(weight_IO, torch.cat([ours[name].dequantize() for name in names]).T)
    rest = {"model.embed_tokens.weight", "model.norm.weight"} | ({"lm_head.weight"} if changes else set())
    norms = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
    rest |= {
        f"model.layers.{layer}.{norm}.weight" for layer in range(content["num_hidden_layers"])
        for norm in norms[: 4 if changes else 2]
    }  # fmt: skip
    assert set(stored) - used == rest


def test_a_model_that_vllms_kernel_cannot_run_is_written_with_a_notice(
    compressed: Callable[..., Subject], tmp_path: Path
) -> None:
    (notice,) = awq.write(compressed(), tmp_path, "awq").notices
    assert "Marlin kernel cannot run width 64 (no multiple of 128); heads * head_dim 64" in notice
    assert "ffn_width 96 (no multiple of 128)" in notice
    named = Variant(name="fitting", method="rtn", group_size=32)
    fitting = compressed(named, width=128, head_dim=32, ffn_width=256)
    assert awq.write(fitting, tmp_path / "fitting", "awq").notices == ()


def test_words_keep_every_integer() -> None:
    values = torch.randint(0, 16, (5, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert torch.equal(awq.unpack_words(awq.pack_words(values)), values)
    assert awq.pack_words(torch.full((1, 8), 15, dtype=torch.uint8)).tolist() == [[-1]]


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant(name="int8", method="rtn", bits=8, group_size=0), r"export\.variant \(int8\) has 8 bits"),
        (Variant(name="mixed", method="rtn", group_size=64), r"groups of 32, 64, but AutoAWQ's form has one size"),
    ],
)
def test_integers_that_the_form_cannot_hold_are_refused(
    compressed: Callable[..., Subject], variant: Variant, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        awq.write(compressed(variant), tmp_path, "awq")


def test_widths_that_do_not_fill_words_are_refused() -> None:
    config = ModelConfig(width=36, heads=3, kv_heads=3, head_dim=12, ffn_width=96)
    with pytest.raises(UserError, match=r"model\.width \(36\) must be a multiple of 8"):
        awq.refuse_unsupported(config)


def test_a_folder_that_lost_its_scales_is_named(compressed: Callable[..., Subject], tmp_path: Path) -> None:
    folder = awq.write(compressed(), tmp_path, "awq").path
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.scales"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(DamagedError, match=r"lacks model\.layers\.0\.mlp\.up_proj\.scales"):
        awq.dequantized(folder)
