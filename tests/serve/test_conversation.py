"""A conversation in a context that fills up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slm.core.errors import UserError
from slm.recipe import Recipe
from slm.serve.config import ServeConfig
from slm.serve.conversation import Conversation
from slm.serve.engine import Engine

Scripts = Callable[..., Engine]


def prompt_of(conversation: Conversation) -> str | list[dict[str, str]]:
    return conversation._prompt()


def settings(recipe: Recipe, **changes: object) -> ServeConfig:
    return recipe.serve.model_copy(update={"max_tokens": 4, **changes})


def test_a_base_model_continues_plain_text(scripted: Scripts, recipe: Recipe) -> None:
    conversation = Conversation(scripted("xy"), settings(recipe))
    assert conversation.plain
    conversation.ask("def main():")
    conversation.record("\n    pass")
    conversation.ask("next")
    assert prompt_of(conversation) == "def main():\n    pass\nnext"


def test_a_chat_model_gets_its_template(scripted: Scripts, recipe: Recipe) -> None:
    engine = scripted("xy")
    engine.chat_tuned = True
    conversation = Conversation(engine, settings(recipe))
    conversation.ask("one")
    conversation.record("1")
    conversation.ask("two")
    assert prompt_of(conversation) == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]


@pytest.mark.parametrize(
    ("chat_format", "tuned", "plain"),
    [("auto", None, False), ("auto", False, True), ("template", False, False), ("plain", True, True)],
)
def test_the_format_can_be_forced(
    scripted: Scripts, recipe: Recipe, chat_format: str, tuned: bool | None, plain: bool
) -> None:
    engine = scripted("xy")
    engine.chat_tuned = tuned
    assert Conversation(engine, settings(recipe, chat_format=chat_format)).plain is plain


def test_a_template_that_is_not_there_cannot_be_forced(scripted: Scripts, recipe: Recipe) -> None:
    engine = scripted("xy")
    engine.has_template = False
    with pytest.raises(UserError, match=r"serve.chat_format \(template\) needs a chat template, but script has none"):
        Conversation(engine, settings(recipe, chat_format="template"))


@pytest.mark.parametrize("chat_format", ["template", "plain"])
def test_old_turns_make_room_and_are_counted(scripted: Scripts, recipe: Recipe, chat_format: str) -> None:
    engine = scripted("xy", context_tokens=64)
    conversation = Conversation(engine, settings(recipe, chat_format=chat_format, max_tokens=8))
    for number in range(12):
        generation = conversation.ask(f"question {number}")
        conversation.record("".join(generation))
        assert generation.outcome.generated_tokens == 8
        assert generation.outcome.prompt_tokens + 8 <= 64
        assert conversation.dropped + len(conversation.turns) == number + 1
    assert conversation.dropped > 5
    assert conversation.turns[-1].question == "question 11"
    conversation.reset()
    assert (conversation.turns, conversation.dropped) == ([], 0)


def test_a_question_that_alone_is_too_long_is_refused_and_not_remembered(scripted: Scripts, recipe: Recipe) -> None:
    conversation = Conversation(scripted("xy", context_tokens=32), settings(recipe))
    with pytest.raises(UserError, match="must be shorter than the context of script"):
        conversation.ask("~" * 40)
    assert conversation.turns == []
    assert "".join(conversation.ask("short"))
    conversation.record("xy")
    with pytest.raises(UserError, match="must be shorter than the context of script"):
        conversation.ask("~" * 40)
    assert [turn.question for turn in conversation.turns] == ["short"]
    assert conversation.dropped == 0


def test_half_of_the_context_is_the_most_that_is_kept_for_an_answer(scripted: Scripts, recipe: Recipe) -> None:
    conversation = Conversation(scripted("xy", context_tokens=32), settings(recipe, max_tokens=1000))
    conversation.ask("a")
    conversation.record("b")
    conversation.ask("c")
    assert conversation.dropped == 0
