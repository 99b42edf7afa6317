"""Published rows become the prompts that lm-eval's tasks of the same name make; malformed rows are refused."""

from __future__ import annotations

import json
import zlib

import pytest

from slm.core.errors import UserError
from slm.evaluate.tasks.layouts import LAYOUTS

ARC = {
    "question": {
        "stem": "Which is soft?",
        "choices": [{"text": "fur", "label": "A"}, {"text": "a rock", "label": "B"}],
    },
    "answerKey": "A",
}
HELLASWAG = {
    "activity_label": "Pole vault", "ctx_a": "A bar is high. [header] He runs", "ctx_b": "a woman",
    "endings": [" jumps [step] over", "sits  down"], "label": 1,
}  # fmt: skip
XNLI = {"language": "de", "sentence1": "Er schläft. ", "sentence2": "Er ist wach.", "gold_label": "contradiction"}
SQUAD = {
    "context": "Rom liegt in Italien.",
    "qas": [{"id": "q1", "question": "Wo liegt Rom?", "answers": [{"text": "in Italien"}, {"text": "Italien"}]}],
}
ROWS = {
    "query": {"query": "Question: What is wet?", "choices": ["rain", "sand"], "gold": 0},
    "arc": ARC,
    "hellaswag": HELLASWAG,
    "xnli": XNLI,
    "gsm8k": {"question": "Two and 1,000?", "answer": "2 + 1000 = <<2+1000=1002>>1002\n#### 1,002"},
    "squad": SQUAD,
    "humaneval": {"prompt": "def one():\n", "test": "def check(f):\n    assert f() == 1\n", "entry_point": "one"},
    "mbpp": {"text": "Write one.", "test_list": ["assert one() == 1"], "test_setup_code": ""},
    "mt_bench": {"turns": ["Say a.", "Now b."]},
    "text": {"text": "Er schläft."},
}


def only(layout: str, row, language: str = ""):
    (item,) = LAYOUTS[layout](row, "file:1", language)
    return item


def test_choices_are_asked_for_by_their_text():
    item = only("query", ROWS["query"])
    assert (item.prompt, item.choices, item.gold) == ("Question: What is wet?\nAnswer:", (" rain", " sand"), 0)
    item = only("arc", ARC)
    assert (item.prompt, item.choices, item.gold) == ("Question: Which is soft?\nAnswer:", (" fur", " a rock"), 0)
    item = only("hellaswag", HELLASWAG)
    assert item.prompt == "Pole vault: A bar is high. He runs A woman"
    assert (item.choices, item.gold) == ((" jumps over", " sits down"), 1)
    item = only("xnli", XNLI, "de")
    assert item.prompt == "Er schläft., richtig?"
    assert (item.choices[2], item.gold) == (" Nein, Er ist wach.", 2)
    assert list(LAYOUTS["xnli"](XNLI, "file:1", "fr")) == []


def test_answers_and_tests_are_taken_over():
    assert only("gsm8k", ROWS["gsm8k"]).answers[1] == "1002"
    item = only("squad", SQUAD, "de")
    assert item.prompt == "Kontext: Rom liegt in Italien.\n\nFrage: Wo liegt Rom?\n\nAntwort:"
    assert item.answers == (" in Italien", "in Italien", "Italien")
    assert only("humaneval", ROWS["humaneval"]).tests.endswith("check(one)\n")
    assert only("mbpp", ROWS["mbpp"]).tests == "\nassert one() == 1\n"
    assert only("mt_bench", ROWS["mt_bench"]).turns == ("Say a.", "Now b.")
    assert only("text", "Er schläft.").prompt == only("text", ROWS["text"]).prompt == "Er schläft."


@pytest.mark.parametrize(("number", "taken"), [(10, 0), (11, 1), (510, 1), (511, 0)])
def test_of_mbpp_the_test_split_is_taken(number, taken):
    assert len(list(LAYOUTS["mbpp"]({**ROWS["mbpp"], "task_id": number}, "x:1", ""))) == taken


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "text"])
def test_a_row_without_a_field_is_refused_with_its_place(layout):
    for name in ROWS[layout]:
        if name in ("language", "test_setup_code"):
            continue
        row = {key: value for key, value in ROWS[layout].items() if key != name}
        with pytest.raises(UserError, match=rf"^file:1: no field {name} \(it has .*\); correct it, or the layout"):
            list(LAYOUTS[layout](row, "file:1", ""))
    with pytest.raises(UserError, match=r"^file:1: expected an object with the field"):
        list(LAYOUTS[layout](["no", "object"], "file:1", ""))


@pytest.mark.parametrize(
    ("layout", "change"),
    [
        ("query", {"gold": 2}), ("query", {"gold": -1}), ("query", {"gold": "0"}), ("query", {"gold": True}),
        ("arc", {"answerKey": "C"}), ("hellaswag", {"label": ""}), ("xnli", {"gold_label": "-"}),
    ],
)  # fmt: skip
def test_an_answer_outside_the_choices_is_refused(layout, change):
    (name, value) = next(iter(change.items()))
    with pytest.raises(UserError, match=rf"file:1: {name} \({value!r}\) is none of the \d choices; correct it, or rem"):
        list(LAYOUTS[layout]({**ROWS[layout], **change}, "file:1", ""))


@pytest.mark.parametrize(
    ("layout", "change", "sentence"),
    [
        ("query", {"choices": []}, "choices must be a list of texts, found"),
        ("query", {"choices": ["a", 3]}, "choices must be a list of texts, found"),
        ("query", {"query": 7}, "query holds int, not text"),
        ("gsm8k", {"answer": "it is 7"}, "answer has no #### before its number"),
        ("squad", {"qas": [{"question": "?", "answers": []}]}, "a question has no answer"),
    ],
)
def test_other_malformed_rows_are_refused(layout, change, sentence):
    with pytest.raises(UserError, match=f"file:1: {sentence}"):
        list(LAYOUTS[layout]({**ROWS[layout], **change}, "file:1", ""))


def test_a_language_without_words_is_refused():
    with pytest.raises(UserError, match="no words for language xx; known are en, de, es, fr; leave it empty"):
        list(LAYOUTS["squad"](SQUAD, "file:1", "xx"))


def test_prompts_do_not_change_unnoticed():
    made = {name: [[item.prompt, item.choices] for item in LAYOUTS[name](ROWS[name], "x", "")] for name in LAYOUTS}
    assert zlib.crc32(json.dumps(made, sort_keys=True).encode()) == 1092776981
