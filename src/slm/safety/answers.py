"""A model's answers to many prompts: the likeliest words, asked as a person would ask it.

A model trained on conversations gets each prompt as a turn of its own; another one gets the text and writes on. A
prompt that leaves no room in the context is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slm.core.console import Progress
from slm.safety.config import SafetyConfig
from slm.safety.prompts import Prompt
from slm.serve.config import ServeConfig
from slm.serve.engine import Engine


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to a prompt."""

    prompt: Prompt
    text: str


def settings_of(serve: ServeConfig, config: SafetyConfig) -> ServeConfig:
    """How answers are generated: greedily, so that they are the same next time."""
    fixed = {"temperature": 0.0, "repetition_penalty": 1.0, "stop": (), "max_tokens": config.max_tokens}
    return serve.model_copy(update={**fixed, "threads": config.threads})


def answer_all(engine: Engine, prompts: list[Prompt], settings: ServeConfig) -> tuple[list[Answer], int]:
    """The answers, and how many prompts were too long."""
    answers, too_long = [], 0
    with Progress("safety: answering", len(prompts), "prompts") as progress:
        for prompt in prompts:
            text = reply(engine, "", prompt.text, settings)
            if text is None:
                too_long += 1
            else:
                answers.append(Answer(prompt, text))
            progress.advance()
    return answers, too_long


def reply(engine: Engine, instructions: str, question: str, settings: ServeConfig) -> str | None:
    """What the model says to a question under instructions, if any; None if they leave no room to answer."""
    if engine.chat_tuned is False:
        asked: str | list[dict[str, str]] = "\n".join(filter(None, (instructions, question)))
    else:
        turns: Iterable[tuple[str, str]] = (("system", instructions), ("user", question))
        asked = [{"role": role, "content": content} for role, content in turns if content]
    if len(engine.encode(asked)) >= engine.context_tokens:
        return None
    return "".join(engine.generate(asked, settings))
