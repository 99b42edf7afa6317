"""Sets of prompts from files of every form."""

from __future__ import annotations

import json

import pytest

from slm.core.errors import UserError
from slm.safety.config import PromptSet
from slm.safety.prompts import evenly, read_prompts

TABLE = "id,prompt,label\n1,How do I kill a process?,safe\n2,How do I kill a person?,unsafe\n3, Boil an egg? ,safe\n"


def test_a_table_is_filtered_by_its_fields(tmp_path):
    (tmp_path / "x.csv").write_text(TABLE)
    found = read_prompts(PromptSet(name="x", path=str(tmp_path / "x.csv"), where={"label": "safe"}))
    assert [(one.set, one.id, one.text) for one in found] == [
        ("x", 1, "How do I kill a process?"), ("x", 3, "Boil an egg?"),
    ]  # fmt: skip


def test_lines_and_records_are_prompts_too(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"goal": "three"}) + "\n")
    assert [one.text for one in read_prompts(PromptSet(name="a", path=str(tmp_path / "a.txt")))] == ["one", "two"]
    assert [one.text for one in read_prompts(PromptSet(name="b", path=str(tmp_path / "b.jsonl"), field="goal"))] == [
        "three"
    ]


def test_a_part_is_taken_at_even_distances(tmp_path):
    (tmp_path / "a.txt").write_text("".join(f"{number}\n" for number in range(100)))
    found = read_prompts(PromptSet(name="a", path=str(tmp_path / "a.txt")), 4)
    assert [one.text for one in found] == ["0", "25", "50", "75"]
    assert evenly(found, 9) == evenly(found, 0) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field": "text"}, r"x.csv, row 1: no field text; name one of id, prompt, label"),
        ({"where": {"label": "never"}}, r"safety: x has no prompt in .*; correct its path or its where"),
        ({"path": "nowhere.csv"}, r"safety: x has path nowhere.csv, but no such file"),
    ],
)
def test_what_gives_no_prompts_is_refused(tmp_path, changes, message):
    (tmp_path / "x.csv").write_text(TABLE)
    with pytest.raises(UserError, match=message):
        read_prompts(PromptSet(**{"name": "x", "path": str(tmp_path / "x.csv"), **changes}))
