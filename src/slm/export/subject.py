"""What is exported: a model, its tokenizer, and the facts that a file must carry about its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    import numpy.typing as npt

    from slm.export.importance import Importance
    from slm.model.config import ModelConfig
    from slm.model.transformer import Transformer
    from slm.tokenizer.tokenizer import Tokenizer

MAX_SHARD_BYTES = 4 * 10**9
TURN_END = "<|im_end|>"
Quantity = Literal["logits", "log-probabilities"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A source of the text that the model was trained on."""

    name: str
    licence: str
    origin: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained model on its way out."""

    name: str
    model: Transformer
    tokenizer: Tokenizer
    checkpoint: str
    """Fingerprint of the checkpoint."""
    datasets: tuple[Dataset, ...] = ()
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Largest safetensors file of a folder."""
    variant: Path | None = None
    """Folder of the integers that `model` stands for, if it was compressed."""
    max_gguf_bytes: int = 0
    """Largest GGUF file, where that is not 0."""
    importance: Importance | None = None
    """How much errors in each column of its matrices matter, where GGUF's quantizers are to heed it."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens at which every engine stops: the end of a text and of a turn."""
        return frozenset({self.tokenizer.eos_id, self.turn_end_id})

    @property
    def turn_end_id(self) -> int:
        """The id of the token that ends a turn of a chat."""
        return self.tokenizer.gguf_vocabulary().tokens.index(TURN_END)


@dataclass(frozen=True, slots=True)
class Written:
    """What an exporter wrote, and what a person must know about it."""

    path: Path
    notices: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What a person who runs the file must know of its inside; plain JSON."""


class Engine(Protocol):
    """A program that opened an exported file, as the parity proof sees it."""

    quantity: Quantity
    misread: str
    """Characters that the engine's tokenizer takes for others; texts with them cannot be compared."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, start token included."""

    def scores(self, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        """Logits or log-probabilities [positions, V] of what follows each of `positions`."""

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits or log-probabilities [T, V] of what follows each of `ids`, as the file's users compute them."""

    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation, up to and with a token that ends a text."""


class Exporter(Protocol):
    """What a module named in `EXPORTERS` offers."""

    def refuse_unsupported(self, config: ModelConfig) -> None:
        """Refuse a model that the format's engine would run differently."""

    def write(self, subject: Subject, folder: Path, name: str) -> Written:
        """Write one format into `folder`."""

    def engine(
        self, written: Path, *, end_ids: frozenset[int], context_tokens: int, threads: int
    ) -> AbstractContextManager[Engine]:
        """Open what was written in a program of its own."""
