"""A folder that transformers opens: safetensors, configuration, tokenizer, chat template.

In: a model and a tokenizer. Out: `hf/`, which `AutoModelForCausalLM` and `AutoTokenizer` open offline and
without code of ours. The proof opens it exactly so, in float32 on the CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from slm.core.errors import DamagedError
from slm.export.subject import Engine, Quantity, Subject, Written
from slm.model.hugging_face import save_pretrained
from slm.tokenizer.hugging_face import write_hugging_face

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from slm.model.config import ModelConfig


def write(subject: Subject, folder: Path, name: str) -> Written:
    """Write the folder `hf/`."""
    target, tokenizer = folder / name, subject.tokenizer
    refuse_not_finite(subject)
    save_pretrained(
        subject.model, target, max_shard_bytes=subject.max_shard_bytes, bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id,
    )  # fmt: skip
    write_hugging_face(tokenizer, target)
    return Written(target)


def refuse_unsupported(config: ModelConfig) -> None:
    """Refuse nothing: every configuration has its architecture in transformers."""


def refuse_not_finite(subject: Subject) -> None:
    """Refuse a model with NaN or infinity in it."""
    for name, tensor in subject.model.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise DamagedError(
                f"{name} holds NaN or infinity, so every answer would be NaN; export an earlier checkpoint"
            )


@contextlib.contextmanager
def engine(written: Path, *, end_ids: frozenset[int], context_tokens: int, threads: int) -> Iterator[Engine]:
    """transformers with the folder, in float32."""
    del context_tokens
    with running(threads):
        yield TransformersEngine(written, end_ids)


@contextlib.contextmanager
def running(threads: int) -> Iterator[None]:
    """Have torch compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TransformersEngine:
    """transformers as the parity proof sees it: with a folder's own weights, or its configuration and others."""

    quantity: Quantity = "logits"
    misread = ""

    def __init__(self, folder: Path, end_ids: frozenset[int], state: Mapping[str, torch.Tensor] | None = None) -> None:
        with _quiet():
            from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

            model: Any = AutoModelForCausalLM
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            if state is None:
                self._model = model.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
            else:
                config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
                del config.quantization_config
                self._model = model.from_config(config, dtype=torch.float32).eval()
                self._model.load_state_dict(state, strict=not config.tie_word_embeddings)
        self._end_ids = end_ids

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, start token included; as everywhere here, text does not spell control tokens."""
        return list(self._tokenizer(text, split_special_tokens=True)["input_ids"])

    @torch.inference_mode()
    def scores(self, ids: Sequence[int], positions: Sequence[int]) -> npt.NDArray[np.float64]:
        """Logits [positions, V]."""
        logits_TV = self._model(torch.tensor([list(ids)])).logits[0]
        scores_PV: npt.NDArray[np.float64] = logits_TV[list(positions)].double().numpy()
        return scores_PV

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Logits [T, V]."""
        logits_TV: npt.NDArray[np.float32] = self._model(torch.tensor([list(ids)])).logits[0].numpy()
        return logits_TV

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], max_tokens: int) -> list[int]:
        """The greedy continuation, up to and with a token that ends a text."""
        tokens_BT = torch.tensor([list(ids)])
        with _quiet():
            answer_BT = self._model.generate(
                tokens_BT,
                attention_mask=torch.ones_like(tokens_BT),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=sorted(self._end_ids),
            )
        continuation: list[int] = answer_BT[0, len(ids) :].tolist()
        return continuation


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bars and advice off the terminal; its errors are exceptions."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
