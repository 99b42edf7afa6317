from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from slm.model.config import ModelConfig

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"heads": 4, "kv_heads": 3}, r"heads \(4\) must be a multiple of kv_heads \(3\)"),
    ({"head_dim": 15}, r"head_dim \(15\) must be even for rotary positions"),
    ({"rope_scaling": {"kind": "linear", "factor": 1.0}}, "greater than 1"),
    (
        {"rope_scaling": {"kind": "llama3", "factor": 2.0, "low_freq_factor": 4.0}},
        r"high_freq_factor \(4.0\) must be larger than low_freq_factor \(4.0\)",
    ),
    (
        {"rope_scaling": {"kind": "linear", "factor": 2.0, "original_max_seq_len": 64}},
        r"original_max_seq_len \(64\) has no effect on linear scaling; leave it out",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:25] for _, message in REFUSED])
def test_a_shape_that_cannot_be_is_refused(
    shape: Callable[..., ModelConfig], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        shape(**changes)


def test_a_configuration_comes_back_from_its_json(shape: Callable[..., ModelConfig]) -> None:
    config = shape(rope_scaling={"kind": "linear", "factor": 2.0}, sliding_window=8)
    assert ModelConfig.model_validate(config.resolved()) == config


def test_the_backend_of_attention_does_not_shape_the_model(shape: Callable[..., ModelConfig]) -> None:
    assert shape(attention="sdpa").identity() == shape().identity()
