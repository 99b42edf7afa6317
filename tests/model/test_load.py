from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slm.core.errors import DamagedError, UserError
from slm.model.config import ModelConfig
from slm.model.load import load_model, load_weights, save_model
from slm.model.transformer import Transformer, build

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 30_000


@pytest.fixture
def saved(shape: Callable[..., ModelConfig], tmp_path: Path) -> tuple[Transformer, Path]:
    """A model and the folder, of several files, that it was saved to."""
    model = build(shape(), 0)
    save_model(model, tmp_path / "model", SHARD_BYTES)
    return model, tmp_path / "model"


def same(one: Transformer, other: Transformer) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False, "qk_norm": True}, {"sliding_window": 8}])
@pytest.mark.parametrize("max_shard_bytes", [1, SHARD_BYTES, 10**9])
def test_a_model_comes_back_as_it_was(
    shape: Callable[..., ModelConfig], tmp_path: Path, options: dict[str, Any], max_shard_bytes: int
) -> None:
    model = build(shape(**options), 0)
    save_model(model, tmp_path, max_shard_bytes)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert same(loaded, model)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.state_dict().values())


def test_shards_keep_to_the_limit_and_hold_every_tensor_once(saved: tuple[Transformer, Path]) -> None:
    model, folder = saved
    index = json.loads((folder / INDEX).read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert [file.name for file in files] == [
        f"model-{n:05}-of-{len(files):05}.safetensors" for n in range(1, 1 + len(files))
    ]
    assert len(files) > 3
    found: list[str] = []
    for file in files:
        tensors = load_file(file)
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors.values()) <= SHARD_BYTES
        assert {index["weight_map"][name] for name in tensors} == {file.name}
        found += tensors
    assert sorted(found) == sorted(model.state_dict())
    assert "head.weight" not in found
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model.state_dict().values())


def test_the_attention_backend_is_not_taken_from_the_file(shape: Callable[..., ModelConfig], tmp_path: Path) -> None:
    save_model(build(shape(attention="flash_attn"), 0), tmp_path)
    assert load_model(tmp_path).config.attention == "auto"
    assert load_model(tmp_path, attention="sdpa").config.attention == "sdpa"


def test_weights_are_read_into_the_tensors_of_a_model_that_exists(saved: tuple[Transformer, Path]) -> None:
    model, folder = saved
    other = build(model.config, 1)
    before = other.embedding.weight
    load_weights(other, folder)
    assert other.embedding.weight is before
    assert same(other, model)


def a_shard(folder: Path) -> Path:
    return folder / "model-00002-of-{:05}.safetensors".format(len(list(folder.glob("*.safetensors"))))


def truncate(folder: Path) -> None:
    content = a_shard(folder).read_bytes()
    a_shard(folder).write_bytes(content[: len(content) // 2])


def corrupt_header(folder: Path) -> None:
    content = bytearray(a_shard(folder).read_bytes())
    content[4:9] = b"\xff" * 5
    a_shard(folder).write_bytes(content)


def empty(folder: Path) -> None:
    a_shard(folder).write_bytes(b"")


def lose_file(folder: Path) -> None:
    a_shard(folder).unlink()


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a shard and keep the index in step."""
    file = a_shard(folder)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    index = json.loads((folder / INDEX).read_text())
    kept = {name: where for name, where in index["weight_map"].items() if where != file.name}
    index["weight_map"] = kept | dict.fromkeys(tensors, file.name)
    (folder / INDEX).write_text(json.dumps(index))


def lose_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(next(iter(tensors))))


def add_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({"blocks.9.ffn.up.weight": torch.zeros(2)}))


def misshape_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({name: t[:1].clone() for name, t in tensors.items()}))


def poison_tensor(folder: Path) -> None:
    change_tensors(folder, lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(torch.nan))


def disagree(folder: Path) -> None:
    save_file({"other.weight": torch.zeros(2)}, a_shard(folder))


def lose_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def break_index(folder: Path) -> None:
    (folder / INDEX).write_text('{"metadata": ')


def empty_index(folder: Path) -> None:
    (folder / INDEX).write_text("{}")


def lead_astray(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(index["weight_map"], "../other.safetensors")}))


def nest_index(folder: Path) -> None:
    (folder / INDEX).write_text("[" * 100_000)


def ask_for_more_layers(folder: Path) -> None:
    config = json.loads((folder / "model_config.json").read_text())
    (folder / "model_config.json").write_text(json.dumps(config | {"layers": 1 << 40}))


def ask_for_more_width(folder: Path) -> None:
    config = json.loads((folder / "model_config.json").read_text())
    (folder / "model_config.json").write_text(json.dumps(config | {"ffn_width": 1 << 62}))


def list_for_index(folder: Path) -> None:
    (folder / INDEX).write_text("[]")


def change_config(folder: Path) -> None:
    config = json.loads((folder / "model_config.json").read_text())
    (folder / "model_config.json").write_text(json.dumps(config | {"heads": 3}))


def lose_config(folder: Path) -> None:
    (folder / "model_config.json").unlink()


DAMAGES: list[tuple[Callable[[Path], None], str]] = [
    (truncate, r"model-00002-of-\d+\.safetensors is damaged \(.+; [\d,]+ bytes\); restore it"),
    (corrupt_header, r"model-00002-of-\d+\.safetensors is damaged \(.*header"),
    (empty, r"model-00002-of-\d+\.safetensors is damaged \(.+; 0 bytes\)"),
    (lose_file, r"model-00002-of-\d+\.safetensors is missing; restore it"),
    (lose_tensor, r"lacks blocks\.\S+, which a model of 2 layers needs; restore"),
    (add_tensor, r"holds blocks\.9\.ffn\.up\.weight, which its model_config\.json has no place for; correct"),
    (misshape_tensor, r"has shape \[1.*\], but the configuration asks for \[\d+.*\]; correct"),
    (poison_tensor, r"holds NaN or infinity, .+; go back to an earlier checkpoint"),
    (disagree, r"disagree about .+ and \d+ more|disagree about .+; restore"),
    (lose_index, r"there is no model in .+ \(no model\.safetensors\.index\.json\); correct the path"),
    (break_index, r"index\.json is not JSON \(.+\); restore"),
    (empty_index, r"index\.json has no weight_map; restore"),
    (list_for_index, r"index\.json holds list instead of an object; restore"),
    (lead_astray, r"index\.json puts \S+ into '\.\./other\.safetensors', which is no file beside it; restore"),
    (nest_index, r"index\.json is not JSON \(maximum recursion.+\); restore"),
    (ask_for_more_layers, r"lacks what its model_config\.json asks for \(1,099,511,627,776 layers, \d+ tensors\); res"),
    (ask_for_more_width, r"lacks what its model_config\.json asks for \(.+\); restore"),
    (change_config, r"model_config\.json does not describe a model \(.+heads.+\); restore"),
    (lose_config, r"there is no model in .+ \(no model_config\.json\); correct the path"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_damage_is_one_sentence_with_a_way_out(
    saved: tuple[Transformer, Path], damage: Callable[[Path], None], message: str
) -> None:
    folder = saved[1]
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_damage_to_content_is_told_from_a_wrong_path(saved: tuple[Transformer, Path]) -> None:
    truncate(saved[1])
    with pytest.raises(DamagedError):
        load_weights(build(saved[0].config, 1), saved[1])
    shutil.rmtree(saved[1])
    with pytest.raises(UserError) as caught:
        load_model(saved[1])
    assert not isinstance(caught.value, DamagedError)


def test_a_shard_limit_below_one_is_refused(saved: tuple[Transformer, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"max_shard_bytes \(0\) must be at least 1; leave it out"):
        save_model(saved[0], tmp_path, 0)
