"""Engines that say what a function makes of the prompt, and a small model to teach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from slm.serve.config import ServeConfig
from slm.serve.engine import Engine, Pieces

Say = Callable[[str], str]


class Parrot:
    """A back end whose answer is a function of the prompt; ids are bytes, the turns of a chat stand in lines."""

    has_template = True

    def __init__(self, say: Say, context_tokens: int) -> None:
        self.say, self.context_tokens = say, context_tokens
        self.asked: list[str] = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return self.encode("".join(f"<{message['role']}>{message['content']}\n" for message in messages))

    def stream(self, ids: Sequence[int], max_tokens: int, settings: ServeConfig) -> Pieces:
        assert settings.temperature == 0
        self.asked.append(bytes(ids).decode())
        answer = self.say(self.asked[-1])[:max_tokens]
        yield answer
        return "stop", len(answer)

    def close(self) -> None:
        self.asked.append("(closed)")


@pytest.fixture
def parrot() -> Callable[..., Engine]:
    """`parrot(say)`: an engine that answers `say(prompt)`."""

    def make(say: Say, *, chat_tuned: bool = True, context_tokens: int = 4096) -> Engine:
        return Engine(Parrot(say, context_tokens), "parrot", chat_tuned)

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
