"""Tasks scored while training, by the scorer of the evaluate stage: cheap ones, on some of their items.

In: the model at a step and the recipe's `train.tasks`. Out: the share of right choices, or bits per byte, of each task.
Which items are taken does not depend on the step, so a curve over steps is one of the model alone. Files are read when
training is prepared, so that a mistake in them costs no step. 100 items of a task have a standard error of 5 points:
the curve shows a trend, `slm evaluate` gives the number.
"""

from __future__ import annotations

from slm.evaluate.scorer import Scorer
from slm.evaluate.tasks.choice import run_choice
from slm.evaluate.tasks.config import CHOICE, TaskConfig
from slm.evaluate.tasks.held_out_text import run_text
from slm.evaluate.tasks.items import Numbered, few_shot, read
from slm.model.transformer import Transformer
from slm.recipe import Recipe
from slm.tokenizer.tokenizer import Tokenizer
from slm.train.precision import Precision


def check_tasks(recipe: Recipe) -> None:
    """Read the files of all tasks; `UserError` with file and line where one is malformed."""
    _read(recipe)


def task_figures(recipe: Recipe, model: Transformer, tokenizer: Tokenizer, precision: Precision) -> dict[str, float]:
    """The mean of each task's metrics, named `TASK METRIC`; items that do not fit the context are not among them."""
    scorer = Scorer(
        model, tokenizer, recipe.evaluate.batch_tokens, "fp32" if precision == "fp32" else "bf16", shown=False
    )
    figures: dict[str, list[float]] = {}
    for task, items, examples in _read(recipe):
        runner = run_choice if task.layout in CHOICE else run_text
        for result in runner(scorer, task, items, examples).results:
            figures.setdefault(f"{task.name} {result.metric}", []).append(result.value)
    return {name: sum(values) / len(values) for name, values in figures.items()}


def _read(recipe: Recipe) -> list[tuple[TaskConfig, list[Numbered], str]]:
    known = {task.name: task for task in recipe.evaluate.task_files}
    most = recipe.train.task_items
    chosen = [
        known[name].model_copy(update={"max_items": min(most, known[name].max_items or most)})
        for name in recipe.train.tasks
    ]
    return [(task, read(task, None), few_shot(task)) for task in chosen]
