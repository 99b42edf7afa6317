from __future__ import annotations

import pytest

from slm.compose import load_recipe
from slm.core.errors import ProblemsError
from slm.corpus.cleaning.config import C4Step, GopherQualityStep, UnicodeStep
from slm.explain import explain
from slm.recipe import build_recipe, field_of, known_keys


def test_a_list_of_steps_reads_as_it_is_written() -> None:
    recipe = build_recipe({"corpus": {"steps": [{"step": "c4", "min_sentences": 3}, {"step": "gopher_quality"}]}})
    assert recipe.corpus.steps == (C4Step(min_sentences=3), GopherQualityStep())
    assert build_recipe({}).corpus.steps == (UnicodeStep(),)
    assert build_recipe({"corpus": {"steps": []}}).corpus.steps == ()


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        ({"step": "gopher_quality", "min_wordz": 1}, r"min_wordz: no such key; did you mean min_words\?"),
        ({"step": "gopher"}, "corpus.steps.0: .*gopher"),
        ({"step": "language", "keep": ["english"]}, "corpus.steps.0.language.keep.0: .*match pattern"),
        ({"step": "c4", "min_sentences": -1}, "min_sentences: must be greater than or equal to 0"),
        ({"step": "gopher_repetition", "max_top_ngrams": {0: 0.1}}, "max_top_ngrams counts runs of 0 words"),
        ({"step": "quality_score"}, "corpus.steps.0.quality_score.model: field required"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused(step: dict[str, object], sentence: str) -> None:
    with pytest.raises(ProblemsError, match=sentence):
        build_recipe({"corpus": {"steps": [step]}})


def test_steps_of_a_list_are_known_keys_with_a_meaning() -> None:
    assert "corpus.steps.gopher_quality.min_words" in set(known_keys())
    field = field_of("corpus.steps.gopher_quality")
    assert field is not None
    assert "arXiv:2112.11446" in str(field.description)
    assert field_of("corpus.steps.gopher") is None


def test_web_is_a_piece_that_any_recipe_can_take() -> None:
    steps = load_recipe("recipe=smoke", "corpus=web").corpus.steps
    assert [step.step for step in steps] == [
        "unicode", "language", "gopher_repetition", "gopher_quality", "c4", "fineweb_quality", "pii"
    ]  # fmt: skip


def test_a_threshold_is_explained_with_its_value_in_the_recipe() -> None:
    said = explain(["recipe=smoke", "corpus=web", "corpus.steps.gopher_quality.min_words"])
    assert said.startswith("corpus.steps.gopher_quality.min_words = [50]")
    assert "Fewest words" in said
    assert explain(["recipe=smoke", "corpus.steps.gopher_quality.min_words"]).startswith(
        "corpus.steps.gopher_quality.min_words = []"
    )
