"""The layout of every page, as far as it can be judged without a browser; scripts/check_pages.py looks with one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from slm.core.artifact import Artifact
from slm.evaluate import comparison
from slm.evaluate.statistics.calibration import choices_calibration
from slm.recipe import Recipe
from slm.report.card import make_card
from slm.report.comparison import comparison_page
from slm.report.gather import finished_artifacts, gather
from slm.report.html import FOLDER, STYLE, page
from slm.report.page import Bar, Section, Table, Verdict
from slm.report.render import render
from tests.evaluate.planted import document_rows, item_rows, publish, publish_corpus
from tests.report.conftest import EVALUATION
from tests.report.pages import Checked, flaws
from tests.report.test_card import corpus_of

Make = Callable[..., dict[str, Artifact]]
TEXT_AND_GROUND = 4.5
"""The least contrast of text by WCAG 2.2, 1.4.3."""


def evaluated(folder: Path, shift: float, skill: float) -> Artifact:
    """An evaluation that fills every section about quality."""
    draw = np.random.default_rng(0)
    found = choices_calibration(draw.normal(-5, 3, (200, 4)).tolist(), draw.integers(4, size=200).tolist(), 0)
    results = json.dumps({**EVALUATION, "calibration": {"quiz": found}})
    corpus = publish_corpus(folder / "texts")
    return publish(folder, corpus, document_rows(shift, 1), item_rows(skill, 2), results)


@pytest.fixture
def whole_report(recipe: Recipe, make_run: Make, tmp_path: Path) -> str:
    make_run(recipe, "export", "serve", "compress", "safety")
    evaluated(recipe.folder("evaluate").parent, 0.0, 0.5)
    evaluated(tmp_path / "other", 0.1, 1.5)
    report = recipe.report.model_copy(update={"compare_with": str(tmp_path / "other")})
    compared = recipe.model_copy(update={"report": report})
    return render(gather(compared, finished_artifacts(compared)))


def test_the_report_of_everything_has_no_flaw(whole_report: str) -> None:
    assert flaws(whole_report) == []
    keys = {attributes["id"] for attributes in Checked(whole_report).all("section")}
    assert keys >= {"result", "tasks", "comparison", "errors", "calibration", "safety", "golden", "samples", "answers",
                    "training", "cost", "corpus", "tokenizer", "shards", "model", "compression", "export", "lineage",
                    "reproduce", "environment"}  # fmt: skip


def test_the_comparison_in_the_report_shows_what_got_worse_with_its_texts(whole_report: str) -> None:
    words = Checked(whole_report).words
    section = words[words.index("Beside other A is other, B is this run.") :]
    assert "bits per byte B is better" in section
    assert "A: quiz: acc · quiz/" in section[: section.index("Error analysis")]


def test_a_data_card_has_no_flaw(recipe: Recipe) -> None:
    corpus_of(recipe)
    assert flaws(make_card(recipe).file("card.html").read_text(encoding="utf-8")) == []


def test_a_comparison_has_no_flaw(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path / "a", 0.0, 0.5), evaluated(tmp_path / "b", 0.1, 1.5)
    pairs, only = comparison.pairs_of(a, b)
    assert flaws(comparison_page(a, b, comparison.prospects(pairs), comparison.compare(pairs, only))) == []


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ("h1", "h3", "one h1"), ("h2", "h4", "h1 is followed by h4"), ("</caption>", "</b>", "tags"),
        ('scope="col"', "", "without a scope"), ('tabindex="0"', "", "cannot be reached"),
        ("<main>", "<main><main>", "tags"),
        ('id="one-heading"', 'id="one"', "2 times"), ('href="#one"', 'href="https://x.org"', "asks for"),
    ],
)  # fmt: skip
def test_a_flaw_is_found(good: str, bad: str, told: str) -> None:
    section = Section("one", "One", tables=[Table("Numbers", ("a", "b"), [("c", "1")])])
    sound = page("title", "test", "summary", [], [section])
    assert flaws(sound) == []
    assert good in sound
    try:
        found = flaws(sound.replace(good, bad))
    except AssertionError:
        found = ["tags do not nest"]
    assert any(told in flaw for flaw in found)


def test_sections_without_content_are_gathered_at_the_end() -> None:
    sections = [Section("one", "One", missing="slm one"), Section("two", "Two", bars=[Bar("a", "1", 1.0)])]
    checked = Checked(page("title", "test", "summary", [], sections))
    assert [attributes["id"] for attributes in checked.all("section")] == ["two", "missing"]
    assert "One slm one" in checked.words


def test_a_verdict_is_told_in_a_word_and_not_by_colour_alone() -> None:
    verdicts = [
        Verdict("first", True, "w", "one"),
        Verdict("second", False, "w", "one"),
        Verdict("third", None, "w", "one"),
    ]
    words = Checked(page("title", "test", "summary", [], [Section("one", "One")], verdicts)).words
    assert "yes first w no second w open third w" in words


def test_cells_that_say_what_failed_stand_out() -> None:
    table = Table("T", ("a", "b"), [("x", "FAILED"), ("y", "passed")])
    found = Checked(page("title", "test", "summary", [], [Section("one", "One", tables=[table])]))
    assert [cell.get("class") for cell in found.all("td")] == ["alarm", None]


def palettes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet: on a light screen, on a dark one, on paper."""
    style = (FOLDER / STYLE).read_text(encoding="utf-8")
    found = [dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)]
    return dict(zip(("light", "dark", "print"), found, strict=True))


def luminance(colour: str) -> float:
    """Relative luminance by WCAG 2.2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_says() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_all_text_can_be_read_on_every_ground(scheme: str) -> None:
    colours = palettes()[scheme]
    style = (FOLDER / STYLE).read_text(encoding="utf-8")
    text = {*re.findall(r"[{; ]color: var\(--(\w+)\)", style), "second"}  # the second is of labels in charts
    assert text >= {"ink", "muted", "first", "alarm"}
    for name in text:
        for ground in ("paper", "raised"):
            assert contrast(colours[name], colours[ground]) >= TEXT_AND_GROUND, f"{name} on {ground}"
