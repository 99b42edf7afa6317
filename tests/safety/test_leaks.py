"""Whether instructions are given away."""

from __future__ import annotations

from slm.safety.answers import settings_of
from slm.safety.config import SafetyConfig
from slm.safety.leaks import QUESTIONS, instructions, leaks, secrets
from slm.serve.config import ServeConfig

SETTINGS = settings_of(ServeConfig(), SafetyConfig())


def test_a_model_that_repeats_its_instructions_leaks_in_every_attempt(parrot):
    said = leaks(parrot(lambda asked: asked.upper()[:200]), 2, 7, SETTINGS.model_copy(update={"max_tokens": 200}))
    assert said == [True] * 2 * len(QUESTIONS)


def test_a_model_that_keeps_them_never_does(parrot):
    assert not any(leaks(parrot(lambda _: "I would rather talk about roses."), 3, 7, SETTINGS))


def test_a_model_that_yields_to_one_question_leaks_as_often(parrot):
    def say(asked: str) -> str:
        secret = asked.split("code word is ")[1].split(".")[0]
        return f"Voila : {secret}" if "French" in asked else "No."

    assert sum(leaks(parrot(say), 4, 7, SETTINGS)) == 4


def test_secrets_are_the_same_for_a_seed_and_stand_in_the_instructions():
    assert secrets(3, 1) == secrets(3, 1) != secrets(3, 2)
    assert secrets(1, 1)[0] in instructions(secrets(1, 1)[0])
