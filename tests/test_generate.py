"""`slm generate` up to where a model is needed."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.generate import figures, read_prompt, run, show
from slm.serve.engine import Outcome


def standard_input(data: bytes, terminal: bool = False) -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    return stream


def test_a_prompt_comes_from_the_argument_or_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, piped, expected in (
        ("typed", b"piped", "typed"), ("", b"piped", ""), ("-", b"piped\n", "piped\n"), (None, "é".encode(), "é"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "stdin", standard_input(piped))
        assert read_prompt(given) == expected


def test_no_prompt_at_a_terminal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", standard_input(b"", terminal=True))
    with pytest.raises(UserError, match=r"serve.prompt is not set and nothing is piped in; give prompt=TEXT"):
        read_prompt(None)


def test_standard_input_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", standard_input(b"ab\xff"))
    with pytest.raises(UserError, match=r"standard input is not UTF-8 \(byte 0xff at offset 2\)"):
        read_prompt("-")


def test_a_terminal_without_a_character_shows_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    show("é😀\n")
    assert stream.buffer.getvalue() == b"\xe9?\n"  # type: ignore[attr-defined]


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no train in .*; make it with the same settings"):
        run(load_recipe("recipe=smoke", f"runs_dir={tmp_path}", "serve.prompt=x"))


def test_figures_say_how_many_how_fast_and_why_it_ended() -> None:
    outcome = Outcome(prompt_tokens=7, generated_tokens=30, finish_reason="stop", seconds=2.0)
    assert figures(outcome) == "7 prompt tokens, 30 generated at 15.0 tokens/s, ended"
    assert figures(Outcome(1)) == "1 prompt tokens, 0 generated at 0.0 tokens/s, interrupted"
