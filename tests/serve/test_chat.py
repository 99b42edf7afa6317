"""`slm chat` with a model, as a person or a pipe uses it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slm import chat
from slm.core.errors import UserError
from slm.recipe import Recipe
from tests.unmeasured import unmeasured

Captured = pytest.CaptureFixture[str]


def command(runs: Path, overrides: tuple[str, ...], *arguments: str) -> list[str]:
    return [sys.executable, "-m", "slm.chat", *overrides, f"runs_dir={runs}", *arguments]


def talk(recipe: Recipe, lines: bytes, monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8"))
    serve = recipe.serve.model_copy(update={"max_tokens": 6, **settings})
    chat.run(recipe.model_copy(update={"serve": serve}))


def test_piped_lines_are_answered_one_after_the_other(runs: Path, overrides: tuple[str, ...]) -> None:
    done = subprocess.run(
        command(runs, overrides, "max_tokens=6"),
        input=b"import re\n/help\n\ndef f\n/exit\nnever\n",
        capture_output=True,
    )
    errors = done.stderr.decode()
    assert done.returncode == 0, errors
    assert done.stdout.strip()
    assert errors.count("6 generated at") == 2
    assert "this model was not trained on conversations: it continues your text" in errors
    assert "/reset   forget the conversation" in errors


def test_control_c_stops_the_answer_and_then_leaves(runs: Path, overrides: tuple[str, ...]) -> None:
    arguments = command(runs, overrides, "max_tokens=1000")
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env=unmeasured()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"import re\n")
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        said = b""
        while b"generated" not in said:
            line = process.stderr.readline()
            assert line, "it left instead of stopping the answer"
            said += line
        assert b"interrupted" in said
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in said + errors


def test_a_reset_forgets_what_was_said(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    talk(recipe, b"import re\nimport re\n/reset\nimport re\n", monkeypatch)
    printed = capsys.readouterr()
    figures = [line for line in printed.err.splitlines() if "prompt tokens" in line]
    assert figures[0].split(",")[0] == figures[2].split(",")[0] != figures[1].split(",")[0]
    assert "forgotten" in printed.err


def test_a_full_context_is_said_and_the_talk_goes_on(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    talk(recipe, b"import re\n" * 6 + b"~" * 60 + b"\nimport re\n", monkeypatch, context_tokens=40)
    printed = capsys.readouterr().err
    assert "the context is full: the oldest turns are forgotten (1 so far)" in printed
    assert "error: the prompt (61 tokens) must be shorter than the context" in printed
    assert printed.count("6 generated at") == 7


def test_an_unknown_command_is_said_but_a_path_is_a_question(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    talk(recipe, b"/quit\n/usr/bin/env\n", monkeypatch)
    printed = capsys.readouterr().err
    assert "/quit is no command; /help lists them" in printed
    assert printed.count("6 generated at") == 1


def test_a_chat_from_a_gguf_goes_through_its_template(
    recipe: Recipe, places: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    talk(recipe, b"import re\n", monkeypatch, model=places["gguf"], chat_format="template")
    by_llama = capsys.readouterr()
    talk(recipe, b"import re\n", monkeypatch, model=places["hf"], chat_format="template")
    by_torch = capsys.readouterr()
    assert by_llama.out == by_torch.out
    assert (
        by_llama.err.split("prompt tokens")[0].splitlines()[-1]
        == by_torch.err.split("prompt tokens")[0].splitlines()[-1]
    )
    assert "was not trained on conversations" not in by_llama.err


def test_lines_that_are_not_utf8_are_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"standard input is not UTF-8 \(byte 0xff in a line\)"):
        talk(recipe, b"a\xff\n", monkeypatch)
