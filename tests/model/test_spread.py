"""A model over several devices computes as the whole one: layers on the disk, and in memory beside a stand-in GPU."""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from accelerate.utils import modeling
from safetensors import safe_open

from slm.core.errors import UserError
from slm.model import spread
from slm.model.attention import Plan
from slm.model.config import ModelConfig
from slm.model.load import load_model, save_model
from slm.model.spread import device_map, load_spread
from slm.model.transformer import Transformer, build

SHAPE = ModelConfig(
    vocab_size=97, width=32, layers=4, heads=2, kv_heads=1, head_dim=16, ffn_width=48, max_seq_len=64,
    tie_embeddings=False,
)  # fmt: skip
LAYER_BYTES = 4 * (2 * 32 + 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
ENDS_BYTES = 4 * (2 * 97 * 32 + 32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(build(SHAPE, 3), tmp_path / "teacher", max_shard_bytes=30_000)
    return tmp_path / "teacher"


@torch.no_grad()
def same(one: Transformer, other: Transformer) -> bool:
    tokens_BT = torch.randint(4, 97, (2, 24), generator=torch.Generator().manual_seed(1))
    documents_BT = torch.arange(24).expand(2, 24).div(10, rounding_mode="floor").int()
    found = [each.hidden(tokens_BT, documents_BT=documents_BT) for each in (one, other)]
    return torch.equal(*found) and torch.equal(one.head_weight, other.head_weight)


def offloaded(model: Transformer) -> set[str]:
    """The parts of which no weight lies anywhere until their turn comes."""
    return {name.rpartition(".attention")[0] or name for name, one in model.named_parameters() if one.is_meta} & {
        f"blocks.{layer}" for layer in range(SHAPE.layers)
    }


def test_layers_that_do_not_fit_are_read_from_the_disk(
    folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    model = load_spread(folder, {"cpu": ENDS_BYTES + 2 * LAYER_BYTES})
    assert offloaded(model) == {"blocks.2", "blocks.3"}
    assert same(load_model(folder, attention="sdpa"), model)
    assert same(load_model(folder, attention="sdpa"), model), "each forward reads them again"
    assert offloaded(model) == {"blocks.2", "blocks.3"}
    assert capfd.readouterr() == ("", "")
    (place,) = folder.parent.glob("slm-spread-*")
    assert any(place.iterdir())
    del model
    gc.collect()
    assert not place.exists()


def test_layers_in_memory_come_to_the_device_that_computes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for GPU 0: accelerate knows it by another name than the memory that layers wait in."""
    monkeypatch.setattr(spread, "_device", lambda name: torch.device("cpu") if name == "0" else name)
    monkeypatch.setattr(
        modeling, "safe_open", lambda file, framework, device="cpu": safe_open(file, framework, str(device))
    )
    model = load_spread(folder, {"0": ENDS_BYTES + 2 * LAYER_BYTES, "cpu": LAYER_BYTES})
    assert offloaded(model) == {"blocks.1", "blocks.2", "blocks.3"}
    assert same(load_model(folder, attention="sdpa"), model)


def test_layers_go_from_device_to_device_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    model = build(SHAPE, 3)
    room = {"1": ENDS_BYTES + 2 * LAYER_BYTES, "0": LAYER_BYTES, "cpu": LAYER_BYTES}
    found = device_map(model, room)
    assert [found[f"blocks.{layer}"] for layer in range(4)] == [1, 0, "cpu", "disk"]
    assert {found[name] for name in ("embedding", "norm", "head")} == {1}
    with pytest.raises(UserError, match=r"0 is given 100 bytes, but embedding, head and .* take 55,936; give it more"):
        device_map(model, {"0": 100})
    with pytest.raises(UserError, match=r"'2' is no device here: name GPUs by number \(there are 2\), or cpu"):
        device_map(model, {"2": 10**9})


def test_a_plan_follows_its_layers() -> None:
    plain = Plan()
    assert plain.to("cpu") is plain
    masked = Plan(causal=False, mask_BTK=torch.zeros(1, 1, 2, 2), first_slot=3)
    moved = masked.to("meta", non_blocking=True)
    assert moved.mask_BTK is not None
    assert (moved.mask_BTK.device.type, moved.first_slot, moved.causal) == ("meta", 3, False)
    assert masked.to("cpu") is masked


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"needs accelerate, which is not installed; pip install 'slm\[spread\]'"):
        load_spread(folder, {"cpu": 10**9})
