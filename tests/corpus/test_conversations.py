"""Rows of instruction data in four layouts, and what is wrong with those that are no conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slm.compose import load_recipe
from slm.core.errors import UserError
from slm.corpus import read_documents, run
from slm.corpus.config import CorpusConfig, SourceConfig
from slm.corpus.conversations import (
    MalformedError,
    Message,
    listed_messages,
    messages_of,
    read_messages,
    with_messages,
)
from slm.corpus.document import Document
from tests.corpus.cleaning.running import cleaner
from tests.corpus.cleaning.running import document as document_of

OPENAI = [{"role": "user", "content": " What is it?\n"}, {"role": "assistant", "content": "A house."}]
SHAREGPT = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A house."}]
ASKED, SAID = Message("user", "What is it?"), Message("assistant", "A house.")


def source(kind: str, **more: Any) -> SourceConfig:
    return SourceConfig.model_validate(
        {"kind": "jsonl", "path": "x", "licence": "unknown", "conversations": kind, **more}
    )


@pytest.mark.parametrize(
    ("layout", "row", "more"),
    [
        ("openai", {"messages": OPENAI}, {}),
        ("sharegpt", {"conversations": SHAREGPT}, {}),
        ("openai", {"talk": json.dumps(OPENAI)}, {"text_columns": ("talk",)}),
        ("alpaca", {"instruction": "What is it?", "input": "", "output": "A house."}, {}),
        ("prompt_completion", {"prompt": "What is it?", "completion": " A house."}, {}),
    ],
    ids=["openai", "sharegpt", "JSON in a column", "alpaca", "prompt and completion"],
)  # fmt: skip
def test_each_layout_gives_the_same_messages(layout: str, row: dict[str, Any], more: dict[str, Any]) -> None:
    assert read_messages(source(layout, **more), row) == [ASKED, SAID]


def test_an_input_stands_below_its_instruction() -> None:
    row = {"instruction": "Sum up.", "input": "A long text.", "output": "Text."}
    assert read_messages(source("alpaca"), row)[0].content == "Sum up.\n\nA long text."


def test_an_answer_of_weight_0_is_read_and_not_learned() -> None:
    turns = [*SHAREGPT, *SHAREGPT]
    unlearned = [turns[0], {**turns[1], "weight": 0}, turns[2], {**turns[3], "weight": None}]
    found = read_messages(source("sharegpt"), {"conversations": unlearned})
    assert [message.weight for message in found] == [1, 0, 1, 1]
    document = with_messages(document_of(""), found)
    assert messages_of(document) == found
    cleaned = cleaner({"step": "unicode"})(document)
    assert isinstance(cleaned, Document)
    assert messages_of(cleaned) == found
    assert document.metadata["messages"].count("weight") == 1
    chosen = listed_messages([{"role": "assistant", "content": "a", "weight": 0}], "chosen")
    assert chosen == [Message("assistant", "a")], "of a pair both answers count"


def test_a_system_message_that_is_empty_is_none() -> None:
    for role in ("system", "developer"):
        silent = {"messages": [{"role": role, "content": " "}, *OPENAI]}
        assert read_messages(source("openai"), silent) == [ASKED, SAID]
    told = {"messages": [{"role": "developer", "content": "Be brief."}, *OPENAI]}
    assert read_messages(source("openai"), told)[0] == Message("system", "Be brief.")


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "reason", "finding"),
    [
        (talk(), "no turns", "nobody says anything"),
        (talk(("system", "be brief")), "no turns", "nobody says anything"),
        (talk(("assistant", "hi")), "malformed turns", "turn 1 is the assistant's, not the user's"),
        (talk(("user", "a"), ("user", "b"), ("assistant", "c")), "malformed turns", "turn 2 is the user's, not the as"),
        (talk(("user", "a"), ("system", "b"), ("assistant", "c")), "malformed turns", "turn 2 is the system's"),
        (talk(("user", "a"), ("assistant", " \n")), "empty answer", "message 2, the assistant's, is empty"),
        (talk(("user", ""), ("assistant", "b")), "empty question", "message 1, the user's, is empty"),
        (talk(("user", "a"), ("assistant", "b"), ("user", "c")), "no answer", "the user has the last word"),
        (talk(("oracle", "a")), "unknown role", r"messages\[0\].role is 'oracle', not one of system, user"),
        ({"messages": [{"role": "user"}]}, "malformed turns", r"messages\[0\].content is None, not text"),
        ({"messages": "not JSON"}, "no conversation", "neither a list nor JSON"),
        ({"messages": 3}, "no conversation", "holds int, not a list of messages"),
        ({"messages": ["hello"]}, "unknown role", r"messages\[0\].role is None"),
        ({"messages": [{**OPENAI[0], "role": ["user"]}]}, "unknown role", r"role is \['user'\], not one of"),
        ({"messages": "[" * 100_000}, "no conversation", "neither a list nor JSON"),
        (
            {"messages": [OPENAI[0], {**OPENAI[1], "tool_calls": [{"id": "x"}]}]},
            "a call of tools",
            r"messages\[1\] holds tool_calls",
        ),
        ({"messages": [OPENAI[0], {**OPENAI[1], "train": False}]}, "no answer learned", "every answer has weight 0"),
        ({"messages": [{**OPENAI[0], "weight": 0.5}]}, "malformed turns", r"\[0\].weight is 0.5, not 0 or 1"),
        ({"messages": [OPENAI[0], {**OPENAI[1], "weight": 0}]}, "no answer learned", "every answer has weight 0"),
    ],
)
def test_what_is_no_conversation_is_said(row: dict[str, Any], reason: str, finding: str) -> None:
    with pytest.raises(MalformedError, match=finding) as caught:
        read_messages(source("openai"), row)
    assert caught.value.reason == reason


def test_an_empty_answer_in_columns_is_said() -> None:
    with pytest.raises(MalformedError, match="completion is empty"):
        read_messages(source("prompt_completion"), {"prompt": "a", "completion": None})


TREES = ["alder", "birch", "cedar", "dogwood", "elm", "fir", "gum", "hazel", "ivy", "juniper"]
ROWS = [
    {"prompt": f"Tell me of {name}, please.", "completion": f"{name.title()} is a town of {number} houses by a river."}
    for number, name in enumerate(TREES)
]


def recipe_of(tmp_path: Path, rows: list[Any], *words: str) -> Any:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind = f"{{kind: jsonl, path: {tmp_path}/rows.jsonl, conversations: prompt_completion, licence: MIT}}"
    return load_recipe(
        "recipe=smoke",
        f"runs_dir={tmp_path}/runs",
        f"corpus.sources=[{kind}]",
        "corpus.validation_fraction=0.3",
        *words,
    )


def test_a_corpus_holds_conversations_with_what_was_said_as_text(tmp_path: Path) -> None:
    artifact = run(recipe_of(tmp_path, ROWS))
    documents = [document for split in ("train", "validation") for document in read_documents(artifact, split)]
    assert len(documents) == len(ROWS)
    for document in documents:
        asked, said = messages_of(document)
        assert document.text == f"{asked.content}\n\n{said.content}"
        assert {"prompt": asked.content, "completion": said.content} in ROWS


def test_questions_over_one_passage_stay_and_copies_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passage = " ".join(f"word{number}" for number in range(300))
    rows = [{"prompt": f"{passage} How many trees has {name}?", "completion": f"{name} has some."} for name in TREES]
    artifact = run(recipe_of(tmp_path, [*rows, rows[0]]))
    assert artifact.counts["skipped"] == {"duplicate": 1}
    assert "corpus: left out 1 duplicate (samples in dropped.jsonl)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"leaves no \w+ document of 1 \(left out: 9 near duplicate, 1 duplicate\); "):
        run(recipe_of(tmp_path, [*rows, rows[0]], "corpus.duplicates.near_conversations=true", "run=near"))


def test_steps_mend_each_message_and_judge_all_that_is_said(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "Mail me at ann@firm.com.", "completion": "donâ€™t mail bob@firm.com either."}]
    limits = "min_words: 8, min_stop_words: 0, min_alphabetic_words: 0.5, min_mean_word_length: 1"
    words = f"corpus.steps=[{{step: unicode}}, {{step: pii}}, {{step: gopher_quality, {limits}}}]"
    artifact = run(recipe_of(tmp_path, [*rows, {"prompt": "Short?", "completion": "Yes."}], words))
    told = [messages_of(document) for split in ("train", "validation") for document in read_documents(artifact, split)]
    assert len(told) == len(rows)
    asked, said = next(messages for messages in told if "mail" in messages[1].content)
    assert "firm.com" not in asked.content + said.content
    assert said.content.startswith("don’t mail")
    assert artifact.counts["skipped"] == {"gopher_quality/short": 1}


def test_malformed_rows_stop_the_corpus_or_are_counted(tmp_path: Path) -> None:
    rows = [*ROWS, {"prompt": "Why?", "completion": ""}]
    with pytest.raises(UserError, match=r"rows.jsonl:11: completion is empty, so there is nothing to learn; correct"):
        run(recipe_of(tmp_path, rows))
    artifact = run(recipe_of(tmp_path, rows, "corpus.on_bad_text=skip"))
    assert artifact.counts["skipped"] == {"empty answer": 1}


@pytest.mark.parametrize(
    ("section", "finding"),
    [
        ({"steps": [{"step": "c4"}]}, "steps: c4 would cut pieces out of what is said"),
        ({"decontamination": {"action": "cut"}}, "decontamination.action=cut"),
        ({"duplicates": {"paragraphs": True}}, "duplicates.paragraphs=true"),
    ],
    ids=["step", "contamination", "paragraphs"],
)
def test_what_cuts_texts_is_refused(section: dict[str, Any], finding: str) -> None:
    with pytest.raises(ValueError, match=finding):
        CorpusConfig.model_validate({"sources": [source("openai").model_dump()], **section})


@pytest.mark.parametrize(
    ("layout", "columns", "finding"),
    [("openai", ("a", "b"), "lie in one column"), ("alpaca", ("a",), "need a question and an answer")],
)
def test_columns_that_do_not_fit_the_layout_are_refused(layout: str, columns: tuple[str, ...], finding: str) -> None:
    with pytest.raises(ValueError, match=finding):
        source(layout, text_columns=columns)
