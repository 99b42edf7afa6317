"""How a model is asked."""

from __future__ import annotations

from slm.safety.answers import answer_all, reply, settings_of
from slm.safety.config import SafetyConfig
from slm.safety.prompts import Prompt
from slm.serve.config import ServeConfig

SETTINGS = settings_of(ServeConfig(temperature=0.8, stop=("\n",), max_tokens=500), SafetyConfig(max_tokens=9))


def test_answers_are_greedy_and_short():
    assert (SETTINGS.temperature, SETTINGS.max_tokens, SETTINGS.stop) == (0.0, 9, ())


def test_a_model_of_conversations_gets_turns_and_another_one_text(parrot):
    engine = parrot(lambda asked: asked)
    reply(engine, "Be kind.", "Who are you?", SETTINGS)
    reply(engine, "", "Who are you?", SETTINGS)
    assert engine.backend.asked == ["<system>Be kind.\n<user>Who are you?\n", "<user>Who are you?\n"]
    plain = parrot(lambda asked: asked, chat_tuned=False)
    assert reply(plain, "Be kind.", "Who are you?", SETTINGS) == "Be kind.\n"[:9]
    assert plain.backend.asked == ["Be kind.\nWho are you?"]


def test_prompts_without_room_for_an_answer_are_counted(parrot):
    engine = parrot(lambda _: "yes", chat_tuned=False, context_tokens=10)
    prompts = [Prompt("x", number, "a" * length) for number, length in enumerate((3, 10, 30, 9))]
    answers, too_long = answer_all(engine, prompts, SETTINGS)
    assert [(one.prompt.id, one.text) for one in answers] == [(0, "yes"), (3, "y")]
    assert too_long == 2
