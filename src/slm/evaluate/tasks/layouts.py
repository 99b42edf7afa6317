"""Task files as published to items: pure functions of one row, in the cloze form that small models need.

In: rows of a file. Out: `Item`s with the prompt as the model sees it. A choice is asked for by its text and not by its
letter: models below about a billion parameters are at chance on letters (OLMES, arXiv 2406.08446). Prompts follow
lm-eval 0.4.13's tasks of the same name, so that scores can be laid beside it: "Question: ...\nAnswer:" of arc_easy,
hellaswag's cleaned captions, xnli's "premise, right? Yes, hypothesis", xquad's words in the item's language. A row
that lacks a field, or whose answer is none of its choices, is refused with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from slm.core.errors import UserError


@dataclass(frozen=True, slots=True)
class Item:
    """One item, before it has an id."""

    prompt: str
    choices: tuple[str, ...] = ()
    """Continuations to choose from, each with its leading space."""
    gold: int = -1
    """The right one of them."""
    answers: tuple[str, ...] = ()
    """Answers that count as right, the first as it stands in an example."""
    tests: str = ""
    """Code: what is run after the program."""
    turns: tuple[str, ...] = ()
    """Open questions: what the person says, turn by turn."""
    fields: dict[str, Any] | None = None
    """The row, for the field that names the item."""


Reader = Callable[[Any, str, str], Iterator[Item]]
"""A row, its place and the language, to items."""

LANGUAGES = {
    "": ("Context", "Question", "Answer", "right", "Yes", "Also", "No"),
    "en": ("Context", "Question", "Answer", "right", "Yes", "Also", "No"),
    "de": ("Kontext", "Frage", "Antwort", "richtig", "Ja", "Auch", "Nein"),
    "es": ("Contexto", "Pregunta", "Respuesta", "correcto", "Sí", "Así que", "No"),
    "fr": ("Contexte", "Question", "Réponse", "correct", "Oui", "Aussi", "Non"),
}
"""The words of squad and xnli: context, question, answer; right?; entailment, neutral, contradiction."""
XNLI_LABELS = ("entailment", "neutral", "contradiction")


def query(row: Any, place: str, language: str) -> Iterator[Item]:
    """llm-foundry's form of multiple choice: `query`, `choices`, `gold`; its ARC queries begin with Question."""
    del language
    prompt, choices = text(row, "query", place), listed(row, "choices", place)
    prompt += "\nAnswer:" if prompt.startswith("Question:") else ""
    yield Item(prompt, spaced(choices), within(row, "gold", field(row, "gold", place), choices, place), fields=row)


def arc(row: Any, place: str, language: str) -> Iterator[Item]:
    """AI2's own form: `question` with `stem` and labelled `choices`, and `answerKey`."""
    del language
    question, key = field(row, "question", place), text(row, "answerKey", place)
    options = field(question, "choices", place)
    choices = [text(option, "text", place) for option in options]
    labels = [text(option, "label", place) for option in options]
    gold = labels.index(key) if key in labels else key
    yield Item(
        f"Question: {text(question, 'stem', place)}\nAnswer:",
        spaced(choices),
        within(row, "answerKey", gold, choices, place),
        fields=row,
    )


def hellaswag(row: Any, place: str, language: str) -> Iterator[Item]:
    """`activity_label`, `ctx_a`, `ctx_b`, `endings`, `label`; remains of the captions' markup are taken out."""
    del language
    context = f"{text(row, 'ctx_a', place)} {text(row, 'ctx_b', place).capitalize()}"
    endings = listed(row, "endings", place)
    label = field(row, "label", place)
    gold = int(label) if isinstance(label, str) and label.isdigit() else label
    yield Item(
        _without_markup(f"{text(row, 'activity_label', place)}: {context}"),
        spaced([_without_markup(ending) for ending in endings]),
        within(row, "label", gold, endings, place),
        fields=row,
    )


def _without_markup(caption: str) -> str:
    cleaned = caption.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", cleaned).replace("  ", " ")


def xnli(row: Any, place: str, language: str) -> Iterator[Item]:
    """XNLI 1.0's `sentence1`, `sentence2`, `gold_label` (and `language`, of which others are passed over)."""
    if language and isinstance(row, dict) and row.get("language", language) != language:
        return
    *_, right, yes, also, no = words_of(language, place)
    premise, hypothesis = text(row, "sentence1", place).strip(), text(row, "sentence2", place).strip()
    label = text(row, "gold_label", place)
    gold = XNLI_LABELS.index(label) if label in XNLI_LABELS else label
    choices = [f"{word}, {hypothesis}" for word in (yes, also, no)]
    yield Item(f"{premise}, {right}?", spaced(choices), within(row, "gold_label", gold, XNLI_LABELS, place), fields=row)


def gsm8k(row: Any, place: str, language: str) -> Iterator[Item]:
    """`question` and `answer`, whose number stands after ####."""
    del language
    answer = text(row, "answer", place)
    number = answer.rpartition("####")[2].strip().replace(",", "")
    if "####" not in answer or not number:
        raise UserError(f"{place}: answer has no #### before its number; correct the line")
    yield Item(f"Question: {text(row, 'question', place)}\nAnswer:", answers=(f" {answer}", number), fields=row)


def squad(row: Any, place: str, language: str) -> Iterator[Item]:
    """A paragraph of SQuAD or XQuAD: `context` and `qas` with `question` and `answers`."""
    context_word, question_word, answer_word, *_ = words_of(language, place)
    context = text(row, "context", place)
    for one in field(row, "qas", place):
        found = [text(answer, "text", place) for answer in field(one, "answers", place)]
        if not found:
            raise UserError(f"{place}: a question has no answer; remove it")
        question = text(one, "question", place)
        prompt = f"{context_word}: {context}\n\n{question_word}: {question}\n\n{answer_word}:"
        yield Item(prompt, answers=(f" {found[0]}", *dict.fromkeys(found)), fields=one)


def humaneval(row: Any, place: str, language: str) -> Iterator[Item]:
    """`prompt`, `test`, `entry_point`."""
    del language
    tests = f"{text(row, 'test', place)}\ncheck({text(row, 'entry_point', place)})\n"
    yield Item(text(row, "prompt", place), tests=tests, fields=row)


def mbpp(row: Any, place: str, language: str) -> Iterator[Item]:
    """`text` and `test_list`; the prompt is the task with its tests, as the paper's (arXiv 2108.07732). Of the whole
    set only the paper's test split is taken, `task_id` 11 to 510."""
    del language
    tests = listed(row, "test_list", place)
    if row.get("task_id", MBPP_TEST.start) not in MBPP_TEST:
        return
    prompt = (
        f"You are an expert Python programmer, and here is your task: {text(row, 'text', place)} "
        "Your code should pass these tests:\n\n" + "\n".join(tests) + "\n[BEGIN]\n"
    )
    setup = row.get("test_setup_code") or ""
    yield Item(prompt, tests="\n".join([setup, *tests, ""]), fields=row)


def mt_bench(row: Any, place: str, language: str) -> Iterator[Item]:
    """`turns`; the prompt is the first."""
    del language
    turns = listed(row, "turns", place)
    yield Item(turns[0], turns=tuple(turns), fields=row)


def documents(row: Any, place: str, language: str) -> Iterator[Item]:
    """A line of text, or a row's `text`."""
    del language
    yield Item(row, fields={}) if isinstance(row, str) else Item(text(row, "text", place), fields=row)


MBPP_TEST = range(11, 511)

LAYOUTS: dict[str, Reader] = {
    "query": query, "arc": arc, "hellaswag": hellaswag, "xnli": xnli, "gsm8k": gsm8k, "squad": squad,
    "humaneval": humaneval, "mbpp": mbpp, "mt_bench": mt_bench, "text": documents,
}  # fmt: skip


def spaced(choices: list[str]) -> tuple[str, ...]:
    """Each with the space that stands between it and the prompt."""
    return tuple(f" {choice}" for choice in choices)


def words_of(language: str, place: str) -> tuple[str, ...]:
    """The words for a language; `UserError` where there are none."""
    if language not in LANGUAGES:
        known = ", ".join(filter(None, LANGUAGES))
        raise UserError(f"{place}: no words for language {language}; known are {known}; leave it empty for English")
    return LANGUAGES[language]


def field(row: Any, name: str, place: str) -> Any:
    """What a row holds under a name; `UserError` where it holds nothing."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: expected an object with the field {name}, found {type(row).__name__}; correct it")
    if name not in row:
        raise UserError(f"{place}: no field {name} (it has {', '.join(map(str, row))}); correct it, or the layout")
    return row[name]


def text(row: Any, name: str, place: str) -> str:
    """A field that holds text."""
    value = field(row, name, place)
    if not isinstance(value, str):
        raise UserError(f"{place}: {name} holds {type(value).__name__}, not text; correct it, or the layout")
    return value


def listed(row: Any, name: str, place: str) -> list[str]:
    """A field that holds a list of texts, at least one."""
    value = field(row, name, place)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise UserError(f"{place}: {name} must be a list of texts, found {str(value)[:60]}; correct it, or the layout")
    return value


def within(row: Any, name: str, gold: Any, choices: Any, place: str) -> int:
    """The number of the right choice, refused where there is no such choice."""
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(choices):
        raise UserError(
            f"{place}: {name} ({row[name]!r}) is none of the {len(choices)} choices; correct it, or remove the item"
        )
    return gold
