"""How `slm chat` reads lines."""

from __future__ import annotations

import io
import sys

import pytest

from slm import chat


def test_a_terminal_gets_a_prompt_and_control_d_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8")
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stream)
    monkeypatch.setattr("builtins.input", lambda prompt: f"typed after {prompt}")
    assert chat.read_line() == "typed after > "

    def end(prompt: str) -> str:
        raise EOFError(prompt)

    monkeypatch.setattr("builtins.input", end)
    assert chat.read_line() is None

    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt(prompt)

    monkeypatch.setattr("builtins.input", interrupt)
    with pytest.raises(SystemExit) as left:
        chat.read_line()
    assert left.value.code == 130
