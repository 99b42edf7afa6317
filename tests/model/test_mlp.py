from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from slm.model.config import ModelConfig
from slm.model.hugging_face import hf_config
from slm.model.mlp import SwiGLU


def test_feed_forward_equals_that_of_llama(shape: Callable[..., ModelConfig]) -> None:
    config = shape()
    ours, reference = SwiGLU(config), LlamaMLP(LlamaConfig(**hf_config(config)))
    reference.load_state_dict({name.replace(".", "_proj."): tensor for name, tensor in ours.state_dict().items()})
    x = torch.randn(2, 3, config.width)
    torch.testing.assert_close(ours(x), reference(x), atol=1e-6, rtol=1e-6)
