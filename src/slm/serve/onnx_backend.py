"""An ONNX file in ONNX Runtime as a back end of the engine: prefill in chunks, then one token at a time.

In: a .onnx file with the tokenizer and `config.json` of its model beside it. Out: streamed text, sampled as the torch
back end samples: equal logits, settings and seeds give equal answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from slm.core.errors import UserError
from slm.model.hugging_face import CONFIG
from slm.model.load import read_json
from slm.serve.config import ServeConfig
from slm.serve.decoding import continued
from slm.serve.engine import Pieces, context_room
from slm.serve.onnx_runtime import OnnxRuntime
from slm.serve.torch_backend import PREFILL_TOKENS, generation_end_ids
from slm.serve.vocabulary import open_vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from slm.serve.vocabulary import Messages


class OnnxBackend:
    """Answers from ONNX Runtime."""

    def __init__(self, path: Path, config: ServeConfig) -> None:
        if config.kv_cache != "float":
            raise UserError(
                f"serve.kv_cache is {config.kv_cache}, but the keys and values of {path} are floats; leave it out, or "
                "name a checkpoint or a .gguf file in serve.model"
            )
        self._model = OnnxRuntime(path, threads=config.threads)
        self.context_tokens = context_room(config, longest(path.parent))
        self.vocabulary = open_vocabulary(path.parent)
        self.vocabulary.end_ids |= generation_end_ids(path.parent)
        self.has_template = self.vocabulary.has_template

    def encode(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def encode_chat(self, messages: Messages) -> list[int]:
        return self.vocabulary.encode_chat(messages)

    def stream(self, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Pieces:
        past = self._model.empty()

        def read(new: Sequence[int]) -> Tensor:
            nonlocal past
            for start in range(0, len(new), PREFILL_TOKENS):
                logits_1V, past = self._model.read(new[start : start + PREFILL_TOKENS], past)
            return torch.from_numpy(logits_1V[0])

        return continued(read, self.vocabulary, ids, max_tokens, settings)

    def close(self) -> None:
        """Nothing is held but memory."""


def longest(folder: Path) -> int:
    """The length that the model in `folder` is meant for."""
    found = read_json(folder / CONFIG).get("max_position_embeddings")
    if not isinstance(found, int):
        raise UserError(f"{folder / CONFIG} names no max_position_embeddings; restore the model's own")
    return found
