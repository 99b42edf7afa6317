r"""Golden prompts: what a model must say, as a table that people write and review.

JSON Lines, one prompt a line, of two kinds:

    {"name": "import", "prompt": "import ", "continuation": "sys\n", "min_logprob_per_token": -6}
    {"name": "def", "prompt": "def main(", "pattern": "^[^\n]*\\)", "max_tokens": 16}

The first bounds the mean log-probability (nats) of the continuation's tokens from below, above or both;
the second searches the greedy continuation with a regular expression. Blank lines are skipped; anything
else wrong is refused with file and line before any work begins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, model_validator

from slm.core.config import Config
from slm.core.errors import UserError
from slm.evaluate.score import token_nats
from slm.model.cache import KVCache
from slm.model.transformer import Transformer
from slm.tokenizer.tokenizer import Tokenizer


class GoldenPrompt(Config):
    """One line of the table."""

    name: str = Field(min_length=1)
    prompt: str
    continuation: str = ""
    min_logprob_per_token: float | None = Field(None, le=0)
    max_logprob_per_token: float | None = Field(None, le=0)
    pattern: str = ""
    max_tokens: int = Field(24, ge=1)

    @model_validator(mode="after")
    def _is_one_kind(self) -> GoldenPrompt:
        low, high = self.min_logprob_per_token, self.max_logprob_per_token
        if bool(self.continuation) == bool(self.pattern):
            raise ValueError("give either continuation (with a bound) or pattern")
        if self.pattern and (low, high) != (None, None):
            raise ValueError("a pattern takes no bounds; remove them, or give a continuation")
        if self.continuation and low is None and high is None:
            raise ValueError("a continuation needs min_logprob_per_token, max_logprob_per_token or both")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_logprob_per_token ({low:g}) must not exceed max_logprob_per_token ({high:g})")
        if self.continuation and "max_tokens" in self.model_fields_set:
            raise ValueError("max_tokens has no effect on a continuation; remove it")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern is not a regular expression ({error})") from error
        return self

    @property
    def expected(self) -> str:
        """The rule in words."""
        if self.pattern:
            return f"a match of {self.pattern!r} in {self.max_tokens} greedy tokens"
        low, high = self.min_logprob_per_token, self.max_logprob_per_token
        bounds = [f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else ""]
        return f"{' and '.join(filter(None, bounds))} nats a token for {self.continuation!r}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one prompt came to."""

    name: str
    prompt: str
    passed: bool
    expected: str
    found: str


def read_golden(path: Path) -> list[GoldenPrompt]:
    """The table at `path`; `UserError` with file and line where it is malformed."""
    if not path.is_file():
        raise UserError(f"evaluate.golden ({path}) is not a file; correct the path, or leave it empty to skip it")
    prompts: list[GoldenPrompt] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            prompt = GoldenPrompt.model_validate(_object(line))
        except UnicodeDecodeError as error:
            raise UserError(f"{place}: not UTF-8 (byte {line[error.start]:#04x}); save the table as UTF-8") from error
        except (ValidationError, ValueError) as error:
            raise UserError(f"{place}: {_reason(error)}; correct the line (the keys are {_keys()})") from error
        if prompt.name in {other.name for other in prompts}:
            raise UserError(f"{place}: a second prompt is named {prompt.name}; give it a name of its own")
        prompts.append(prompt)
    if not prompts:
        raise UserError(f"{path} holds no golden prompt; add one a line, or leave evaluate.golden empty to skip it")
    return prompts


def check(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[GoldenPrompt]) -> list[Outcome]:
    """The outcome of each prompt on `model`."""
    return [
        judge(item, greedy(model, tokenizer, item.prompt, item.max_tokens, item.name))
        if item.pattern
        else judge(item, logprob_per_token(model, tokenizer, item.prompt, item.continuation, item.name))
        for item in prompts
    ]


def judge(item: GoldenPrompt, found: str | float) -> Outcome:
    """Whether what a model said keeps the rule: its greedy text, or the mean log-probability of the continuation."""
    if isinstance(found, str):
        return Outcome(item.name, item.prompt, re.search(item.pattern, found) is not None, item.expected, repr(found))
    low, high = item.min_logprob_per_token, item.max_logprob_per_token
    passed = (low is None or found >= low) and (high is None or found <= high)
    return Outcome(item.name, item.prompt, passed, item.expected, f"{found:.3f}")


@torch.inference_mode()
def logprob_per_token(model: Transformer, tokenizer: Tokenizer, prompt: str, continuation: str, name: str) -> float:
    """Mean log-probability, in nats, of the tokens by which prompt + continuation goes on after the prompt."""
    ids = tokenizer.encode(prompt + continuation, bos=True)
    shared = first_of_continuation(tokenizer.encode(prompt, bos=True), ids)
    _check_room(model, len(ids), name)
    device = next(model.parameters()).device
    row_BT = torch.tensor([ids], device=device)
    x_BTD = model.hidden(row_BT[:, :-1])
    return -float(token_nats(model, x_BTD[0, shared - 1 :], row_BT[0, shared:]).double().mean())


def first_of_continuation(before: Sequence[int], ids: Sequence[int]) -> int:
    """Where in the ids of prompt + continuation those of the prompt end.

    Text is encoded whole, so a token may straddle the border; it then counts to the continuation.
    """
    shared = 0
    while shared < min(len(before), len(ids) - 1) and before[shared] == ids[shared]:
        shared += 1
    return shared


@torch.inference_mode()
def greedy(model: Transformer, tokenizer: Tokenizer, prompt: str, max_tokens: int, name: str) -> str:
    """The likeliest token, `max_tokens` times or until the end of text."""
    fresh = tokenizer.encode(prompt, bos=True)
    _check_room(model, len(fresh) + max_tokens, name)
    parameter = next(model.parameters())
    cache = KVCache(model.config, 1, len(fresh) + max_tokens, parameter.dtype, parameter.device)
    written: list[int] = []
    while len(written) < max_tokens:
        x_BTD = model.hidden(torch.tensor([fresh], device=parameter.device), cache=cache)
        token = int(model.project(x_BTD[:, -1]).argmax())
        if token == tokenizer.eos_id:
            break
        written.append(token)
        fresh = [token]
    return tokenizer.decode(written)


def _check_room(model: Transformer, tokens: int, name: str) -> None:
    if tokens > model.config.max_seq_len:
        raise UserError(
            f"golden prompt {name} needs {tokens:,} tokens, but model.max_seq_len is {model.config.max_seq_len:,}; "
            "shorten it"
        )


def _object(line: bytes) -> dict[str, Any]:
    content = json.loads(line.decode("utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {type(content).__name__}")
    return content


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            return f"no such key as {key}"
        message = first["msg"].removeprefix("Value error, ")
        return f"{key}: {message[0].lower()}{message[1:]}" if key else message
    return f"not a JSON object ({error})" if isinstance(error, json.JSONDecodeError) else str(error)


def _keys() -> str:
    return ", ".join(GoldenPrompt.model_fields)
