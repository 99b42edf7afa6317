"""`python -m slm.generate recipe=NAME prompt=TEXT`: the model continues a prompt, as it comes.

The prompt is the argument exactly as typed, or standard input where it is `-` or something is piped in.
The continuation alone goes to standard output; the model's name and the figures go to standard error.
Ctrl-C ends it with status 130.
"""

from __future__ import annotations

import io
import sys

from slm.compose import command
from slm.core.errors import EXIT_INTERRUPTED, UserError
from slm.recipe import Recipe
from slm.serve.engine import Engine, Outcome

SHORTCUTS = {
    name: f"serve.{name}"
    for name in (
        "prompt", "model", "adapter", "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
        "stop", "seed", "threads", "kv_cache",
    )
}  # fmt: skip


def run(recipe: Recipe) -> Outcome:
    """Print the continuation of the recipe's prompt; returns its figures."""
    prompt = read_prompt(recipe.serve.prompt)
    with Engine.open(recipe.serve.model, recipe) as engine:
        generation = engine.generate(prompt, recipe.serve)
        try:
            for piece in generation:
                show(piece)
        except KeyboardInterrupt:
            generation.close()
        if sys.stdout.isatty():
            print(flush=True)
        print(f"{figures(generation.outcome)}, {engine.name}", file=sys.stderr, flush=True)
    if generation.outcome.finish_reason == "interrupted":
        sys.exit(EXIT_INTERRUPTED)
    return generation.outcome


def read_prompt(given: str | None) -> str:
    """The prompt that was given, or what standard input holds."""
    if given is not None and given != "-":
        return given
    if given is None and sys.stdin.isatty():
        raise UserError(
            "serve.prompt is not set and nothing is piped in; give prompt=TEXT (prompt= starts from nothing)"
        )
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start}); convert it to UTF-8"
        ) from error


def show(piece: str) -> None:
    """Print a piece of an answer at once; a terminal that lacks a character gets a question mark."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")
    sys.stdout.write(piece)
    sys.stdout.flush()


def figures(outcome: Outcome) -> str:
    """One line about an answer."""
    ended = {"stop": "ended", "length": "cut at its longest", "interrupted": "interrupted"}[outcome.finish_reason]
    return (
        f"{outcome.prompt_tokens} prompt tokens, {outcome.generated_tokens} generated at "
        f"{outcome.tokens_per_second:.1f} tokens/s, {ended}"
    )


def main() -> None:
    """Continue a prompt."""
    command("generate", run, SHORTCUTS)


if __name__ == "__main__":
    main()
