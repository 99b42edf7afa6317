from __future__ import annotations

from collections.abc import Callable

import pytest

from slm.core.artifact import Artifact
from slm.recipe import Recipe
from slm.report.gather import Run, finished_artifacts, gather
from slm.report.render import headline, page_sections, render, summary
from tests.report.pages import Checked

Make = Callable[..., dict[str, Artifact]]
ALL = ("evaluate", "export", "serve", "compress", "safety")


def page_of(recipe: Recipe) -> str:
    return render(gather(recipe, finished_artifacts(recipe)))


def test_the_page_shows_the_figures_of_every_stage(recipe: Recipe, make_run: Make) -> None:
    made = make_run(recipe, *ALL)
    words = Checked(page_of(recipe)).words
    for expected in (
        "bits per byte 1.687", "xz -9 all of the text as one stream 1.752", "gzip -9 each document alone 2.121",
        "unigram frequencies of single tokens 4.127",
        "14.7M 600 steps", "2,048 ids; a token of held-out text is 2.66 bytes on average", "PSF-2.0",
        "mostly repeated lines 88", "21,212 rows of 256 tokens", "0.076 %", "GGUF F16 0.0011 0.005",
        "9 of 9 equal, 1 tied", "2 of 3 golden prompts passed", "FAILED",
        "toxic answers 0.05 0.01 to 0.139 60 at most 0.1 BROKEN",
        "int4 1.0 kB +0.0131 [+0.0111, +0.0151]", "no safety 1 of 2 bounds kept",
        "quiz acc 0.410 [0.340, 0.480] 0.250", "sampled · 84 tokens at 402/s",
        "llama.cpp (xllamacpp 2026.10.1)", "600 steps of 24,576 tokens with Muon and AdamW, wsd schedule",
        "model-q8_0.gguf",
    ):  # fmt: skip
        assert " ".join(expected.split()) in words, expected
    for artifact in made.values():
        assert artifact.fingerprint[:12] in words


def test_text_of_the_model_cannot_become_markup(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe, *ALL)
    page = page_of(recipe)
    assert "&lt;/pre&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&lt;b&gt;&amp;amp;\u2400\u241b[31m?" in page
    assert "\x00" not in page
    assert "\x1b" not in page


def test_what_was_not_made_is_left_out_with_the_command_that_makes_it(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    checked = Checked(page_of(recipe))
    keys = {attributes["id"] for attributes in checked.all("section")}
    absent = {"result", "tasks", "comparison", "errors", "calibration", "safety", "golden", "answers", "compression",
              "export", "layers"}  # fmt: skip
    assert not keys & absent
    assert {"training", "cost", "corpus", "tokenizer", "missing"} <= keys
    for line in (
        "Result slm evaluate run=synthetic", "Comparison slm report run=synthetic report.compare_with=runs/OTHER",
        "Compression slm compress run=synthetic compress=ship", "Safety slm safety run=synthetic",
        "Answers slm serve run=synthetic", "Golden prompts slm evaluate run=synthetic evaluate.golden=TABLE",
    ):  # fmt: skip
        assert line in checked.words, line
    assert "measured while training" in checked.words
    assert "Benchmarks" not in checked.words.partition("Not here")[0]


def test_a_checkpoint_without_metrics_still_has_a_page(recipe: Recipe, make_run: Make) -> None:
    make_run(recipe)
    (recipe.folder("train") / "metrics.jsonl").unlink()
    words = Checked(page_of(recipe)).words
    assert "there is a checkpoint but no metrics.jsonl beside it" in words
    assert "Samples slm train run=synthetic 'train.sample_prompts=[PROMPT]'" in words


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
    assert keys[:4] == ["result", "tasks", "comparison", "errors"]
    assert len(set(keys)) == len(keys)


def test_a_run_is_summed_up_in_a_sentence_and_a_few_figures_with_their_intervals(whole: Run) -> None:
    assert summary(whole) == "3.67M parameters, trained on 14.7M tokens of stdlib; published as 4 GGUF files."
    assert [fact.label for fact in headline(whole)] == [
        "bits per byte", "quiz, acc", "hard, acc", "parameters", "tokens", "training time", "smallest GGUF",
    ]  # fmt: skip
    assert headline(whole)[0] == ("bits per byte", "1.687", "95 %: 1.591 to 1.802")
    assert headline(whole)[1] == ("quiz, acc", "0.410", "95 %: 0.340 to 0.480, chance 0.25")
    assert headline(whole)[6] == ("smallest GGUF", "2.1 MB", "Q8_0")


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
