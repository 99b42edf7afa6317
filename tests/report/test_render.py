from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.gather import Run, finished_artifacts, gather
from slm.report.render import headline, page_sections, render, summary

Make = Callable[..., dict[str, Artifact]]
ALL = ("evaluate", "export", "serve")
VOID = {"meta", "br", "img", "hr", "input", "link"}


class Checked(HTMLParser):
    """Collects what tests ask about, and fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(recipe: Recipe) -> str:
    return render(gather(recipe, finished_artifacts(recipe)))


def test_the_page_shows_the_figures_of_every_stage(recipe: Recipe, make_run: Make) -> None:
    made = make_run(recipe, *ALL)
    words = Checked(page_of(recipe)).words
    for expected in (
        "bits per byte 1.687", "xz -9 all of the text as one stream 1.752", "gzip -9 each document alone 2.121",
        "unigram frequencies of single tokens 4.127",
        "14.7M 600 steps", "2,048 ids; a token of held-out text is 2.66 bytes on average", "PSF-2.0",
        "left out: mostly repeated lines 88", "21,212 rows of 256 tokens", "0.076 %", "GGUF F16 0.0011 0.005",
        "9 of 9 equal, 1 tied", "2 of 3 golden prompts passed", "FAILED", "sampled · 84 tokens at 402/s",
        "llama.cpp (xllamacpp 2026.10.1)", "600 steps of 24,576 tokens with Muon and AdamW, wsd schedule",
        "model-q8_0.gguf",
    ):  # fmt: skip
        assert " ".join(expected.split()) in words, expected
    for artifact in made.values():
        assert artifact.fingerprint[:12] in words


def test_the_page_asks_nobody_for_anything_and_runs_nothing(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe, *ALL)
    page = page_of(recipe)
    checked = Checked(page)
    assert not checked.all("script")
    assert not checked.all("link")
    assert not checked.all("img")
    assert "@import" not in page
    assert "url(http" not in page
    for _, attributes in checked.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "src", "xlink:href"):
                assert (value or "").startswith("#")


def test_text_of_the_model_cannot_become_markup(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe, *ALL)
    page = page_of(recipe)
    assert "&lt;/pre&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&lt;b&gt;&amp;amp;\u2400\u241b[31m?" in page
    assert "\x00" not in page
    assert "\x1b" not in page


def test_headings_tables_and_figures_say_what_they_are(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe, *ALL)
    checked = Checked(page_of(recipe))
    assert len(checked.all("h1")) == 1
    assert [attributes["lang"] for attributes in checked.all("html")] == ["en"]
    assert all(attributes.get("scope") in ("row", "col") for attributes in checked.all("th"))
    assert len(checked.all("figcaption")) == len(checked.all("figure")) == 4
    assert len(checked.all("svg")) == 5  # the loss is drawn twice, for wide screens and for narrow ones
    identities = [attributes["id"] for _, attributes in checked.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    for attributes in checked.all("svg"):
        assert attributes["role"] == "img"
        assert attributes["aria-labelledby"] in identities
    for attributes in checked.all("a"):
        assert (attributes["href"] or "").removeprefix("#") in identities
    for attributes in checked.all("section"):
        assert attributes["aria-labelledby"] in identities


def test_stages_that_were_not_run_are_named(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    words = Checked(page_of(recipe)).words
    assert "Result This stage was not run. Without it there is only the loss" in words
    assert "Files and parity This stage was not run." in words
    assert "Answers This stage was not run." in words
    assert "No golden prompts were checked" in words
    assert "measured while training" in words


def test_a_checkpoint_without_metrics_still_has_a_page(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    (recipe.folder("train") / "metrics.jsonl").unlink()
    words = Checked(page_of(recipe)).words
    assert "no metrics.jsonl beside it, so there are no curves" in words
    assert "No samples were taken" in words


def test_a_stage_made_from_another_checkpoint_is_marked(recipe: Recipe, make_run: Make) -> None:
    old = make_run(recipe, "evaluate")
    (old["train"].path / "manifest.json").unlink()
    for file in old["train"].path.iterdir():
        file.unlink()
    old["train"].path.rmdir()
    other = recipe.model_copy(update={"seed": 5})
    make_run(other.model_copy(update={"run": "other"}))
    trained = other.model_copy(update={"run": "other"}).folder("train") / "step-00000600"
    trained.rename(old["train"].path)
    checked = Checked(page_of(recipe))
    assert "Out of date: this was made from another train than the one of this run. Run slm evaluate" in checked.words
    assert "is now" in checked.words


@pytest.fixture
def whole(recipe: Recipe, make_run: Make) -> Run:
    make_run(recipe, *ALL)
    return gather(recipe, finished_artifacts(recipe))


def test_the_result_comes_first_and_every_section_has_its_own_key(whole: Run) -> None:
    keys = [section.key for section in page_sections(whole)]
    assert keys[:4] == ["result", "tasks", "calibration", "training"]
    assert len(set(keys)) == len(keys)


def test_a_run_is_summed_up_in_a_sentence_and_five_figures(whole: Run) -> None:
    assert summary(whole) == "3.67M parameters, trained on 14.7M tokens of stdlib."
    assert [fact.label for fact in headline(whole)] == [
        "bits per byte", "parameters", "tokens", "training time", "smallest GGUF",
    ]  # fmt: skip
    assert headline(whole)[0].note == "xz\u00a0-9\u00a01.75 · gzip\u00a0-9\u00a02.12 · unigram\u00a04.13"
    assert headline(whole)[4] == ("smallest GGUF", "2.1 MB", "4 files")


def test_the_same_run_gives_the_same_page(whole: Run) -> None:
    assert render(whole) == render(whole)


def test_each_cell_names_its_column_since_narrow_screens_show_no_heads(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe, *ALL)
    content = Checked(page_of(recipe))
    cells = [cell for cell in content.all("td") if cell.get("class") != "bar" and "data-column" in cell]
    assert {"licence", "bytes per token", "padding", "budget"} <= {str(cell["data-column"]) for cell in cells}
    bare = [cell for cell in content.all("td") if "data-column" not in cell]
    assert all(cell["class"] in ("bar", "number") for cell in bare), "only bars, whose rows are short"
    style = content_of_style(page_of(recipe))
    assert "content: attr(data-column)" in style.partition("@media (max-width: 40rem)")[2]


def content_of_style(page: str) -> str:
    return page.partition("<style>")[2].partition("</style>")[0]
