"""`slm generate` with a model, as a person runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slm.generate import run
from slm.recipe import Recipe
from tests.unmeasured import unmeasured

NASTY = " def f(x={'a': \"${b}\"}, *y):\n\treturn [x, \\' ]"


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
    variables = {**unmeasured(), "PYTHONFAULTHANDLER": "1"}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as process:
        assert process.stdout is not None
        begun = process.stdout.read(8)
        process.send_signal(signal.SIGINT)
        try:
            rest, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # faulthandler then prints where it stands
            rest, errors = process.communicate()
            pytest.fail(errors.decode())
    assert process.returncode == 130
    assert len(begun) == 8
    assert b"Traceback" not in errors
    assert b"interrupted, " in errors
    assert b"generated at" in errors
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
