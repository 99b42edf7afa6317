"""A model of ours in torch: prefill in chunks, then one token at a time over a key-value cache.

In: a `Transformer` and a `Vocabulary`. Out: streamed text. The prompt is read in chunks of
`PREFILL_TOKENS`, and only the last position is projected to the vocabulary, so memory does not grow with
prompt length times vocabulary (4,096 x 32,768 logits would be 537 MB).

Shapes: B = 1 row, T tokens, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from slm.core.errors import UserError
from slm.model.cache import KVCache, dtype_of
from slm.model.lora import Adapter, attach, detach
from slm.model.transformer import Transformer
from slm.serve.config import ServeConfig
from slm.serve.decoding import continued
from slm.serve.engine import Pieces, context_room
from slm.serve.vocabulary import Messages, Vocabulary

PREFILL_TOKENS = 512


class TorchBackend:
    """Answers from a `Transformer`."""

    def __init__(self, model: Transformer, vocabulary: Vocabulary, config: ServeConfig) -> None:
        torch.set_num_threads(config.threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().to(self.device)
        self.vocabulary = vocabulary
        self.context_tokens = context_room(config, model.config.max_seq_len)
        self.has_template = vocabulary.has_template

    def encode(self, text: str) -> list[int]:
        return self.vocabulary.encode(text)

    def encode_chat(self, messages: Messages) -> list[int]:
        return self.vocabulary.encode_chat(messages)

    def stream(self, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Pieces:
        dtype = dtype_of(settings.kv_cache, torch.float32)
        cache = KVCache(self.model.config, 1, len(ids) + max_tokens, dtype, self.device)
        return continued(lambda new: self._read(new, cache), self.vocabulary, ids, max_tokens, settings)

    def adapt(self, adapter: Adapter | None) -> None:
        """Put an adapter beside the model's matrices, in place of any other; None takes it off."""
        if adapter is None:
            detach(self.model)
        else:
            attach(self.model, adapter)

    def close(self) -> None:
        """Nothing is held but memory."""

    @torch.inference_mode()
    def _read(self, ids: Sequence[int], cache: KVCache) -> Tensor:
        """Put `ids` into the cache; logits of what follows the last."""
        for start in range(0, len(ids), PREFILL_TOKENS):
            tokens_BT = torch.tensor([ids[start : start + PREFILL_TOKENS]], device=self.device)
            x_BTD = self.model.hidden(tokens_BT, cache=cache)
        logits_BTV: Tensor = self.model.project(x_BTD[:, -1:])
        return logits_BTV[0, -1]


def generation_end_ids(folder: Path) -> frozenset[int]:
    """The ids that end an answer according to a Hugging Face folder's generation_config.json."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return frozenset()
    try:
        named = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path} is not a JSON object ({error}); restore it or delete it") from error
    return frozenset(named if isinstance(named, list) else [] if named is None else [named])
