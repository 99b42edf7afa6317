"""`python -m slm.chat recipe=NAME`: talk to a model, line by line.

Lines come from the terminal (with editing and history) or from a pipe. Answers go to standard output as
they come, everything else to standard error. Ctrl-C stops an answer, and leaves at the prompt; Ctrl-D
leaves. A base model continues the text instead of answering (see `serve/conversation.py`).
"""

from __future__ import annotations

import contextlib
import sys

from slm.compose import command
from slm.core.errors import EXIT_INTERRUPTED, UserError
from slm.generate import SHORTCUTS, figures, show
from slm.recipe import Recipe
from slm.serve.conversation import PLAIN_NOTICE, Conversation
from slm.serve.engine import Engine

HELP = """/reset   forget the conversation
/adapter FOLDER   put another adapter beside the model; without FOLDER none
/exit    leave (or Ctrl-D)
/help    this text
Ctrl-C   stop an answer; at the prompt, leave
Settings are given at the start, such as: slm chat recipe=NAME temperature=0.5 max_tokens=200"""
PROMPT = "> "


def run(recipe: Recipe) -> None:
    """Talk until the person leaves."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (importing it gives input() line editing and history)
    with Engine.open(recipe.serve.model, recipe) as engine:
        conversation = Conversation(engine, recipe.serve)
        notice(f"{engine.name}, {engine.context_tokens:,} tokens of context; /help for help")
        if conversation.plain:
            notice(PLAIN_NOTICE)
        while (line := read_line()) is not None and converse(conversation, line):
            pass


def converse(conversation: Conversation, line: str) -> bool:
    """Obey or answer one line; False if it asks to leave."""
    word = line.strip()
    if word == "/exit":
        return False
    if word == "/reset":
        conversation.reset()
        notice("forgotten")
    elif word == "/help":
        notice(HELP)
    elif word.split(maxsplit=1)[:1] == ["/adapter"]:
        change_adapter(conversation.engine, word.removeprefix("/adapter").strip())
    elif word.startswith("/") and " " not in word and word[1:].isalpha():
        notice(f"{word} is no command; /help lists them")
    elif word:
        answer(conversation, line)
    return True


def change_adapter(engine: Engine, folder: str) -> None:
    """Put another adapter beside the model; what cannot be put there leaves all as it was."""
    try:
        engine.adapt(folder)
        notice(f"answers come from {engine.name}" + (f" with {folder}" if folder else ""))
    except UserError as error:
        notice(f"error: {error}")


def answer(conversation: Conversation, question: str) -> None:
    """Print the answer to one question as it comes, and remember it."""
    dropped = conversation.dropped
    try:
        generation = conversation.ask(question)
    except UserError as error:
        notice(f"error: {error}")
        return
    if conversation.dropped > dropped:
        notice(f"the context is full: the oldest turns are forgotten ({conversation.dropped} so far)")
    pieces: list[str] = []
    try:
        for piece in generation:
            pieces.append(piece)
            show(piece)
    except KeyboardInterrupt:
        generation.close()
    print(flush=True)
    conversation.record("".join(pieces))
    notice(f"({figures(generation.outcome)})")


def read_line() -> str | None:
    """The next line without its end; None where input ends. Ctrl-C leaves the program."""
    try:
        if sys.stdin.isatty():
            return input(PROMPT)
        data = sys.stdin.buffer.readline()
    except EOFError:
        notice("")
        return None
    except KeyboardInterrupt:
        notice("")
        sys.exit(EXIT_INTERRUPTED)
    try:
        return data.decode("utf-8").rstrip("\r\n") if data else None
    except UnicodeDecodeError as error:
        raise UserError(
            f"standard input is not UTF-8 (byte 0x{data[error.start]:02x} in a line); convert it to UTF-8"
        ) from error


def notice(text: str) -> None:
    """Something that is not part of an answer."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Talk to a model."""
    command("chat", run, SHORTCUTS)


if __name__ == "__main__":
    main()
