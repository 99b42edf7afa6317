"""What a teacher is asked, and whether its answer is the known one.

In: an item of a task file. Out: the question as the teacher reads it, with its choices by letter; the known answer as a
student learns it; and of an answer the rationale, or why there is none. Numbers and words are compared as the
evaluation's tasks compare them.
"""

from __future__ import annotations

import re
import string

from slm.evaluate.tasks.answer import judged, normalised
from slm.evaluate.tasks.layouts import Item

MARK = "####"
_LETTER = re.compile(r"\W*([A-Z])\W*")


def question_of(item: Item) -> str:
    """The question alone, without the words that stand around it in an evaluation's prompt."""
    question = item.prompt.removeprefix("Question: ").removesuffix("\nAnswer:")
    choices = zip(string.ascii_uppercase, item.choices, strict=False)
    return "\n".join([question, *(f"{letter}) {choice.strip()}" for letter, choice in choices)])


def label_of(item: Item) -> str:
    """The known answer."""
    return item.choices[item.gold].strip() if item.choices else item.answers[1]


def rationale_of(item: Item, answer: str) -> tuple[str, str]:
    """The rationale in an answer and nothing; or nothing, and the reason under which it is counted."""
    rationale, mark, said = answer.rpartition(MARK)
    if not answer.strip():
        return "", "no answer"
    if not mark or not said.strip():
        return "", f"no {MARK} with an answer at the end"
    if not is_right(item, said):
        return "", "wrong answer"
    return (rationale.strip(), "") if rationale.strip() else ("", "no reason given")


def is_right(item: Item, said: str) -> bool:
    """Whether what stands after the mark is the known answer: its number, its words, or the letter of its choice."""
    if not item.choices:
        return bool(judged("gsm8k", f"{MARK}{said}", item.answers[1:])["exact_match"])
    if any(normalised(said) == normalised(choice) for choice in item.choices):
        return normalised(said) == normalised(item.choices[item.gold])
    letter = _LETTER.fullmatch(said.partition(")")[0] if ")" in said else said)
    return letter is not None and string.ascii_uppercase.index(letter[1]) == item.gold
