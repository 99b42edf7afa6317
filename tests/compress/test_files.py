"""Integers on disk: what is read is what was written, and damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from slm.compress.files import BLOCK, QUANTIZATION, load_compressed, read_block, read_integers, write_block
from slm.compress.layers import MATRICES
from slm.core.errors import DamagedError
from slm.model.config import ModelConfig
from slm.model.integers import Grid, quantize
from slm.model.load import CONFIG, save_tensors
from slm.model.transformer import build

CONFIGURATION = ModelConfig(
    vocab_size=32, width=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn_width=64, max_seq_len=16
)


@pytest.fixture(params=[3, 4, 8])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of one block in integers."""
    model, grid = build(CONFIGURATION, 0), Grid(request.param, 16)
    integers = {name: quantize(model.blocks[0].get_submodule(name).weight, grid) for name in MATRICES}  # type: ignore[arg-type]
    write_block(tmp_path, model.blocks[0], integers, {})  # type: ignore[arg-type]
    tensors, facts = read_block(tmp_path, 0)
    outside = {"embedding.weight": model.embedding.weight.data, "norm.weight": model.norm.weight.data}
    save_tensors({**tensors, **outside}, tmp_path)
    (tmp_path / CONFIG).write_text(json.dumps(CONFIGURATION.resolved()))
    (tmp_path / QUANTIZATION).write_text(json.dumps({"grids": facts["grids"]}))
    return tmp_path


def test_a_model_comes_back_as_its_integers_stand_for_it(folder: Path) -> None:
    made, found = build(CONFIGURATION, 0), load_compressed(folder)
    integers, _ = read_integers(folder)
    for name in MATRICES:
        weight = made.blocks[0].get_submodule(name).weight  # type: ignore[union-attr]
        grid = integers[f"blocks.0.{name}.weight"].grid
        expected = quantize(weight, grid).dequantize()  # type: ignore[arg-type]
        assert torch.equal(found.blocks[0].get_submodule(name).weight, expected)  # type: ignore[arg-type]
    assert torch.equal(found.embedding.weight, made.embedding.weight)
    stored = load_file(folder / BLOCK)["attention.q.weight.values"]
    assert stored.shape == (32, 32 if grid.bits == 8 else 16)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("blocks.0.ffn.up.weight.zeros"), r"lacks blocks\.0\.ffn\.up\.weight\.zeros"),
        (
            lambda tensors: tensors.update({"blocks.0.ffn.up.weight.scales": torch.ones(64, 3).half()}),
            r"do not fit its grid \(\[64, 3\] for 64 rows in 2 groups\)",
        ),
        (lambda tensors: tensors.update({"extra": torch.ones(1)}), "holds extra"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[..., object], message: str) -> None:
    (file,) = folder.glob("model-*.safetensors")
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = dict.fromkeys(tensors, file.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DamagedError, match=message):
        load_compressed(folder)


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        (None, r"describes no grids \(grids: "),
        ({"a": {"bits": "x"}}, r"describes no grids \(a\.bits: "),
        ({"a": {"group_size": 4}}, r"describes no grids \(a\.bits: Field required"),
        ({"a": {"bits": 0}}, r"describes no grid for a \(Grid\(bits=0"),
        ({"a": {"bits": 4, "group_size": -1}}, r"describes no grid for a"),
        ({"a": {"bits": 4}}, r"lacks a\.values"),
        ({"norm.weight": {"bits": 4}}, r"lacks norm\.weight\.values"),
    ],
)
def test_grids_that_are_none_are_refused(folder: Path, grids: object, message: str) -> None:
    (folder / QUANTIZATION).write_text(json.dumps({"grids": grids}))
    with pytest.raises(DamagedError, match=message):
        load_compressed(folder)


def test_integers_that_are_none_are_refused(folder: Path) -> None:
    (file,) = folder.glob("model-*.safetensors")
    tensors = load_file(file)
    save_file({**tensors, "blocks.0.ffn.up.weight.values": torch.ones(64)}, file)
    with pytest.raises(DamagedError, match=r"blocks\.0\.ffn\.up\.weight\.values is no matrix of bytes; restore"):
        load_compressed(folder)
