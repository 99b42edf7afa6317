"""A variant's folder holds every tensor of the model, each at the width asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from slm.compress import run
from slm.compress.files import read_integers
from slm.model.load import load_tensors, read_config
from slm.recipe import Recipe

RTN = {"name": "rtn", "method": "rtn", "group_size": 64, "bits": 3}


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_embedding_and_head_have_a_width_of_their_own(compressing: Callable[..., Recipe], bits: int) -> None:
    recipe = compressing({**RTN, "outside_bits": bits})
    made = run(recipe)
    integers, plain = read_integers(made.path / "rtn")
    trained = load_tensors(recipe.artifact("train").path)
    assert set(integers) | set(plain) == set(trained)
    assert read_config(made.path / "rtn").width == 64
    assert integers["blocks.0.attention.q.weight"].grid.bits == 3
    if bits == 16:
        assert torch.equal(plain["embedding.weight"], trained["embedding.weight"].half())
    else:
        assert integers["embedding.weight"].grid.bits == bits
    assert torch.equal(plain["norm.weight"], trained["norm.weight"])
