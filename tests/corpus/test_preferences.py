"""Rows of preferences in three layouts, and what is wrong with those that prefer nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.corpus import Document, read_documents, run
from slm.corpus.config import CorpusConfig, SourceConfig
from slm.corpus.conversations import LABEL, MalformedError, Message, messages_of, rejected_of
from slm.corpus.preferences import with_preference

ASKED, GOOD, BAD = Message("user", "Why?"), Message("assistant", "Since."), Message("assistant", "No.")
TALK = [{"role": "user", "content": "Why?"}]
SINCE, NO = ({"role": "assistant", "content": content} for content in ("Since.", "No."))


def read(layout: str, row: dict[str, Any], **more: Any) -> Document:
    values = {"kind": "jsonl", "path": "x", "licence": "unknown", "conversations": layout, **more}
    config = SourceConfig.model_validate(values)
    return with_preference(config, Document.of(config, "1", ""), row)


@pytest.mark.parametrize(
    ("layout", "row", "more"),
    [
        ("pairs", {"prompt": "Why?", "chosen": " Since.\n", "rejected": "No."}, {}),
        ("pairs", {"prompt": TALK, "chosen": [SINCE], "rejected": [NO]}, {}),
        ("pairs", {"prompt": "Why?", "chosen": [*TALK, SINCE], "rejected": [*TALK, NO]}, {}),
        ("pairs", {"q": "Why?", "a": "Since.", "b": "No."}, {"text_columns": ("q", "a", "b")}),
        ("transcripts", {"chosen": [*TALK, SINCE], "rejected": [*TALK, NO]}, {}),
        ("pairs", {"prompt": "Why?", "chosen": json.dumps([*TALK, SINCE]), "rejected": json.dumps([*TALK, NO])}, {}),
        ("pairs", {"prompt": None, "chosen": [*TALK, SINCE], "rejected": [*TALK, NO]}, {}),
        ("transcripts", {"chosen": json.dumps([*TALK, SINCE]), "rejected": json.dumps([*TALK, NO])}, {}),
        (
            "transcripts",
            {"chosen": "\n\nHuman: Why?\n\nAssistant: Since.", "rejected": "\n\nHuman: Why? \n\nAssistant: No."},
            {},
        ),
    ],
    ids=[
        "texts",
        "lists",
        "whole conversations",
        "renamed",
        "transcripts in lists",
        "lists as JSON",
        "no prompt",
        "transcripts as JSON",
        "hh-rlhf",
    ],
)
def test_each_layout_gives_the_same_pair(layout: str, row: dict[str, Any], more: dict[str, Any]) -> None:
    document = read(layout, row, **more)
    assert messages_of(document) == [ASKED, GOOD]
    assert rejected_of(document) == [ASKED, BAD]
    assert document.text == "Why?\n\nSince.\n\nNo."


def test_a_system_message_that_only_the_prompt_has_is_taken_over() -> None:
    brief = {"role": "system", "content": "Be brief."}
    whole = {"chosen": [*TALK, SINCE], "rejected": [*TALK, NO]}
    for more in (whole, {key: [brief, *told] for key, told in whole.items()}):
        document = read("pairs", {"prompt": [brief, *TALK], **more})
        assert messages_of(document) == [Message("system", "Be brief."), ASKED, GOOD]
        assert rejected_of(document) == [Message("system", "Be brief."), ASKED, BAD]


def test_what_begins_as_a_list_and_is_none_is_text() -> None:
    document = read("pairs", {"prompt": '[{"role": "user"', "chosen": '["role"]', "rejected": "[1]"})
    assert [message.content for message in messages_of(document)] == ['[{"role": "user"', '["role"]']


def test_a_prompt_is_all_turns_before_the_last_answer() -> None:
    told = "\n\nHuman: Hi\n\nAssistant: Ho: Human\n\nHuman: Why?\n\nAssistant: "
    document = read("transcripts", {"chosen": f"{told}Since.", "rejected": f"{told}No."})
    before = [Message("user", "Hi"), Message("assistant", "Ho: Human"), ASKED]
    assert (messages_of(document), rejected_of(document)) == ([*before, GOOD], [*before, BAD])


@pytest.mark.parametrize("label", [True, "true", 1, False, "False", 0, -1, -1.0])
def test_an_answer_may_have_a_label_instead(label: object) -> None:
    document = read("labelled", {"prompt": "Why?", "completion": "Since.", "label": label})
    assert messages_of(document) == [ASKED, GOOD]
    assert rejected_of(document) == []
    assert document.metadata[LABEL] == ("wanted" if label in (True, "true") else "unwanted")


@pytest.mark.parametrize(
    ("layout", "row", "reason", "finding"),
    [
        ("pairs", ("Why?", "", "No."), "empty answer", "message 2, the assistant's, is empty"),
        ("pairs", ("Why?", "Since.", " "), "empty answer", "message 2, the assistant's, is empty"),
        ("pairs", ("Why?", "No.", " No.\n"), "equal answers", "chosen and rejected answers are equal"),
        ("pairs", ("How?", [*TALK, SINCE], [*TALK, NO]), "different prompts", "chosen does not hold what prompt asks"),
        ("pairs", ("", "Since.", "No."), "empty question", "message 1, the user's, is empty"),
        ("pairs", ("Why?", 3, "No."), "not text", "chosen holds int, neither text nor a list"),
        ("pairs", ([SINCE], [SINCE], [NO]), "malformed turns", "turn 1 is the assistant's, not the user's"),
        ("transcripts", ("\n\nHuman: A\n\nAssistant: B", "\n\nHuman: C\n\nAssistant: D"), "different prompts", "dif"),
        ("transcripts", ("\n\nHuman: A\n\nHuman: B", "\n\nHuman: A\n\nHuman: C"), "malformed turns", "turn 2 is the"),
        ("transcripts", ("\n\nHuman: A", "\n\nHuman: A"), "no answer", "the user has the last word"),
        ("transcripts", ("Hello", "\n\nHuman: A"), "no conversation", "chosen does not begin with a turn of Human:"),
        ("labelled", ("Why?", "Since.", "maybe"), "no label", "label is 'maybe', neither true nor false"),
        ("labelled", ("Why?", None, True), "empty answer", "message 2, the assistant's, is empty"),
    ],
)  # fmt: skip
def test_what_prefers_nothing_is_said(layout: str, row: tuple[Any, ...], reason: str, finding: str) -> None:
    columns = {"pairs": ("prompt", "chosen", "rejected"), "transcripts": ("chosen", "rejected")}
    names = columns.get(layout, ("prompt", "completion", "label"))
    with pytest.raises(MalformedError, match=finding) as caught:
        read(layout, dict(zip(names, row, strict=True)))
    assert caught.value.reason == reason


def corpus_of(tmp_path: Path, source: str, *words: str) -> Any:
    return load_recipe(
        "recipe=smoke", f"runs_dir={tmp_path}/runs", f"corpus.sources=[{source}]", "corpus.validation_fraction=0.3",
        "corpus.duplicates.near=false", *words,
    )  # fmt: skip


ROWS = [{"prompt": f"What of {n}?", "chosen": f"It is {n}.", "rejected": f"don{n}â€™t"} for n in range(10)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_bad_rows_are_counted_by_reason_and_both_answers_are_cleaned(tmp_path: Path, kind: str) -> None:
    rows = [*ROWS, {"prompt": "a", "chosen": "b", "rejected": "b"}, {"prompt": "a", "chosen": "", "rejected": "b"}]
    path = tmp_path / f"rows.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    source = f"{{kind: {kind}, path: {path}, conversations: pairs, licence: MIT}}"
    with pytest.raises(UserError, match=r"rows\.\w+.* chosen and rejected answers are equal.*on_bad_text=skip"):
        run(corpus_of(tmp_path, source, "run=strict"))
    made = run(corpus_of(tmp_path, source, "corpus.on_bad_text=skip", "corpus.steps=[{step: unicode}]"))
    assert made is not None
    documents = [document for split in ("train", "validation") for document in read_documents(made, split)]
    assert len(documents) == len(ROWS)
    assert all(rejected_of(document)[-1].content.endswith("’t") for document in documents)
    counted = json.dumps(made.counts)
    for reason in ("equal answers", "empty answer"):
        assert f'"{reason}": 1' in counted


def test_answers_that_cleaning_makes_equal_are_left_out(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "Odd?", "chosen": "it’s", "rejected": "itâ€™s"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = f"{{kind: jsonl, path: {tmp_path}/rows.jsonl, conversations: pairs, licence: MIT}}"
    made = run(corpus_of(tmp_path, source, "corpus.steps=[{step: unicode}]"))
    assert made is not None
    assert '"equal answers": 1' in json.dumps(made.counts)


def test_preferences_and_other_text_are_not_mixed() -> None:
    pairs = {"kind": "jsonl", "path": "x", "licence": "MIT", "conversations": "pairs"}
    with pytest.raises(ValueError, match="neither and pairs cannot lie in the same rows"):
        CorpusConfig.model_validate({"sources": [pairs, {"kind": "stdlib"}]})
    with pytest.raises(ValueError, match="need text_columns in the place of prompt, chosen, rejected"):
        SourceConfig.model_validate({**pairs, "text_columns": ["a", "b"]})
