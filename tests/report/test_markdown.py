"""A page's parts as Markdown: everything is there, and nothing in a text becomes markup."""

from __future__ import annotations

import re

from slm.report.markdown import escaped, markdown
from slm.report.page import Bar, Code, Fact, Link, Sample, Section, Table

HOSTILE = "| a [link](x) `code`\n# heading <script>alert(1)</script> & more"


def full() -> Section:
    return Section(
        "all", "Every part", "The lead.", ["A notice."], ["A remark."], [Bar("short", "3", 0.5, "note")], "Bars",
        [Fact("label", "value", "note")], [], [Table("Cells", ("name", "number"), [("one", "1,234"), (HOSTILE, "2")])],
        [[Sample("first", "prompt ", "text with ```` ticks")]], [Link("corpus", "abc", "1 file", "", "/p")],
        [Code("Title", "a: 1")],
    )  # fmt: skip


def test_every_part_is_written() -> None:
    text = markdown("Title", "data card", "Sum.", [Fact("documents", "3")], [full()], images={"all": "plot.png"})
    assert text.startswith("# Title: data card\n\nSum.\n\n- documents: 3\n\n## Every part\n\nThe lead.\n\nA notice.\n")
    for part in (
        "A remark.", "![Every part](plot.png)", "| short note | 3 |", "- label: value (note)", "| name | number |",
        "| --- | ---: |", "| one | 1,234 |", "**first**", "`````\nprompt text with ```` ticks\n`````",
        "- corpus `abc`: 1 file", "**Title**\n\n```\na: 1\n```",
    ):  # fmt: skip
        assert part in text, part


def test_no_text_becomes_markup() -> None:
    line = escaped(HOSTILE)
    assert "\n" not in line
    assert not re.search(r"(?<!\\)[|`<>\[\]#]", line)
    text = markdown(HOSTILE, "data card", HOSTILE, [Fact(HOSTILE, HOSTILE, HOSTILE)], [full()], images={})
    outside = re.sub(r"(?ms)^(`{3,})$.*?^\1$", "", text)
    assert "<script>" not in outside
    rows = [row for row in outside.splitlines() if row.startswith("| ") and "heading" in row]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3]
