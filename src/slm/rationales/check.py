"""What a teacher is asked, and whether its answer is the known one.

In: an item of a task file. Out: the question as the teacher reads it, with its choices by letter; the known answer as a
student learns it; and of an answer the rationale, or why there is none. Numbers are compared as the evaluation's tasks
compare them; choices by their words, in which every sign counts, or by their letter.
"""

from __future__ import annotations

import re
import string

from slm.evaluate.tasks.answer import judged
from slm.evaluate.tasks.layouts import Item

MARK = "####"
THOUGHT = ("<think>", "</think>")
"""What models that think first put around it; no part of the rationale."""
_LETTER = re.compile(r"\W*(?:boxed\W*)?([A-Za-z])(?:\W*|[).:\]}]+\s+(.*))", re.DOTALL)
_NUMBER = re.compile(
    r"[\s*_`\"'(\[{\\$€£]*(?:boxed\{)?[-+]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?[\s%°*]*(?P<unit>[^\W\d_]*)"
    r"(?:[ -][^\W\d_]+)*[\s%*_`\"')\]}$.!]*"
)
"""One number alone, with a currency before it or a unit behind; no calculation, fraction or time of day."""
_MAGNITUDES = {"hundred", "thousand", "million", "billion", "trillion", "dozen", "k", "mn", "bn", "e"}
_ARTICLE = re.compile(r"(?:a|an|the)\s+(?=\w)")


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
    answer = answer.rpartition(THOUGHT[1])[2]
    if THOUGHT[0] in answer:
        return "", "a thought without an end"
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
        number = _NUMBER.fullmatch(said.strip().splitlines()[0].strip())
        if number is None or (number["unit"] or "").casefold() in _MAGNITUDES:
            return False
        return bool(judged("gsm8k", f"{MARK}{said}", item.answers[1:])["exact_match"])
    told = _choice(item, said)
    if told is None and (letter := _LETTER.fullmatch(said.strip())):
        told = _choice(item, letter[2]) if letter[2] else None
        told = string.ascii_uppercase.index(letter[1].upper()) if told is None else told
    return told == item.gold


def _choice(item: Item, said: str) -> int | None:
    """The one choice that these are the words of; None where it is none, or more than one."""
    for same in (_collapsed, _bare):
        choices = [same(choice) for choice in item.choices]
        if same(said) and choices.count(same(said)) == 1:
            return choices.index(same(said))
    return None


def _collapsed(text: str) -> str:
    return " ".join(text.split()).casefold()


def _bare(text: str) -> str:
    """The words without an article before and marks around them; signs, points and units are part of them."""
    return _ARTICLE.sub("", _collapsed(text).lstrip("\"'`*").rstrip(".,;:?\"'`*"), count=1)
