"""Block after block: what is observed is what the model sees, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.compress.calibration import from_shards
from slm.compress.config import Calibration, CompressConfig, Variant
from slm.compress.layers import MATRICES, compress_block
from slm.compress.stream import StoredModel, _Stream, device_for
from slm.core.errors import DamagedError, UserError
from slm.model.integers import Grid
from slm.model.load import load_model, save_model
from slm.model.transformer import build
from slm.recipe import Recipe


def test_the_stream_is_the_models_own_residual_stream(trained: Recipe, tmp_path: Path) -> None:
    folder = trained.artifact("train").path
    rows = from_shards(trained.artifact("shards"), Calibration(tokens=512), seed=3)
    stored, stream = StoredModel(folder), None
    model = load_model(folder, attention="sdpa").eval()
    inner: list[torch.Tensor] = []
    handles = [
        block.ffn.down.register_forward_pre_hook(lambda _, inputs: inner.append(inputs[0])) for block in model.blocks
    ]
    with torch.inference_mode():
        hidden_NTD = model.hidden(rows.tokens_NT, positions_BT=rows.positions_NT, documents_BT=rows.documents_NT)
    for handle in handles:
        handle.remove()
    stream = _Stream(stored, rows, Calibration(precision="fp32", batch_rows=5), 0, tmp_path)
    text_NT = rows.documents_NT >= 0
    for layer in range(stored.config.layers):
        block = stored.block(layer)
        found = stream.observe(block)["ffn.down"]
        x_MI = inner[layer][text_NT]
        assert found.tokens == len(x_MI)
        torch.testing.assert_close(found.gram_II, x_MI.T @ x_MI, rtol=1e-3, atol=1e-3)
        stream.advance(block, tmp_path)
    with torch.inference_mode():
        ours_NTD = model.norm(stream._x_NTD)
    torch.testing.assert_close(ours_NTD[text_NT], hidden_NTD[text_NT], rtol=1e-4, atol=1e-4)


def test_products_in_bf16_show_nearly_what_float32_shows(trained: Recipe, tmp_path: Path) -> None:
    stored = StoredModel(trained.artifact("train").path)
    rows = from_shards(trained.artifact("shards"), Calibration(tokens=512), seed=3)
    wide, half = (
        _Stream(stored, rows, Calibration(precision=precision), 0, tmp_path).observe(stored.block(0))["ffn.down"]
        for precision in ("fp32", "bf16")
    )
    torch.testing.assert_close(half.mean(), wide.mean(), rtol=0.02, atol=1e-3)
    assert 1e-5 < float((half.gram_II - wide.gram_II).norm() / wide.gram_II.norm()) < 0.01


@pytest.mark.parametrize(
    ("method", "changes"), [("awq", {}), ("gptq", {}), ("sparse", {}), ("sparse", {"prune_by": "wanda"})]
)
def test_all_is_made_on_the_blocks_own_device(
    trained: Recipe, tmp_path: Path, method: str, changes: dict[str, str]
) -> None:
    """With another default device a tensor made without naming one would be there, and meet none of the block's."""
    stored = StoredModel(trained.artifact("train").path)
    rows = from_shards(trained.artifact("shards"), Calibration(tokens=512), seed=3)
    variant = Variant.model_validate({"name": "a", "method": method, "group_size": 32, **changes})
    found = []
    for default in ("cpu", "meta"):
        block, stream = stored.block(1), _Stream(stored, rows, Calibration(), 0, tmp_path)
        with torch.device(default):
            integers, _ = compress_block(block, stream.observe(block), variant, dict.fromkeys(MATRICES, Grid(4, 32)))
            stream.advance(block, tmp_path)
        found.append([part for one in integers.values() for part in (one.values_OI, one.scales_OG, one.zeros_OG)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"compress\.device is cuda, but torch sees no GPU here; set .*cpu or auto"):
        device_for(CompressConfig(device="cuda"))
    assert device_for(CompressConfig()) == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert [device_for(CompressConfig(device=name)) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("blocks.0.attention.q.weight", lambda tensor: tensor * float("nan"), "holds NaN or infinity"),
        (
            "blocks.0.ffn.up.weight",
            lambda tensor: tensor[:-1].contiguous(),
            r"has shape \[31, 16\].*asks for \[32, 16\]",
        ),
    ],
)
def test_a_damaged_tensor_is_named(tmp_path: Path, name: str, damage: object, message: str) -> None:
    from slm.model.config import ModelConfig

    config = ModelConfig(
        vocab_size=32, width=16, layers=1, heads=2, kv_heads=1, head_dim=8, ffn_width=32, max_seq_len=16
    )
    save_model(build(config, 0), tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = load_file(file)
    save_file({**tensors, name: damage(tensors[name])}, file)  # type: ignore[operator]
    with pytest.raises(DamagedError, match=message):
        StoredModel(tmp_path).block(0)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"embedding.weight": "x"}}')
    with pytest.raises(DamagedError, match="disagree about blocks"):
        StoredModel(tmp_path)
