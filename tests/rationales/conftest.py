"""Questions with known answers, a vocabulary, and servers that answer them."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from slm.recipe import Recipe
from slm.serve import openai_client
from tests.chat_server import ChatServer
from tests.tiny_run import tiny_recipe, train, write_source

ADDED = re.compile(r"(\d+) and (\d+)\?")
ITEMS = 12


def solved(request: dict[str, Any]) -> str:
    """A right answer to a question of `questions`, in words of its own."""
    one, other = map(int, ADDED.search(request["messages"][-1]["content"]).groups())
    return f"{one} with {other} makes {one + other}.\n#### {one + other}"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run with a checkpoint, which is a teacher that knows nothing, and its vocabulary."""
    base = tmp_path_factory.mktemp("rationales")
    draw = random.Random(0)
    words = ["".join(draw.choices(string.ascii_letters, k=draw.randint(2, 7))) for _ in range(80)]
    texts = [f"{n} and {n + 7}? {' '.join(draw.choices(words, k=20))} makes {2 * n + 7}.\n####" for n in range(200)]
    return train(tiny_recipe(base, [write_source(base, "sums", texts)], "teacher", train={"tokens": 1024}))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    rows = [{"question": f"{n} and {n * n}?", "answer": f"#### {n + n * n}"} for n in range(ITEMS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setattr(openai_client, "FIRST_WAIT_SECONDS", 0.01)
    made = ChatServer(solved)
    yield made
    made.close()


@pytest.fixture
def asking(tmp_path: Path, trained: Recipe, questions: Path, server: ChatServer) -> Callable[..., Recipe]:
    """Recipes that ask the server, one question at a time unless they say otherwise."""

    def build(run: str = "asked", **settings: Any) -> Recipe:
        items = [{"name": "sums", "layout": "gsm8k", "path": str(questions)}]
        known = {"items": items, "server": {"url": server.url, "model": "adder"}, "parallel": 1, "max_tokens": 200}
        tokenizer = {"tokenizer": str(trained.folder("tokenizer"))}
        return tiny_recipe(tmp_path, [], run, corpus={"sources": [{"kind": "stdlib"}]}, artifacts=tokenizer,
                           rationales={**known, **settings})  # fmt: skip

    return build
