"""Differences on choice tasks, of our models and of another engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import slm.export
from slm.compress import run
from slm.compress.task_costs import EngineScorer, ask, differences, plan_choices
from slm.core.errors import UserError
from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.items_table import Result
from slm.model.load import load_model
from slm.recipe import Recipe
from slm.tokenizer.tokenizer import Tokenizer

Compressing = Callable[..., Recipe]


@pytest.fixture
def asking(compressing: Compressing, tmp_path: Path) -> Callable[..., Recipe]:
    """Recipes that ask a quiz too."""
    items = [
        {"query": f"def return {word} ", "choices": ["None", "lambda : ,", "yield"], "gold": number % 3}
        for number, word in enumerate(("self", "import", "for", "in", "range", "class", "==", "!="))
    ]
    path = tmp_path / "quiz.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")

    def recipe(*variants: dict[str, Any], names: Sequence[str] = ("quiz",), **changes: Any) -> Recipe:
        made = compressing(*variants, **changes)
        tasks = {"task_files": [{"name": "quiz", "layout": "query", "path": str(path)}], "tasks": names}
        evaluate = type(made.evaluate).model_validate(tasks)
        return made.model_copy(update={"evaluate": evaluate})

    return recipe


def test_another_engine_finds_the_same_likelihoods(asking: Callable[..., Recipe]) -> None:
    recipe = asking()
    model = load_model(recipe.artifact("train").path, attention="sdpa").eval()
    tokenizer = Tokenizer.load(recipe.artifact("tokenizer").path)

    def logits(ids: Sequence[int]) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)]))[0].numpy()

    tasks = plan_choices(recipe, recipe.artifact("corpus"))
    ours = ask(tasks, Scorer(model, tokenizer, 512, shown=False))
    theirs = ask(tasks, EngineScorer(model, tokenizer, 1, shown=False, logits=logits))
    assert list(ours) == list(theirs) == [("quiz", "acc"), ("quiz", "acc_bytes")]
    for a, b in zip(ours["quiz", "acc"], theirs["quiz", "acc"], strict=True):
        np.testing.assert_allclose(b.choice_logprobs, a.choice_logprobs, atol=1e-4)
    row = differences(ours, theirs)[0]
    low, high = row["interval_95"]
    assert (row["difference"], row["items"]) == (0, 8)
    assert low <= 0 <= high  # eight equal items do not say that all would be
    with pytest.raises(UserError, match=r"evaluate\.tasks names no multiple-choice task"):
        plan_choices(asking(names=()), recipe.artifact("corpus"))


def test_a_loss_on_items_is_a_negative_difference() -> None:
    def results(values: Sequence[float]) -> dict[tuple[str, str], list[Result]]:
        return {("quiz", "acc"): [Result("quiz", str(n), "acc", value, "p", 1) for n, value in enumerate(values)]}

    row = differences(results([1, 1, 1, 0]), results([1, 0, 1, 0]))[0]
    assert (row["value"], row["difference"]) == (0.5, -0.25)
    low, high = row["interval_95"]
    assert low <= -0.25 <= high


def test_variants_and_files_carry_their_differences(asking: Callable[..., Recipe]) -> None:
    recipe = asking({"name": "int8", "method": "rtn", "bits": 8, "group_size": 0, "symmetric": True}, tasks=True)
    rows = run(recipe).counts["variants"]["int8"]["tasks"]
    assert [(row["task"], row["metric"]) for row in rows] == [("quiz", "acc"), ("quiz", "acc_bytes")]
    settings = {"formats": ("gguf_q8_0",), "prompts": ("def range (",), "quality": {"documents": 2, "tasks": True}}
    export = type(recipe.export).model_validate(settings)
    made = slm.export.run(recipe.model_copy(update={"export": export}))
    assert [row["items"] for row in made.counts["flavours"]["gguf_q8_0"]["tasks"]] == [8, 8]
    assert "quiz" in made.manifest["ingredients"]["inputs"]["tasks"]
