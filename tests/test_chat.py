"""How `slm chat` reads lines."""

from __future__ import annotations

import io
import sys

import pytest

from slm import chat
from slm.core.errors import UserError
from slm.serve.conversation import Conversation


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


def test_an_adapter_is_put_beside_the_model_and_taken_off_by_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    class Adapted:
        name = "base"

        def __init__(self) -> None:
            self.folders: list[str] = []

        def adapt(self, folder: str) -> None:
            if folder == "none here":
                raise UserError("there is no adapter")
            self.folders.append(folder)

    engine = Adapted()
    conversation = Conversation.__new__(Conversation)
    conversation.engine = engine  # type: ignore[assignment]
    for line in ("/adapter runs/one two", "/adapter none here", "/adapter"):
        assert chat.converse(conversation, line)
    assert engine.folders == ["runs/one two", ""]
    told = capsys.readouterr().err.splitlines()
    assert told == ["answers come from base with runs/one two", "error: there is no adapter", "answers come from base"]
