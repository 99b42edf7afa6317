"""A GGUF file in llama.cpp as a back end of the engine.

In: a .gguf file. Out: streamed text. llama.cpp samples, in the order of `sampling.py`, and ends at stop
texts by its own rule (the one that starts first in what a token completes). Draws of one seed differ from
those of the torch back ends, since the generators differ. A file in F32 is computed exactly (cache in F32,
no flash attention), so that its greedy answers are those of the checkpoint; others take llama.cpp's faster
defaults, whose F16 cache moves log-probabilities by about 2e-4. With kv_cache int8 the cache is q8_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slm.core.errors import DamagedError
from slm.serve.config import ServeConfig
from slm.serve.engine import Pieces, context_room
from slm.serve.gguf_file import read_gguf
from slm.serve.llama_cpp import LlamaCpp, LlamaSampling

if TYPE_CHECKING:
    from slm.serve.vocabulary import Messages

MOST_LLAMA_SEED = 2**32 - 1
"""llama.cpp's seeds are 32 bits wide, and the largest asks for a random one."""


class LlamaBackend:
    """Answers from llama.cpp."""

    def __init__(self, path: Path, config: ServeConfig) -> None:
        longest, self.has_template, exact = describe(path)
        self.context_tokens = context_room(config, longest)
        int8 = config.kv_cache == "int8"
        self._llama = LlamaCpp(
            path, context_tokens=self.context_tokens, exact=exact and not int8, int8_cache=int8, threads=config.threads
        ).__enter__()

    def encode(self, text: str) -> list[int]:
        return self._llama.tokenize(text, bos=True)

    def encode_chat(self, messages: Messages) -> list[int]:
        return self._llama.render_chat(messages)

    def stream(self, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Pieces:
        sampling = LlamaSampling(
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            min_p=settings.min_p,
            repetition_penalty=settings.repetition_penalty,
            stop=settings.stop,
            seed=settings.seed % MOST_LLAMA_SEED,
        )
        end = yield from self._llama.complete(ids, max_tokens, sampling)
        return end.reason, end.generated_tokens

    def close(self) -> None:
        self._llama.close()


def describe(path: Path) -> tuple[int, bool, bool]:
    """What a GGUF file says of itself: the length it is meant for, whether it has a chat template, and is all F32."""
    metadata = read_gguf(path).metadata
    key = f"{metadata.get('general.architecture')}.context_length"
    longest = metadata.get(key)
    if not isinstance(longest, int) or longest < 1:
        raise DamagedError(f"{path} does not say how long a text it is meant for ({key}); export or download it again")
    return longest, "tokenizer.chat_template" in metadata, metadata.get("general.file_type") == 0
