"""Every tensor in one file of one process, evenly, in a layout that depends on nothing but sizes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm.model.config import ModelConfig
from slm.model.transformer import build
from slm.train.tensor_files import files_of, index_text, owners

SIZES = st.dictionaries(st.text("abc.", min_size=1, max_size=6), st.integers(0, 1000), min_size=1, max_size=40)


@given(SIZES, st.integers(1, 5), st.integers(1, 3000))
def test_every_tensor_is_in_one_file_of_its_owner(sizes, processes, max_bytes):
    owner = owners(sizes, processes)
    files = files_of("model", sizes, owner, max_bytes)
    assert sorted(name for file in files for name in file.tensors) == sorted(sizes)
    for number, file in enumerate(files, 1):
        assert file.name == f"model-{number:05}-of-{len(files):05}.safetensors"
        assert {owner[name] for name in file.tensors} == {file.owner}
        assert sum(sizes[name] for name in file.tensors) <= max_bytes or len(file.tensors) == 1
    weight_map = json.loads(index_text(files, sizes))["weight_map"]
    assert weight_map == {name: file.name for file in files for name in file.tensors}


@given(SIZES, st.integers(1, 5))
def test_no_process_has_more_than_an_even_share_and_one_tensor(sizes, processes):
    owner = owners(sizes, processes)
    loads = [sum(size for name, size in sizes.items() if owner[name] == process) for process in range(processes)]
    assert max(loads) <= sum(sizes.values()) / processes + max(sizes.values())


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_a_model_of_many_layers_is_spread_evenly(processes):
    model = build(
        ModelConfig(
            vocab_size=512, width=64, layers=12, heads=2, kv_heads=1, head_dim=32, ffn_width=128, max_seq_len=64
        ),
        0,
    )
    sizes = {name: tensor.nbytes for name, tensor in model.state_dict().items()}
    owner = owners(sizes, processes)
    loads = [sum(sizes[name] for name in sizes if owner[name] == process) for process in range(processes)]
    assert max(loads) < 1.05 * sum(loads) / processes


def test_one_file_beside_the_model_has_no_number():
    sizes = {"a": 4, "b": 8}
    assert [file.name for file in files_of("optimizer", sizes, owners(sizes, 1))] == ["optimizer.safetensors"]
    assert [file.name for file in files_of("model", sizes, owners(sizes, 1))] == ["model-00001-of-00001.safetensors"]
    (file,) = files_of("model", sizes, owners(sizes, 1))
    assert file.tensors == ("a", "b")  # in the model's order
