"""A conversation that fits its context: turns in, the next prompt out.

A model trained on conversations gets them through its chat template. A base model never saw the
template's markers, so it gets plain text instead: what was typed and what it wrote, one after the other,
and it writes on from the end. Where turns and room for an answer (`max_tokens`, at most half of the
context) do not fit, the oldest turns are dropped, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from slm.core.errors import UserError
from slm.serve.config import ServeConfig
from slm.serve.engine import Engine, Generation

PLAIN_NOTICE = (
    "this model was not trained on conversations: it continues your text (chat_format=template sends turns anyway)"
)


@dataclass(slots=True)
class Turn:
    """What was typed and what was answered."""

    question: str
    answer: str


@dataclass(slots=True)
class Conversation:
    """The turns so far. `dropped` counts those that no longer fit."""

    engine: Engine
    settings: ServeConfig
    turns: list[Turn] = field(default_factory=list)
    dropped: int = 0

    def __post_init__(self) -> None:
        if self.settings.chat_format == "template" and not self.engine.has_template:
            raise UserError(
                f"serve.chat_format (template) needs a chat template, but {self.engine.name} has none; use plain"
            )

    @property
    def plain(self) -> bool:
        """True if turns are sent as plain text."""
        if self.settings.chat_format == "auto":
            return self.engine.chat_tuned is False
        return self.settings.chat_format == "plain"

    def ask(self, question: str) -> Generation:
        """Start the answer to `question`; `UserError` if the question alone is too long, and nothing is forgotten."""
        before = list(self.turns), self.dropped
        self.turns.append(Turn(question, ""))
        try:
            self._make_room()
            return self.engine.generate(self._prompt(), self.settings)
        except UserError:
            self.turns, self.dropped = before
            raise

    def record(self, answer: str) -> None:
        """Keep what was answered to the last question, whole or broken off."""
        self.turns[-1].answer = answer

    def reset(self) -> None:
        """Forget everything."""
        self.turns.clear()
        self.dropped = 0

    def _make_room(self) -> None:
        context = self.engine.context_tokens
        room = min(self.settings.max_tokens, context // 2)
        while len(self.turns) > 1 and len(self.engine.encode(self._prompt())) + room > context:
            del self.turns[0]
            self.dropped += 1

    def _prompt(self) -> str | list[dict[str, str]]:
        if not self.plain:
            messages = []
            for turn in self.turns:
                messages.append({"role": "user", "content": turn.question})
                messages.append({"role": "assistant", "content": turn.answer})
            return messages[:-1]
        text = ""
        for turn in self.turns:
            text += "\n" if text and not text.endswith("\n") else ""
            text += turn.question + turn.answer
        return text
