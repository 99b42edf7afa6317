"""The model as tasks see it: texts in, likelihoods and answers out, each asked once and kept.

In: pairs of context and continuation, or prompts, as text. Out: in their order, what the model says. What the journal
already holds is not asked again; what is new goes into it batch by batch. A pair or prompt that does not fit the
model's context gives None: its task leaves the item out and counts it.

A text is encoded whole, so a token may straddle the border of context and continuation; it then counts to the
continuation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from slm.core.console import Progress
from slm.evaluate.generation import Prompt, generate
from slm.evaluate.journal import Journal, key_of
from slm.evaluate.likelihood import Likelihood, likelihoods
from slm.evaluate.tree import Request, common
from slm.model.cache import KVKind
from slm.model.transformer import Transformer
from slm.tokenizer.tokenizer import Tokenizer
from slm.tokenizer.training import CONTROL_TOKENS

BLOCK_REQUESTS = 8_192
"""Laid out together; a kill loses at most the batch in work."""
TURN_END = "<|im_end|>"


@dataclass(frozen=True, slots=True)
class Scorer:
    """A model, its tokenizer and what it has already said."""

    model: Transformer
    tokenizer: Tokenizer
    batch_tokens: int
    precision: Literal["fp32", "bf16"] = "fp32"
    journal: Journal | None = None
    shown: bool = True
    """Whether progress is shown."""
    label: str = ""
    """Which model this is, before what is shown; the evaluated one needs none."""
    kv_cache: KVKind = "float"
    rare_V: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    """Which ids training rows hardly hold."""

    def rare_token_rate(self, text: str) -> float | None:
        """The share of a text's tokens that training rows hardly hold; None where nobody counted."""
        ids = self.tokenizer.encode(text)
        return float(self.rare_V[ids].mean()) if self.rare_V is not None and ids else None

    @property
    def context_tokens(self) -> int:
        return self.model.config.max_seq_len

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end an answer."""
        return end_tokens(self.tokenizer)

    def pair(self, context: str, continuation: str, *, chat: bool = False) -> Request | None:
        """The ids of both, the continuation's to be scored; None where they exceed the model's context.

        In a chat the continuation is the assistant's turn, up to the token that ends it.
        """
        before = self.prompt_ids(context, chat=chat)
        if chat:
            talk = [{"role": "user", "content": context}, {"role": "assistant", "content": continuation.strip()}]
            whole, learned = self.tokenizer.encode_chat(talk)
            ids = whole[: np.flatnonzero(learned)[-1] + 1]
        else:
            ids = self.prompt_ids(context + continuation)
        if len(ids) - 1 > self.context_tokens:
            return None
        return Request(ids, min(common(before, ids), len(ids) - 1))

    def prompt_ids(self, text: str, *, chat: bool = False) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The ids of a prompt, with the start token; in a chat as the user's turn, up to where the answer begins."""
        if chat:  # without white space around it, as conversations are learned
            return np.array(self.tokenizer.render_chat([{"role": "user", "content": text.strip()}]), dtype=np.int32)
        return np.array(self.tokenizer.encode(text, bos=True), dtype=np.int32)

    def likelihoods(self, requests: Sequence[Request], name: str) -> list[Likelihood]:
        """Of each request, in order; `name` is shown while it is computed."""
        keys = [key_of("likelihood", request.ids.tolist(), request.first) for request in requests]
        found: dict[int, Likelihood] = {}
        for number, key in enumerate(keys):
            known = self.journal.get(key) if self.journal else None
            if known is not None:
                found[number] = Likelihood(*known)
        missing = [number for number in range(len(requests)) if number not in found]
        with self._progress(name, len(missing), "requests") as advance:
            for start in range(0, len(missing), BLOCK_REQUESTS):
                block = missing[start : start + BLOCK_REQUESTS]
                asked = [requests[number] for number in block]
                for batch in likelihoods(
                    self.model,
                    asked,
                    batch_tokens=self.batch_tokens,
                    precision=self.precision,
                    kv_cache=self.kv_cache,
                ):
                    found.update((block[number], one) for number, one in batch)
                    if self.journal:
                        self.journal.put((keys[block[number]], one) for number, one in batch)
                    advance(len(batch))
        return [found[number] for number in range(len(requests))]

    def answers(self, prompts: Sequence[Prompt], name: str) -> list[str]:
        """The continuation of each prompt, in order."""
        keys = [
            key_of("answer", one.ids.tolist(), one.max_tokens, one.stops, one.temperature, one.seed) for one in prompts
        ]
        known = [self.journal.get(key) if self.journal else None for key in keys]
        found = {number: str(text) for number, text in enumerate(known) if text is not None}
        missing = [number for number in range(len(prompts)) if number not in found]
        with self._progress(name, len(missing), "answers") as advance:
            for batch in generate(
                self.model,
                self.tokenizer,
                [prompts[number] for number in missing],
                ends=self.ends,
                batch_tokens=self.batch_tokens,
                precision=self.precision,
                kv_cache=self.kv_cache,
            ):
                found.update((missing[one.number], one.text) for one in batch)
                if self.journal:
                    self.journal.put((keys[missing[one.number]], one.text) for one in batch)
                advance(len(batch))
        return [found[number] for number in range(len(prompts))]

    @contextlib.contextmanager
    def _progress(self, name: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """What is told how much is done."""
        if not self.shown:
            yield lambda _: None
            return
        with Progress(f"evaluate: {self.label}{name}", total, unit) as progress:
            yield progress.advance


def end_tokens(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens that end an answer: the end of a text and of a turn."""
    return frozenset((tokenizer.eos_id, CONTROL_TOKENS.index(TURN_END)))
