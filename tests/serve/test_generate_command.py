"""`slm generate` as a person runs it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.generate import read_prompt, run, show
from slm.recipe import Recipe

NASTY = " def f(x={'a': \"${b}\"}, *y):\n\treturn [x, \\' ]"


def standard_input(data: bytes, terminal: bool = False) -> io.TextIOWrapper:
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    return stream


def command(runs: Path, overrides: tuple[str, ...], *arguments: str) -> list[str]:
    return [sys.executable, "-m", "slm.generate", *overrides, f"runs_dir={runs}", *arguments]


def test_any_text_on_the_command_line_is_continued_as_it_stands(
    runs: Path, overrides: tuple[str, ...], recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    done = subprocess.run(
        command(runs, overrides, f"prompt={NASTY}", "max_tokens=12"), capture_output=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr.decode()
    serve = recipe.serve.model_copy(update={"prompt": NASTY, "max_tokens": 12})
    run(recipe.model_copy(update={"serve": serve}))
    assert done.stdout.decode() == capsys.readouterr().out
    assert "12 generated at" in done.stderr.decode()


def test_control_c_ends_a_generation_with_status_130_and_keeps_what_was_said(
    runs: Path, overrides: tuple[str, ...]
) -> None:
    arguments = command(runs, overrides, "prompt=import re", "max_tokens=2000")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        begun = process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(begun) == 8
    assert b"Traceback" not in errors
    assert b"interrupted" in errors
    assert len(rest) < 8000


@pytest.mark.parametrize("place", ["checkpoint", "hf", "gguf"])
def test_the_continuation_alone_goes_to_standard_output(
    recipe: Recipe, places: dict[str, str], place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = recipe.serve.model_copy(update={"prompt": "import re", "model": places[place], "max_tokens": 8})
    outcome = run(recipe.model_copy(update={"serve": serve}))
    printed = capsys.readouterr()
    assert outcome.generated_tokens == 8
    assert printed.out
    assert "generated" not in printed.out
    assert printed.err.startswith(f"{outcome.prompt_tokens} prompt tokens, 8 generated at ")
    assert "tokens/s, cut at its longest, " in printed.err


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


def test_a_run_without_a_checkpoint_is_one_sentence(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"there is no train in .*; make it first"):
        run(load_recipe(*overrides, f"runs_dir={tmp_path}", "serve.prompt=x"))
