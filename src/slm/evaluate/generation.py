"""Many prompts continued at once, greedily or drawn.

In: prompts as ids, each with its longest answer, stop strings, temperature and seed. Out, as batches are done: the
text and the ids of each answer, up to one of the tokens that end it, or the first stop string. Prompts of similar
length share a batch; what all of a batch begin with (examples, or one prompt drawn from many times) is computed once.
Rows that have ended leave the batch when they are half of it. A drawn answer depends on its seed and the model alone,
not on what else is in the batch: each is what its prompt alone would get (tested).

Shapes: B rows, N new tokens, K slots of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from slm.evaluate.likelihood import read_prefix
from slm.evaluate.score import autocast
from slm.evaluate.tree import SHORTEST_PREFIX, Ids, common
from slm.model.cache import KVCache, KVKind, dtype_of
from slm.model.transformer import Transformer
from slm.serve.sampling import greedy, scale_temperature
from slm.serve.stream import StopStream, Utf8Stream
from slm.tokenizer.tokenizer import Tokenizer

MOST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is continued and how."""

    ids: Ids
    max_tokens: int
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    seed: int = 0


@dataclass(slots=True)
class Answer:
    """What one prompt is continued by; complete when it is handed out."""

    number: int
    """Of the prompt."""
    prompt: Prompt
    stream: StopStream
    bytes: Utf8Stream = field(default_factory=Utf8Stream)
    text: str = ""
    ids: list[int] = field(default_factory=list)
    """With the token that ended it, if one did."""
    ended: bool = False
    end: int | None = None
    """The token that ended it, if one did."""

    def take(self, token: int, tokenizer: Tokenizer, ends: frozenset[int]) -> None:
        """Add one token."""
        self.ids.append(token)
        if token in ends:
            self.ended, self.end = True, token
        else:
            self.text += self.stream.push(self.bytes.push(tokenizer.token_bytes(token)))
            self.ended = self.stream.stopped or len(self.ids) >= self.prompt.max_tokens
        if self.ended and not self.stream.stopped:
            self.text += self.stream.push(self.bytes.finish()) + self.stream.finish()


@torch.inference_mode()
def generate(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    ends: frozenset[int],
    batch_tokens: int,
    precision: Literal["fp32", "bf16"] = "fp32",
    kv_cache: KVKind = "float",
) -> Iterator[list[Answer]]:
    """The answer to each prompt, a batch at a time, the longest first; any token of `ends` ends one."""
    float_type = torch.bfloat16 if precision == "bf16" else next(model.parameters()).dtype
    cache_type = dtype_of(kv_cache, float_type)
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number].ids), prompts[number].ids.tobytes()))
    first = 0
    while first < len(order):
        longest = prompts[order[first]]
        room = len(longest.ids) + longest.max_tokens
        rows = min(MOST_ROWS, max(1, 2 * batch_tokens // room))
        batch = order[first : first + rows]
        first += rows
        with autocast(next(model.parameters()).device.type, precision):
            yield _answer(model, tokenizer, [(number, prompts[number]) for number in batch], ends, cache_type)


def _answer(
    model: Transformer,
    tokenizer: Tokenizer,
    batch: Sequence[tuple[int, Prompt]],
    ends: frozenset[int],
    cache_type: torch.dtype,
) -> list[Answer]:
    device, window = next(model.parameters()).device, model.config.sliding_window
    answers = [Answer(number, prompt, StopStream(prompt.stops)) for number, prompt in batch]
    generators = {number: np.random.Generator(np.random.Philox(prompt.seed)) for number, prompt in batch}
    prefix = shared_prefix([prompt.ids for _, prompt in batch])
    lengths_B = torch.tensor([len(prompt.ids) for _, prompt in batch], device=device)
    widest = int(lengths_B.max())
    most = max(prompt.max_tokens for _, prompt in batch)
    cache = KVCache(model.config, len(batch), widest + most, cache_type, device)
    if prefix:
        read_prefix(model, batch[0][1].ids[:prefix], cache)
    tokens_BN = np.zeros((len(batch), widest - prefix), dtype=np.int64)
    for row, (_, prompt) in enumerate(batch):
        tokens_BN[row, : len(prompt.ids) - prefix] = prompt.ids[prefix:]
    x_BND = model.hidden(torch.from_numpy(tokens_BN).to(device), cache=cache)
    x_BD = x_BND[torch.arange(len(batch), device=device), lengths_B - prefix - 1]
    alive = list(answers)
    while True:
        tokens = _picked(model.project(x_BD), alive, generators)
        for answer, token in zip(alive, tokens, strict=True):
            if not answer.ended:
                answer.take(token, tokenizer, ends)
        going = [row for row, answer in enumerate(alive) if not answer.ended]
        if not going:
            return answers
        if 2 * len(going) <= len(alive):
            rows = torch.tensor(going, device=device)
            cache.keep(rows)
            lengths_B, alive, tokens = lengths_B[rows], [alive[row] for row in going], [tokens[row] for row in going]
        positions_B = lengths_B + (cache.length - widest)
        sees_BNK = reachable(lengths_B, widest, cache.length + 1, window)
        tokens_B1 = torch.tensor(tokens, device=device).unsqueeze(1)
        x_BD = model.hidden(tokens_B1, positions_BT=positions_B.unsqueeze(1), sees_BTK=sees_BNK, cache=cache)[:, -1]


def shared_prefix(prompts: Sequence[Ids]) -> int:
    """How many ids all begin with, at most all but one of the shortest; 0 where that is not worth a forward."""
    if len(prompts) == 1:
        return 0
    shared = min(common(prompts[0], other) for other in prompts[1:])
    shared = min(shared, min(len(ids) for ids in prompts) - 1)
    return shared if shared >= SHORTEST_PREFIX else 0


def reachable(lengths_B: Tensor, widest: int, slots: int, window: int) -> Tensor:
    """Which slots the newest token of each row sees, boolean [B, 1, K]: not those between its prompt and `widest`."""
    slots_K = torch.arange(slots, device=lengths_B.device)
    written_K = slots_K >= widest
    sees_BK = (slots_K < lengths_B[:, None]) | written_K
    if window:
        positions_BK = torch.where(written_K, slots_K - widest + lengths_B[:, None], slots_K)
        sees_BK &= positions_BK > positions_BK[:, -1:] - window
    return sees_BK.unsqueeze(1)


def _picked(logits_BV: Tensor, answers: Sequence[Answer], generators: Mapping[int, np.random.Generator]) -> list[int]:
    """The likeliest token, or the one at which the running sum of probabilities passes a number drawn."""
    tokens = greedy(logits_BV).tolist()  # refuses what is not finite
    drawn = [row for row, answer in enumerate(answers) if answer.prompt.temperature]
    if drawn:
        warm_DV = torch.stack(
            [scale_temperature(logits_BV[row].double().cpu(), answers[row].prompt.temperature) for row in drawn]
        )
        summed_DV = warm_DV.softmax(-1).cumsum(-1)
        numbers_D = torch.tensor([generators[answers[row].number].random() for row in drawn], dtype=torch.float64)
        places_D1 = torch.searchsorted(summed_DV, numbers_D[:, None] * summed_DV[:, -1:])
        for row, place in zip(drawn, places_D1[:, 0].tolist(), strict=True):
            tokens[row] = min(place, logits_BV.shape[1] - 1)
    return [int(token) for token in tokens]
